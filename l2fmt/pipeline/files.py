"""Write a model to its file or files: one `.l2c`, or shards with an index (spec/container.md 10)."""

import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2fmt.container.atomic import atomic_write, check_target, sync_folder
from l2fmt.container.shards import INDEX_SUFFIX, plan_shards, shard_index_bytes, shard_names
from l2fmt.container.sources import translate_os_errors
from l2fmt.container.writer import Writer, is_path
from l2fmt.errors import InputError
from l2fmt.pipeline.encode import Encoding, write_model
from l2fmt.pipeline.tensors import PlainTensor, QuantizedTensor

_NO_PATH = "shards need a path to be written beside, not a file object"


@dataclass(frozen=True)
class Size:
    """Bytes of all files of a model, and what its quantized tensors and their tables have of them."""

    file_bytes: int
    weight_bytes: int


class CountingFile(io.RawIOBase):
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
    name: str = "model.l2c",
    progress: Callable[[float], None] | None = None,
) -> Size:
    """Write tensors to a path, a binary file object, or nowhere (None: counted as if to `name`) and return the size.

    With `max_shard_bytes`, tensors of more bytes than that in all are split: NAME.l2c becomes NAME-00001-of-0000N.l2c
    ... and NAME.l2c.index.json, which appear together. Raises InputError for shards into a file object, and what
    `Writer` raises.
    """
    shards = _shards([t.size * t.dtype.itemsize for t in tensors], max_shard_bytes)
    if len(shards) == 1:
        return _write_one(target, tensors, aliases, metadata, encoding, overwrite, progress)[0]
    if target is not None and not is_path(target):
        raise InputError(_NO_PATH)
    _check_names([tensor.name for tensor in tensors], aliases)
    path = Path(name if target is None else os.fsdecode(target))
    *names, index = _file_names(path, len(shards))
    sizes, weight_map, checksums = [], {}, {}
    with nullcontext() if target is None else _replacing(path, [*names, index], overwrite) as folder:
        for done, (file, numbers) in enumerate(zip(names, shards, strict=True)):
            if progress is not None:
                progress(done / len(shards))
            members = [tensors[i] for i in numbers]
            held = {t.name for t in members}
            own = {alias: name for alias, name in aliases.items() if name in held}
            size, checksums[file] = _write_one(folder and folder / file, members, own, metadata, encoding, overwrite)
            sizes.append(size)
            weight_map |= dict.fromkeys([*held, *own], file)
        content = shard_index_bytes(weight_map, sum(t.size * t.dtype.itemsize for t in tensors), checksums)
        if folder is not None:
            with atomic_write(folder / index) as file:
                file.write(content)
    return Size(len(content) + sum(size.file_bytes for size in sizes), sum(size.weight_bytes for size in sizes))


def check_targets(target: Any, nbytes: Sequence[int], max_shard_bytes: int | None, *, overwrite: bool) -> None:
    """Raise what `write_files` would say of a target for tensors of so many bytes each, before there are any.

    None stands for one file object here.
    """
    shards = _shards(nbytes, max_shard_bytes)
    if is_path(target):
        path = Path(os.fsdecode(target))
        for name in [path.name, *(_file_names(path, len(shards)) if len(shards) > 1 else ())]:
            check_target(path.with_name(name), overwrite=overwrite)
    elif target is not None and not hasattr(target, "write"):
        raise InputError(f"a target must be a path, a binary file or None, not {type(target)}")
    elif len(shards) > 1:
        raise InputError(_NO_PATH)


def _shards(nbytes: Sequence[int], max_shard_bytes: int | None) -> list[list[int]]:
    """Return the numbers of the tensors, of so many bytes each, in each file."""
    if max_shard_bytes is None or not nbytes:
        return [list(range(len(nbytes)))]
    planned = plan_shards({str(number): size for number, size in enumerate(nbytes)}, max_shard_bytes)
    return [[int(number) for number in shard] for shard in planned]


def _file_names(path: Path, shards: int) -> list[str]:
    """Return the names of the shards of a path, and of their index, the last."""
    stem = path.name.removesuffix(".l2c")
    return [*shard_names(stem, shards), stem + INDEX_SUFFIX]


def _check_names(names: Sequence[str], aliases: Mapping[str, str]) -> None:
    """Raise InputError for what no shard sees by itself: names that are in two of them, aliases of nothing."""
    held = set(names)
    if len(held) < len(names):
        raise InputError(f"there are two tensors {Counter(names).most_common(1)[0][0]!r}")
    for alias, name in aliases.items():
        if alias in held:
            raise InputError(f"alias {alias!r} is the name of a tensor")
        if name not in held:
            raise InputError(f"alias {alias!r} names {name!r}, which is not a tensor")


@contextmanager
def _replacing(path: Path, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write files to; they move beside `path` together, when all are complete. The last is the index.

    A single file `path` is then removed: it would be taken for the model.
    """
    for name in [path.name, *names]:
        check_target(path.with_name(name), overwrite=overwrite)
    with (
        translate_os_errors(path, "write", (OSError,)),
        tempfile.TemporaryDirectory(prefix=".l2fmt-", dir=path.parent) as folder,
    ):
        yield Path(folder)
        # The old index goes first, the new one comes last: at no moment are old and new shards a model.
        with ExitStack() as undo:
            for name in [names[-1], *names[:-1]]:
                if path.with_name(name).exists():
                    _move(path.with_name(name), Path(folder, f"old-{name}"), undo)
            for name in names:
                _move(Path(folder, name), path.with_name(name), undo)
            path.unlink(missing_ok=True)
            undo.pop_all()
        sync_folder(path.parent)


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    os.replace(source, target)
    undo.callback(os.replace, target, source)


def _write_one(
    target: Any,
    tensors: Sequence[QuantizedTensor | PlainTensor],
    aliases: Mapping[str, str],
    metadata: Mapping[str, str],
    encoding: Encoding | None,
    overwrite: bool,
    progress: Callable[[float], None] | None = None,
) -> tuple[Size, int]:
    """Write one file; return its size and what an index of shards knows it by."""
    counter = None if is_path(target) else CountingFile(target)
    with Writer(target if counter is None else counter, metadata=metadata, overwrite=overwrite) as writer:
        for alias, name in aliases.items():
            writer.add_alias(alias, name)
        weight_bytes = write_model(writer, tensors, encoding, progress)
    size = os.path.getsize(target) if counter is None else counter.count
    return Size(size, weight_bytes), writer.content_checksum
