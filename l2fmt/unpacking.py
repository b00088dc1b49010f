"""Turn a `.l2c` file back into a file that every tool reads."""

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO

from l2fmt.container import Limits, TensorEntry, atomic_write
from l2fmt.container.writer import is_path
from l2fmt.dtypes import DType, dtype_by_torch_name
from l2fmt.errors import InputError
from l2fmt.store import Store

if TYPE_CHECKING:
    import torch

FORMATS = ("safetensors", "pt")
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_HEADER_ALIGNMENT = 8


def unpack(
    source: Any,
    target: Any,
    *,
    format: str | None = None,
    dtype: "torch.dtype | None" = None,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> None:
    """Decode a model into a safetensors file or a state dict of `torch.save`, atomically.

    Args:
        source: a `.l2c` file, a shard index, a folder with one of them, bytes, or a binary file.
        target: a path or a binary file object.
        format: "safetensors" or "pt"; by default what the extension of the path says, safetensors if nothing.
        dtype: convert floating-point tensors to it.

    Tied weights: safetensors has none, so every name gets a copy and the state dict is complete; "pt" keeps them
    tied. The copies count for `max_decoded_bytes`: a few bytes in the file name a tensor once more. Metadata go into
    the safetensors file, with `format: pt`; a state dict has no place for them. Memory: safetensors takes one tensor,
    "pt" all of them. Raises FormatError kinds, InputError, FileAccessError kinds.
    """
    chosen = format or _format_of(target)
    if chosen not in FORMATS:
        raise InputError(f"there is no format {chosen!r}; the formats are {' and '.join(FORMATS)}")
    if not is_path(target) and not hasattr(target, "write"):
        raise InputError(f"a target must be a path or a binary file, not {type(target)}")
    from l2fmt.memory import TorchFramework

    with Store(source, TorchFramework.of(dtype), limits=limits) as store:
        if chosen == "safetensors":
            total = sum(store.entry(name).nbytes for name in store.names())
            what = "bytes of the tensors, with a copy for each alias"
            (limits or Limits()).check("max_decoded_bytes", total, what)
        sink = atomic_write(target, overwrite=overwrite) if is_path(target) else nullcontext(target)
        with sink as file:
            if chosen == "pt":
                import torch

                torch.save(store.get_all(), file)
            else:
                _write_safetensors(file, store, dtype)


def _format_of(target: Any) -> str:
    pickled = is_path(target) and os.fsdecode(target).lower().endswith(_PICKLED)
    return "pt" if pickled else "safetensors"


def _write_safetensors(file: BinaryIO, store: Store[Any], dtype: "torch.dtype | None") -> None:
    """Write all names of a store, one tensor in memory at a time: the library would need all of them."""
    from l2fmt.torch import as_array

    names = sorted(store.names(), key=lambda name: (-_stored_dtype(store.entry(name), dtype).bits, name))
    file.write(_safetensors_header({name: store.entry(name) for name in names}, dtype, store.metadata))
    for name in names:
        array, _ = as_array(store.get(name), name)
        file.write(array.reshape(-1).view("u1").data)


def _safetensors_header(
    entries: Mapping[str, TensorEntry], dtype: "torch.dtype | None", metadata: dict[str, str]
) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted((metadata | {"format": "pt"}).items()))}
    offset = 0
    for name, entry in entries.items():
        if name in header:
            raise InputError(f"a safetensors file cannot hold a tensor named {name!r}; use format='pt'")
        stored = _stored_dtype(entry, dtype)
        end = offset + entry.size * stored.itemsize
        name_there, shape = _as_safetensors(stored, entry.shape)
        header[name] = {"dtype": name_there, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _as_safetensors(dtype: DType, shape: tuple[int, ...]) -> tuple[str, list[int]]:
    """Return dtype and shape as safetensors has them: it counts packed numbers one by one."""
    return ("F4", [*shape[:-1], 2 * shape[-1]]) if dtype.name == "F4_X2" and shape else (dtype.name, list(shape))


def _stored_dtype(entry: TensorEntry, dtype: "torch.dtype | None") -> DType:
    """Return the dtype of a tensor once unpacked."""
    if dtype is None or not entry.dtype.is_float:
        return entry.dtype
    return dtype_by_torch_name(str(dtype).removeprefix("torch."))
