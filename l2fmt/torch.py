"""Load and save tensors of PyTorch, under the names and signatures of `safetensors.torch`.

Tensors that are tied, that is the same memory, are stored once and are the same object again when loaded. Tensors
that only overlap are stored as independent copies.
"""

import io
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from l2fmt import cuda
from l2fmt.container import Limits
from l2fmt.dtypes import DType, dtype_by_torch_name
from l2fmt.errors import InputError, UnsupportedError
from l2fmt.inputs.tensors import TensorMapping, identity
from l2fmt.memory import TorchFramework, bytes_of
from l2fmt.numpy import NUMPY_NAMES, NumpyFramework, as_bytes, own_metadata
from l2fmt.pipeline import Encoding, PlainTensor, write_files
from l2fmt.store import LazyFile, Store, alias_names

__all__ = ["load", "load_file", "load_model", "safe_open", "save", "save_file", "save_model"]

Path = str | os.PathLike[str]
Device = str | int | torch.device
TORCH_NAMES = ("pt", "torch", "pytorch")


def load_file(
    filename: Path,
    device: Device = "cpu",
    *,
    dtype: torch.dtype | None = None,
    limits: Limits | None = None,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """Load all tensors of a model: a `.l2c` file, a `.l2c.index.json`, or a folder that holds one of them.

    Args:
        device: "cpu", or a CUDA device such as "cuda" or "cuda:1", which then decodes: the compressed bytes go to it.
        dtype: convert floating-point tensors to it.
        limits: what the file may take, by default up to the machine's memory.
        threads: how many decode, by default `torch.get_num_threads()`; the tensors do not depend on it.

    Checksums are always verified. Memory: the decoded tensors, and for each thread the bytes of a tensor as stored; on
    a GPU the decoded tensors and some 100 MB, or twice the stored bytes of a tensor if it is larger. Raises
    CorruptFileError naming the tensor, LimitExceededError, UnsupportedError, FileAccessError kinds, MemoryError; for a
    GPU UnsupportedError if there is none, MissingDependencyError without CuPy.
    """
    with _open(filename, device, dtype, limits, threads) as store:
        return store.get_all()


def load(
    data: bytes, *, dtype: torch.dtype | None = None, limits: Limits | None = None, threads: int | None = None
) -> dict[str, Tensor]:
    """Load all tensors from the bytes of a file; otherwise as `load_file`."""
    with _open(as_bytes(data), "cpu", dtype, limits, threads) as store:
        return store.get_all()


class safe_open(LazyFile[Any]):
    """Open a model, decoding nothing yet: `LazyFile` says what it offers, `load_file` explains the arguments.

    A context manager. `framework` is "pt" for tensors or "np" for arrays (see `l2fmt.numpy`).
    """

    def __init__(
        self,
        filename: Path,
        framework: str = "pt",
        device: Device = "cpu",
        *,
        dtype: Any = None,
        limits: Limits | None = None,
        threads: int | None = None,
    ):
        if framework in TORCH_NAMES:
            super().__init__(_open(filename, device, dtype, limits, threads))
            return
        if framework not in NUMPY_NAMES:
            raise InputError(f"there is no framework {framework!r}; the frameworks are 'pt' and 'np'")
        if _place(device) is not None:
            raise InputError(f"arrays of NumPy are in the CPU's memory, not on device {str(device)!r}")
        super().__init__(Store(filename, NumpyFramework.of(dtype), limits=limits, threads=threads))


def load_model(
    model: nn.Module,
    filename: Path,
    strict: bool = True,
    device: Device | None = None,
    *,
    limits: Limits | None = None,
    threads: int | None = None,
) -> tuple[list[str], list[str]]:
    """Load a file into a module and return the names (missing, unexpected); the module keeps its dtypes and devices.

    `device` decodes: by default the CUDA device on which the whole module is, else the CPU.
    Everything is decoded and checked before the module is touched. A name that is tied to one in the file is not
    missing, nor is a batch norm's `num_batches_tracked`, which torch does not ask for either. `limits` and `threads`
    are those of `load_file`. Raises InputError for a tensor of another shape, for a module on the meta device and, if
    `strict`, for missing and unexpected names; otherwise as `load_file`.
    """
    own = model.state_dict()
    if empty := [name for name, value in own.items() if isinstance(value, Tensor) and value.is_meta]:
        raise InputError(
            f"the {type(model).__name__} is on the meta device, which holds nothing ({_listing(empty)}): "
            "call model.to_empty(device=...) before"
        )
    chosen = _device_of(own) if device is None else device
    tensors = load_file(filename, chosen, limits=limits, threads=threads)
    origin = f"{os.fsdecode(filename)} does not fit the {type(model).__name__}"
    for name, tensor in tensors.items():
        if _is_real(mine := own.get(name)) and mine.shape != tensor.shape:
            found, needed = list(tensor.shape), list(mine.shape)
            raise InputError(f"tensor {name!r} has shape {found} in the file and {needed} in the module")
    tied = alias_names({name: identity(t) if _is_real(t) and t.numel() else None for name, t in own.items()})
    loaded = {tied.get(name, name) for name in tensors}
    optional = set(_batch_counters(model))
    missing = [n for n in own if n not in tensors and tied.get(n, n) not in loaded and n not in optional]
    unexpected = [name for name in tensors if name not in own]
    if strict and (missing or unexpected):
        problems = {"missing": missing, "unexpected": unexpected}
        parts = [f"{what} {_listing(names)}" for what, names in problems.items() if names]
        raise InputError(f"{origin}: {'; '.join(parts)}")
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"{origin}: {error}") from error
    return missing, unexpected


def _device_of(state: Mapping[str, Any]) -> torch.device:
    """Return the CUDA device that all tensors of a module are on, else that of the CPU."""
    devices = {value.device for value in state.values() if _is_real(value)}
    return devices.pop() if len(devices) == 1 and next(iter(devices)).type == "cuda" else torch.device("cpu")


def _batch_counters(model: nn.Module) -> Iterator[str]:
    """Yield the names of counters that older checkpoints lack: `load_state_dict` leaves them as they are."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            yield f"{name}.num_batches_tracked" if name else "num_batches_tracked"


def save_file(
    tensors: Mapping[str, Tensor],
    filename: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    max_shard_bytes: int | None = None,
    overwrite: bool = True,
    device: Device = "cpu",
) -> None:
    """Save tensors without loss, atomically; `l2fmt.pack` makes them smaller.

    Keys of `metadata` that begin with "l2fmt." say how a file was made and are left out. `max_shard_bytes` splits
    larger models into shards with an index. `device` encodes, the CPU or a CUDA device; the files are the same. Raises
    InputError naming the tensor, FileAccessError kinds, and for a GPU what `load_file` raises.
    """
    place = _place(device)
    encoding = Encoding(device=None if place is None else place.open())
    plain, aliases = _plain_tensors(tensors)
    own = own_metadata(metadata)
    write_files(filename, plain, aliases, own, encoding, max_shard_bytes=max_shard_bytes, overwrite=overwrite)


def save(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a file that holds the tensors without loss; otherwise as `save_file`."""
    plain, aliases = _plain_tensors(tensors)
    buffer = io.BytesIO()
    write_files(buffer, plain, aliases, own_metadata(metadata))
    return buffer.getvalue()


def save_model(model: nn.Module, filename: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Save the state of a module without loss, tied weights once; otherwise as `save_file`."""
    save_file(model.state_dict(), filename, metadata)


def _open(
    source: Any, device: Device, dtype: torch.dtype | None, limits: Limits | None, threads: int | None
) -> Store[Tensor]:
    """Open a model whose tensors are made on a device."""
    framework, place = TorchFramework.of(dtype), _place(device)
    if place is None:
        return Store(source, framework, limits=limits, threads=threads)
    return cuda.DeviceStore(source, framework, place, limits=limits, threads=threads)


def _place(device: Device) -> cuda.Place | None:
    """Return a device of the caller as one that decodes, None for the CPU; raise UnsupportedError or InputError."""
    try:
        chosen = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown to torch; use 'cpu' or 'cuda'") from error
    if chosen.type == "cuda":
        return cuda.gpu(chosen)
    if chosen.type != "cpu":
        raise UnsupportedError(f"device {str(device)!r}: load with device='cpu' and move the tensors")
    return None


def as_array(tensor: Tensor, name: str) -> tuple[np.ndarray, DType]:
    """Return a dense CPU tensor as an array of the format's dtype that shares its memory if it is contiguous.

    Raises InputError for a dtype that the format lacks.
    """
    try:
        dtype = dtype_by_torch_name(str(tensor.dtype).removeprefix("torch."))
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None
    return bytes_of(tensor.detach().contiguous()).view(dtype.numpy).reshape(tuple(tensor.shape)), dtype


def _plain_tensors(tensors: Mapping[str, Tensor]) -> tuple[list[PlainTensor], dict[str, str]]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"tensor {name!r} is a {type(tensor).__name__}; it must be a torch.Tensor")
    if not tensors:
        return [], {}
    source = TensorMapping(tensors, "the model to save")
    aliases = source.aliases()
    plain = []
    for name in source.names():
        if name not in aliases:
            _, dtype = as_array(torch.empty(0, dtype=tensors[name].dtype, device="cpu"), name)
            shape = tuple(tensors[name].shape)
            plain.append(PlainTensor(name, dtype, shape, lambda name=name: as_array(source.get(name), name)[0]))
    return plain, aliases


def _is_real(value: Any) -> TypeGuard[Tensor]:
    """Whether an entry of a state dict is a tensor with memory: no extra state, not lazy, not on the meta device."""
    return isinstance(value, Tensor) and not nn.parameter.is_lazy(value) and not value.is_meta


def _listing(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
