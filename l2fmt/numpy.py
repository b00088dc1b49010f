"""Load and save tensors as NumPy arrays, under the names that safetensors uses. Works without torch.

NumPy has no bfloat16 and no 8-bit floats: these are returned as their bits, uint16 and uint8
(`safe_open(...).dtype(name)` tells them apart, and `array.view(ml_dtypes.bfloat16)` makes numbers of them). Arrays of
ml_dtypes are saved as what they are.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from l2fmt.container import Limits, TensorEntry
from l2fmt.dtypes import DType, dtype_of
from l2fmt.errors import InputError, UnsupportedError
from l2fmt.pipeline import PlainTensor, write_files
from l2fmt.store import LazyFile, Store, alias_names
from l2fmt.transforms import to_float32

__all__ = ["load", "load_file", "safe_open", "save", "save_file"]

Path = str | os.PathLike[str]
RESERVED = "l2fmt."  # metadata keys that say how a file was made


def load_file(
    filename: Path, *, dtype: npt.DTypeLike | None = None, limits: Limits | None = None, threads: int | None = None
) -> dict[str, np.ndarray]:
    """Load all tensors of a model: a `.l2c` file, a `.l2c.index.json`, or a folder that holds one of them.

    `dtype`, one of float16, float32, float64, converts floating-point tensors. `threads` is how many decode, by default
    one for each processor that this process may use; the arrays do not depend on it. Raises FormatError kinds,
    FileAccessError.
    """
    with Store(filename, NumpyFramework.of(dtype), limits=limits, threads=threads) as store:
        return store.get_all()


def load(
    data: bytes, *, dtype: npt.DTypeLike | None = None, limits: Limits | None = None, threads: int | None = None
) -> dict[str, np.ndarray]:
    """Load all tensors from the bytes of a file; otherwise as `load_file`."""
    with Store(as_bytes(data), NumpyFramework.of(dtype), limits=limits, threads=threads) as store:
        return store.get_all()


class safe_open(LazyFile[np.ndarray]):
    """Open a model, decoding nothing yet: `LazyFile` says what it offers, `load_file` explains the arguments."""

    def __init__(
        self,
        filename: Path,
        framework: str = "np",
        *,
        dtype: npt.DTypeLike | None = None,
        limits: Limits | None = None,
        threads: int | None = None,
    ):
        if framework not in NUMPY_NAMES:
            raise InputError(f"framework {framework!r} is not numpy; use l2fmt.torch.safe_open for torch")
        super().__init__(Store(filename, NumpyFramework.of(dtype), limits=limits, threads=threads))


def save_file(
    tensors: Mapping[str, np.ndarray],
    filename: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    max_shard_bytes: int | None = None,
    overwrite: bool = True,
) -> None:
    """Save arrays without loss, atomically.

    Arrays that are the same memory are stored once. Keys of `metadata` that begin with "l2fmt." say how a file was
    made and are left out. `max_shard_bytes` splits larger models into shards with an index. Raises InputError naming
    the tensor, FileAccessError kinds.
    """
    plain, aliases = _plain_tensors(tensors)
    write_files(filename, plain, aliases, own_metadata(metadata), max_shard_bytes=max_shard_bytes, overwrite=overwrite)


def save(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a file that holds the arrays without loss; otherwise as `save_file`."""
    plain, aliases = _plain_tensors(tensors)
    buffer = io.BytesIO()
    write_files(buffer, plain, aliases, own_metadata(metadata))
    return buffer.getvalue()


NUMPY_NAMES = ("np", "numpy")


@dataclass(frozen=True)
class NumpyFramework:
    """Makes arrays; with `dtype` floating-point tensors are converted to it."""

    dtype: np.dtype | None = None

    @classmethod
    def of(cls, dtype: npt.DTypeLike | None) -> "NumpyFramework":
        """Return the framework for a dtype of the caller; raise InputError if it is no float."""
        if dtype is None:
            return cls()
        try:
            wanted = np.dtype(dtype)
        except TypeError as error:
            raise InputError(f"dtype {dtype!r} is no NumPy dtype; allowed are float16, float32 and float64") from error
        if wanted.name not in ("float16", "float32", "float64"):
            raise InputError(f"dtype {wanted} is not one of float16, float32 and float64")
        return cls(wanted)

    def threads(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def allocate(self, entry: TensorEntry) -> tuple[np.ndarray, np.ndarray]:
        words = np.empty(entry.size * entry.dtype.words, entry.dtype.word)
        return words.view(entry.dtype.numpy).reshape(entry.shape), words

    def finish(self, tensor: np.ndarray, entry: TensorEntry) -> np.ndarray:
        if self.dtype is None or not entry.dtype.is_float:
            return tensor
        if entry.dtype.name == "BF16":
            tensor = to_float32(tensor, entry.dtype)
        elif entry.dtype.bits == 8:
            raise UnsupportedError(
                f"tensor {entry.name!r} is {entry.dtype}, which NumPy cannot convert to {self.dtype}; "
                "load it without dtype"
            )
        with np.errstate(over="ignore"):
            return tensor.astype(self.dtype, copy=False)

    def part(self, tensor: np.ndarray, index: Any) -> np.ndarray:
        return np.array(tensor[index])


def own_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return metadata without the keys that say how another file was made."""
    return {key: value for key, value in (metadata or {}).items() if not str(key).startswith(RESERVED)}


def _plain_tensors(tensors: Mapping[str, np.ndarray]) -> tuple[list[PlainTensor], dict[str, str]]:
    dtypes = {name: _dtype_of(name, array) for name, array in tensors.items()}
    aliases = alias_names({name: _identity(array) for name, array in tensors.items()})
    plain = [
        PlainTensor(name, dtypes[name], array.shape, lambda array=array, dtype=dtypes[name]: _elements(array, dtype))
        for name, array in tensors.items()
        if name not in aliases
    ]
    return plain, aliases


def _dtype_of(name: str, array: object) -> DType:
    if not isinstance(array, np.ndarray | np.generic):
        raise InputError(f"tensor {name!r} is a {type(array).__name__}; it must be a NumPy array")
    try:
        return dtype_of(np.asarray(array))
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None


def _elements(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Return the elements as little-endian `dtype.numpy`, those of ml_dtypes as bits."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # of a 0-dimensional array, too
    return array.astype(dtype.numpy, copy=False) if array.dtype.kind in "biufc" else array.view(dtype.numpy)


def _identity(array: np.ndarray) -> object | None:
    """Return what two arrays share only if they are the same elements in the same memory."""
    interface = array.__array_interface__
    return (interface["data"][0], array.dtype, array.shape, array.strides) if array.size else None


def as_bytes(data: object) -> object:
    """Refuse paths: `load` takes the content of a file."""
    if isinstance(data, str | os.PathLike):
        raise InputError(f"load takes the bytes of a file, not {data!r}; use load_file")
    return data
