"""Resume points of the streams of a file: find them, and check those that it has (spec/container.md 8)."""

import numpy as np

import l2codec
from l2codec import CodecError
from l2fmt._registry import RANS
from l2fmt.container import Reader, ResumePoints, parse_resume
from l2fmt.container.entries import Stream
from l2fmt.container.sections import RESUME, count_points
from l2fmt.errors import CorruptFileError, InputError
from l2fmt.pipeline.classes import read_vectors

_LEAST_INTERVAL = 8


def check_interval(interval: int) -> None:
    """Raise InputError unless streams may have resume points every `interval` symbols of a lane."""
    if not isinstance(interval, int) or interval < _LEAST_INTERVAL:
        raise InputError(f"the resume interval is at least {_LEAST_INTERVAL} symbols of a lane, not {interval}")


def interval_of(stream: Stream, interval: int) -> int:
    """Return how many symbols of a stream lie between its resume points, of which each lane has `interval`.

    What lies between them is decoded by itself, in a time that goes by the symbols of a lane: streams of few lanes need
    points as often.
    """
    return interval << stream.lane_bits


def find_resume(reader: Reader, interval: int) -> list[ResumePoints]:
    """Decode every rANS stream whose lanes have blocks longer than `interval` symbols; return its resume points.

    Raises InputError for an interval that is too short, CorruptFileError naming the tensor.
    """
    check_interval(interval)
    return [
        ResumePoints(number, place, every, *_find_points(reader, number, place, every))
        for number, group in enumerate(reader.index.groups)
        for place, stream in enumerate(group.streams)
        if stream.coder == RANS and count_points(group, stream, every := interval_of(stream, interval))
    ]


def check_resume(reader: Reader) -> int:
    """Decode every stream that has resume points and compare; return how many points there are.

    Raises CorruptFileError naming the tensor whose points a decoder must not start from.
    """
    section = reader.section(RESUME)
    if section is None:
        return 0
    total = 0
    for record in parse_resume(reader.read_section(section), reader.index):
        found = _find_points(reader, record.group, record.stream, record.interval)
        if not all(map(np.array_equal, found, (record.positions, record.states))):
            where = f"section {RESUME!r}, {reader.index.groups[record.group].label}, stream {record.stream}"
            raise CorruptFileError(f"{where}: a resume point is not where the stream passes")
        total += len(record.positions)
    return total


def _find_points(reader: Reader, number: int, place: int, interval: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the word positions and the states at the resume points of a stream of a group."""
    group = reader.index.groups[number]
    stream = group.streams[place]
    data = reader.read_group(number)
    try:
        points = l2codec.resume_points(
            data.streams[place],
            group.symbols,
            reader.table_sets[stream.table_set],
            read_vectors(reader, group, data).maps[place],
            lanes=1 << stream.lane_bits,
            block_bits=stream.block_bits,
            interval=interval,
        )
    except CodecError as error:
        raise CorruptFileError(f"{group.label}: {error}") from error
    return points[:, 0], points[:, 1:]
