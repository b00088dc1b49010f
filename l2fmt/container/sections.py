"""Optional sections: the resume points of rANS streams (spec/container.md 8), and copies with other sections."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2fmt._registry import RANS
from l2fmt.container.entries import Group, Stream
from l2fmt.container.index import Index
from l2fmt.container.limits import Limits
from l2fmt.container.reader import Reader
from l2fmt.container.rules import MAX_U32, check_integer
from l2fmt.container.writer import Writer
from l2fmt.errors import CorruptFileError

RESUME = "resume"
_HEAD = struct.Struct("<IIII")
_MIN_STATE = 1 << 16


@dataclass(frozen=True)
class ResumePoints:
    """Where decoding of a stream may start: after every `interval` symbols of each block.

    `positions` is uint32[count], words read before each point; `states` is uint32[count, lanes].
    """

    group: int
    stream: int
    interval: int
    positions: np.ndarray
    states: np.ndarray


def build_resume(records: Sequence[ResumePoints]) -> bytes:
    """Return the bytes of a `resume` section; records are put in ascending (group, stream) order."""
    parts = []
    for record in sorted(records, key=lambda record: (record.group, record.stream)):
        points = np.column_stack([record.positions, record.states]).astype("<u4")
        parts += [_HEAD.pack(record.group, record.stream, record.interval, len(points)), points.tobytes()]
    return b"".join(parts)


def parse_resume(data: bytes, index: Index) -> list[ResumePoints]:
    """Parse a `resume` section of the file with that index; raise CorruptFileError for anything it must not hold."""
    records: list[ResumePoints] = []
    position, before = 0, (-1, -1)
    while position < len(data):
        if len(data) - position < _HEAD.size:
            raise CorruptFileError(f"section {RESUME!r} ends within a record, at byte {position}")
        number, stream_number, interval, count = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        if (number, stream_number) <= before:
            raise CorruptFileError(f"section {RESUME!r}: group {number}, stream {stream_number} is out of order")
        before = (number, stream_number)
        check_integer(number, 0, len(index.groups) - 1, f"section {RESUME!r}: group")
        group = index.groups[number]
        check_integer(stream_number, 0, len(group.streams) - 1, f"section {RESUME!r}, {group.label}: stream")
        stream = group.streams[stream_number]
        where = f"section {RESUME!r}, {group.label}, stream {stream_number}"
        if stream.coder != RANS:
            raise CorruptFileError(f"{where}: the coder is {stream.coder}; only rans streams have resume points")
        lanes = 1 << stream.lane_bits
        check_integer(interval, lanes, MAX_U32, f"{where}: interval")
        if interval % lanes:
            raise CorruptFileError(f"{where}: the interval {interval} is no multiple of the {lanes} lanes")
        expected = count_points(group, stream, interval)
        if count != expected or len(data) - position < count * (1 + lanes) * 4:
            raise CorruptFileError(f"{where}: {count} points in {len(data) - position} bytes; there must be {expected}")
        points = np.frombuffer(data, "<u4", count * (1 + lanes), position).reshape(count, 1 + lanes)
        position += points.nbytes
        if (points[:, 1:] < _MIN_STATE).any():
            raise CorruptFileError(f"{where}: a state is below 2^16")
        records.append(ResumePoints(number, stream_number, interval, points[:, 0], points[:, 1:]))
    return records


def count_points(group: Group, stream: Stream, interval: int) -> int:
    """Return how many resume points a stream has: those that lie inside a block."""
    blocks, rest = divmod(group.symbols, 1 << stream.block_bits)
    return blocks * (((1 << stream.block_bits) - 1) // interval) + max(rest - 1, 0) // interval


def strip(source: Any, target: Any, *, overwrite: bool = False, limits: Limits | None = None) -> bytes | None:
    """Copy a file without its optional sections; groups keep their bytes. Return the bytes if `target` is None."""
    with Reader(source, limits=limits) as reader:
        return copy(reader, target, {}, overwrite=overwrite)


def copy(reader: Reader, target: Any, sections: Mapping[str, bytes], *, overwrite: bool = False) -> bytes | None:
    """Copy an open file with other optional sections, by kind; groups keep their bytes. What is returned is as above.

    Raises what `Writer` raises, and CorruptFileError for a group that is damaged.
    """
    index = reader.index
    with Writer(target, metadata=index.metadata, overwrite=overwrite) as writer:
        for number, entry in enumerate(index.table_sets):
            writer.add_table_set(entry, for_classes=number == index.class_set)
        for number, group in enumerate(index.groups):
            data = reader.read_group(number)
            writer.add_group(
                [(tensor.name, tensor.dtype, tensor.shape) for tensor in group.tensors],
                group.transform,
                group.parameters,
                group.scales,
                list(zip(group.streams, data.streams, strict=True)),
                data.row_scales,
                data.column_scales,
                data.class_bytes,
            )
        for alias, name in index.aliases.items():
            writer.add_alias(alias, name)
        for kind, content in sections.items():
            writer.add_section(kind, content)
        writer.order(tensor.name for tensor in index.tensors)
    return writer.getvalue() if target is None else None
