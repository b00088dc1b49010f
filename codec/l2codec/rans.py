"""Coder `rans`: interleaved range asymmetric numeral systems, and its resume points (spec/entropy-coding.md 6)."""

from typing import Any

import numpy as np

from l2codec._arguments import Buffer, check_arguments, check_data
from l2codec.blocks import Classes, boundaries, kernel_input, select, symbol_dtype
from l2codec.compiled import Kernel
from l2codec.errors import CodecError, CorruptStreamError, ImpossibleSymbolError
from l2codec.model import ClassMap, iter_classes
from l2codec.processor import chosen_kernel
from l2codec.tables import TableSet

_rans_encode = Kernel("rans_encode", "rans_encode")
_rans_encode_avx512 = Kernel("rans_encode_avx512", "rans_encode_avx512")
_rans_decode = Kernel("rans_decode", "rans_decode")

INITIAL_STATE = 1 << 16

_TOO_SHORT = "the words end before the symbols"
_STATE, _WORD = np.dtype("<u4"), np.dtype("<u2")


def encode_block(symbols: np.ndarray, tables: TableSet, classes: Classes, lanes: int) -> bytes:
    """Encode one block: the states of the lanes, then the words."""
    lookup, classes = select(tables.intervals, len(tables), classes)
    states = np.full(lanes, INITIAL_STATE, np.uint32)
    # A symbol of at most 14 bits puts out at most one word; vectors of 16 lanes need room before the first one.
    words = np.empty(16 + symbols.size, np.uint16)
    by_vectors = lanes >= 16 and chosen_kernel() == "avx512"
    encode = _rans_encode_avx512 if by_vectors else _rans_encode
    first = int(encode(symbols, classes, lookup, tables.alphabet, tables.probability_bits, states, words))
    if first < 0:
        raise ImpossibleSymbolError.at(symbols, -1 - first)
    return states.astype("<u4").tobytes() + words[first:].astype("<u2").tobytes()


def decode_block(block: np.ndarray, tables: TableSet, classes: Classes, lanes: int, out: np.ndarray) -> None:
    """Decode one block to fill `out`."""
    states, words = split_block(block, lanes)
    position = decode_part(words, 0, states, tables, classes, out)
    check_end(states, words.size - position)


def split_block(block: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (states uint32[lanes], words uint16) of a block; the states are a copy."""
    if block.size < 4 * lanes or block.size % 2:
        raise CorruptStreamError(f"{block.size} bytes are not {lanes} states of 4 bytes and words of 2")
    states = block[: 4 * lanes].view(_STATE).astype(np.uint32)
    check_states(states)
    return states, kernel_input(block[4 * lanes :].view(_WORD), np.uint16)


def decode_part(
    words: np.ndarray, position: int, states: np.ndarray, tables: TableSet, classes: Classes, out: np.ndarray
) -> int:
    """Decode `out.size` symbols that begin with lane 0 at word `position`; update `states`, return the new position."""
    lookup, classes = select(tables.rans_slots, len(tables), classes)
    end: Any = _rans_decode(words, position, states, lookup, classes, tables.probability_bits, out)
    if end < 0:
        raise CorruptStreamError(_TOO_SHORT)
    return end


def check_states(states: np.ndarray) -> None:
    if int(states.min()) < INITIAL_STATE:
        raise CorruptStreamError(f"the state of lane {int(states.argmin())} is {int(states.min())}, below 2**16")


def check_end(states: np.ndarray, words_left: int) -> None:
    """Raise CorruptStreamError unless all lanes are back in their initial state and all words are read."""
    if words_left:
        raise CorruptStreamError(f"{words_left} words are left after the last symbol")
    if (wrong := states != INITIAL_STATE).any():
        lane = int(wrong.argmax())
        raise CorruptStreamError(f"lane {lane} ends in state {states[lane]} instead of 2**16")


# Resume points: one for each of `interval, 2 * interval, ...` symbols within each block, block after block.


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
    data = check_data(data)
    bounds = boundaries(data, count, block_bits)
    points = np.empty((count_points(count, block_bits, interval), 1 + lanes), np.uint32)
    buffer = np.empty(min(interval, 1 << block_bits, count), symbol_dtype(tables.alphabet))
    at = 0
    for number, (start, stop, part) in enumerate(iter_classes(classes, count, 1 << block_bits)):
        try:
            states, words = split_block(data[bounds[number] : bounds[number + 1]], lanes)
            position = 0
            for first in range(0, stop - start, interval):
                if first:
                    points[at, 0], points[at, 1:] = position, states
                    at += 1
                size = min(interval, stop - start - first)
                symbols = buffer[:size]
                position = decode_part(words, position, states, tables, _part(part, first, size), symbols)
            check_end(states, words.size - position)
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

    `points` is as `resume_points` gives it; `start` is the start of a block or a multiple of `interval` from it. The
    segment ends at the next resume point or with the block, and what it must find there is checked. Raises
    CorruptStreamError.
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
    # The number of the point at `first`, where there is one.
    before = number * count_points(1 << block_bits, block_bits, interval) + first // interval - 1
    data = check_data(data)
    bounds = boundaries(data, count, block_bits)
    part = classes.slice(start, start - first + stop) if isinstance(classes, ClassMap) else classes
    out = np.empty(stop - first, symbol_dtype(tables.alphabet))
    try:
        states, words = split_block(data[bounds[number] : bounds[number + 1]], lanes)
        position = 0
        if first:
            position, states = int(points[before, 0]), points[before, 1:].copy()
            check_states(states)
            if position > words.size:
                raise CorruptStreamError(f"a resume point lies at word {position} of {words.size}")
        position = decode_part(words, position, states, tables, part, out)
        if stop == length:
            check_end(states, words.size - position)
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
