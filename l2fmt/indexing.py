"""Add resume points to files, or take them away: what lets a stream be decoded from many places at once."""

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from l2fmt.container import Limits, Reader, build_resume
from l2fmt.container.opening import open_readers, shard_index_path
from l2fmt.container.sections import RESUME, copy
from l2fmt.container.writer import is_path
from l2fmt.errors import InputError
from l2fmt.pipeline import find_resume
from l2fmt.pipeline.files import CountingFile

INTERVAL = 1 << 12  # symbols of a lane: of a stream of 2 bits a symbol points are 0.4 % in 32 lanes, 0.8 % in one
_SCHEMA = 1


@dataclass(frozen=True)
class IndexResult:
    """What `index` did: bytes of all files of the model before and after, and how many resume points it has now.

    `data` is the file if it was written nowhere.
    """

    bytes_before: int
    file_bytes: int
    points: int
    data: bytes | None = None

    @property
    def added_bytes(self) -> int:
        """Bytes that the model has more than before, negative if less."""
        return self.file_bytes - self.bytes_before

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: schema, file_bytes, added_bytes, points; there may be more later."""
        sizes = {"file_bytes": self.file_bytes, "added_bytes": self.added_bytes}
        return {"schema": _SCHEMA, **sizes, "points": self.points}


def index(
    source: Any,
    target: Any = None,
    *,
    interval: int = INTERVAL,
    strip: bool = False,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> IndexResult:
    """Give a model resume points in place of those it may have; all else keeps its bytes, and tensors are the same.

    Args:
        source: a `.l2c` file, a shard index, a folder with one of them, bytes, or a binary file.
        target: a path or a binary file object. None: a path is replaced, atomically, by what it holds now, shards one
            after the other; of any other source the file is in `IndexResult.data`.
        interval: symbols of each lane of a stream from a point to the next, at least 8. What lies between two points is
            decoded in a time that goes by it. Only `rans` streams have points.
        strip: take the points away instead.

    Decodes every stream with points once, and so finds damage. Raises FormatError kinds, InputError,
    TargetExistsError and other FileAccessError kinds.
    """
    shards = shard_index_path(source)
    if target is not None and shards is not None:
        raise InputError(f"{shards} is the index of several files, which get resume points in place, without a target")
    with ExitStack() as stack:
        readers = [stack.enter_context(reader) for reader in open_readers(source, limits)]
        if target is None and is_path(source) and os.fspath(source) != "-":
            done = [_index_file(reader, reader.name, interval, strip, overwrite=True) for reader in readers]
            unchanged = 0 if shards is None else os.path.getsize(shards)
            before, after, points = map(sum, zip(*done, strict=True))
            return IndexResult(unchanged + before, unchanged + after, points)
        sink = io.BytesIO() if target is None else target
        done = _index_file(readers[0], sink, interval, strip, overwrite)
        return IndexResult(*done, data=sink.getvalue() if target is None else None)


def _index_file(reader: Reader, target: Any, interval: int, strip: bool, overwrite: bool) -> tuple[int, int, int]:
    """Write one file; return its bytes before and after, and its resume points."""
    _ = reader.table_sets, reader.class_tables  # a file with others is refused, not written again
    records = [] if strip else find_resume(reader, interval)
    kept = {section.kind: reader.read_section(section) for section in reader.index.sections if section.kind != RESUME}
    counter = None if is_path(target) else CountingFile(target)
    sections = kept | ({RESUME: build_resume(records)} if records else {})
    copy(reader, target if counter is None else counter, sections, overwrite=overwrite)
    size = os.path.getsize(target) if counter is None else counter.count
    return reader.header.file_length, size, sum(len(record.positions) for record in records)
