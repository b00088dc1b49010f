"""Write a model to its file or files: one `.l2c`, or shards with an index (spec/container.md 10)."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2fmt.container.shards import INDEX_SUFFIX, plan_shards, shard_names, write_shard_index
from l2fmt.container.writer import Writer, is_path
from l2fmt.errors import InputError
from l2fmt.pipeline.encode import Encoding, write_model
from l2fmt.pipeline.tensors import PlainTensor, QuantizedTensor


@dataclass(frozen=True)
class Size:
    """Bytes of all files of a model, and what its quantized tensors and their tables have of them."""

    file_bytes: int
    weight_bytes: int


class _Counter(io.RawIOBase):
    """Counts what is written, and passes it on to a binary file object if there is one."""

    def __init__(self, inner: Any = None):
        self.count, self._inner = 0, inner

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        if self._inner is not None:
            view = memoryview(data).cast("B")
            while view:  # a raw file object may take less than it is given
                written = self._inner.write(view)
                view = view[len(view) if written is None else written :]
        self.count += length
        return length


def write_files(
    target: Any,
    tensors: Sequence[QuantizedTensor | PlainTensor],
    aliases: Mapping[str, str],
    metadata: Mapping[str, str],
    encoding: Encoding | None = None,
    *,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
) -> Size:
    """Write tensors to a path, a binary file object, or nowhere (None: the size is counted) and return the size.

    With `max_shard_bytes`, tensors of more bytes than that in all are split: NAME.l2c becomes NAME-00001-of-0000N.l2c
    ... and NAME.l2c.index.json, which is written last. Raises InputError for shards into a file object, and what
    `Writer` raises.
    """
    shards = [list(range(len(tensors)))]
    if max_shard_bytes is not None:
        sizes = {str(i): t.size * t.dtype.itemsize for i, t in enumerate(tensors)}
        shards = [[int(i) for i in shard] for shard in plan_shards(sizes, max_shard_bytes)] or shards
    if len(shards) == 1:
        return _write_one(target, tensors, aliases, metadata, encoding, overwrite)
    if target is not None and not is_path(target):
        raise InputError("shards need a path to be written beside, not a file object")
    path = None if target is None else Path(os.fsdecode(target))
    stem = "model" if path is None else path.name.removesuffix(".l2c")
    names = shard_names(stem, len(shards))
    weight_map, file_bytes, weight_bytes = {}, 0, 0
    for file, numbers in zip(names, shards, strict=True):
        members = [tensors[i] for i in numbers]
        held = {t.name for t in members}
        own = {alias: name for alias, name in aliases.items() if name in held}
        size = _write_one(None if path is None else path.with_name(file), members, own, metadata, encoding, overwrite)
        file_bytes += size.file_bytes
        weight_bytes += size.weight_bytes
        weight_map |= dict.fromkeys([*held, *own], file)
    total = sum(t.size * t.dtype.itemsize for t in tensors)
    index = None if path is None else path.with_name(stem + INDEX_SUFFIX)
    if index is not None:
        write_shard_index(index, weight_map, total, overwrite=overwrite)
        file_bytes += os.path.getsize(index)
    else:
        file_bytes += 64 + sum(len(name.encode()) + len(file) + 12 for name, file in weight_map.items())
    return Size(file_bytes, weight_bytes)


def _write_one(
    target: Any,
    tensors: Sequence[QuantizedTensor | PlainTensor],
    aliases: Mapping[str, str],
    metadata: Mapping[str, str],
    encoding: Encoding | None,
    overwrite: bool,
) -> Size:
    counter = None if is_path(target) else _Counter(target)
    with Writer(target if counter is None else counter, metadata=metadata, overwrite=overwrite) as writer:
        for alias, name in aliases.items():
            writer.add_alias(alias, name)
        weight_bytes = write_model(writer, tensors, encoding)
    return Size(os.path.getsize(target) if counter is None else counter.count, weight_bytes)
