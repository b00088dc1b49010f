"""Resume points of `rans` streams: where a decoder may start within a block (spec/entropy-coding.md 6.1).

A stream has one point for each of `interval, 2 * interval, ...` symbols within each block, block after block.
"""

import numpy as np

from l2codec import rans
from l2codec.blocks import Classes, split, symbol_dtype
from l2codec.coding import Buffer, check_arguments, check_data
from l2codec.errors import CodecError, CorruptStreamError
from l2codec.model import ClassMap, iter_classes
from l2codec.tables import TableSet


def count_points(count: int, block_bits: int, interval: int) -> int:
    """Return how many resume points a stream of `count` symbols has."""
    whole, rest = divmod(count, 1 << block_bits)
    return whole * (((1 << block_bits) - 1) // interval) + max(rest - 1, 0) // interval


def resume_points(
    data: Buffer,
    count: int,
    tables: TableSet,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    interval: int,
) -> np.ndarray:
    """Decode a stream and return its resume points, uint32[points, 1 + lanes]: the words read, then the states.

    `interval` is in symbols, a multiple of `lanes`. Raises CorruptStreamError if the stream is corrupt.
    """
    check_arguments("rans", tables, classes, count, lanes, block_bits, None)
    _check_interval(interval, lanes)
    blocks = split(check_data(data), count, block_bits)
    points = np.empty((count_points(count, block_bits, interval), 1 + lanes), np.uint32)
    buffer = np.empty(min(interval, 1 << block_bits, count), symbol_dtype(tables.alphabet))
    at = 0
    for number, (start, stop, part) in enumerate(iter_classes(classes, count, 1 << block_bits)):
        try:
            states, words = rans.split_block(blocks[number], lanes)
            position = 0
            for first in range(0, stop - start, interval):
                if first:
                    points[at, 0], points[at, 1:] = position, states
                    at += 1
                size = min(interval, stop - start - first)
                symbols = buffer[:size]
                position = rans.decode_part(words, position, states, tables, _part(part, first, size), symbols)
            rans.check_end(states, words.size - position)
        except CorruptStreamError as error:
            raise CorruptStreamError(f"block {number}: {error}") from None
    return points


def decode_segment(
    data: Buffer,
    count: int,
    tables: TableSet,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    interval: int,
    points: np.ndarray,
    start: int,
) -> np.ndarray:
    """Decode the segment that begins at symbol `start` of a stream, by means of its resume points.

    `points` is as `resume_points` gives it; `start` is the start of a block or a multiple of `interval` from it. The segment ends at
    the next resume point or with the block, and what it must find there is checked. Raises CorruptStreamError.
    """
    check_arguments("rans", tables, classes, count, lanes, block_bits, None)
    _check_interval(interval, lanes)
    expected = (count_points(count, block_bits, interval), 1 + lanes)
    if points.dtype != np.uint32 or points.shape != expected:
        raise CodecError(f"the resume points must be uint32{list(expected)}, not {points.dtype}{list(points.shape)}")
    number, first = divmod(start, 1 << block_bits)
    if not 0 <= start < count or first % interval:
        raise CodecError(f"no segment of a stream of {count} symbols starts at {start}")
    length = min(1 << block_bits, count - (start - first))
    stop = min(first + interval, length)
    before = number * count_points(1 << block_bits, block_bits, interval) + first // interval - 1  # the point at `first`
    block = split(check_data(data), count, block_bits)[number]
    part = classes.slice(start, start - first + stop) if isinstance(classes, ClassMap) else classes
    out = np.empty(stop - first, symbol_dtype(tables.alphabet))
    try:
        states, words = rans.split_block(block, lanes)
        position = 0
        if first:
            position, states = int(points[before, 0]), points[before, 1:].copy()
            rans.check_states(states)
            if position > words.size:
                raise CorruptStreamError(f"a resume point lies at word {position} of {words.size}")
        position = rans.decode_part(words, position, states, tables, part, out)
        if stop == length:
            rans.check_end(states, words.size - position)
        elif position != points[before + 1, 0] or not np.array_equal(states, points[before + 1, 1:]):
            raise CorruptStreamError(f"the segment to symbol {stop} does not end in its resume point")
    except CorruptStreamError as error:
        raise CorruptStreamError(f"block {number}: {error}") from None
    return out


def _part(classes: Classes, first: int, size: int) -> Classes:
    return classes[first : first + size] if isinstance(classes, np.ndarray) else classes


def _check_interval(interval: int, lanes: int) -> None:
    if interval <= 0 or interval % lanes:
        raise CodecError(f"the interval must be a positive multiple of {lanes} lanes, not {interval}")
