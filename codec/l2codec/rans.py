"""Coder `rans`: interleaved range asymmetric numeral systems (spec/entropy-coding.md 6)."""

import numpy as np

from l2codec.blocks import Classes, kernel_input, select
from l2codec.errors import CorruptStreamError, ImpossibleSymbolError
from l2codec.tables import TableSet

INITIAL_STATE = 1 << 16


def encode_block(symbols: np.ndarray, tables: TableSet, classes: Classes, lanes: int) -> bytes:
    """Encode one block: the states of the lanes, then the words."""
    from l2codec import _numba

    lookup, classes = select(tables.intervals, len(tables), classes)
    states = np.full(lanes, INITIAL_STATE, np.uint32)
    words = np.empty(symbols.size, np.uint16)  # a symbol of at most 14 bits puts out at most one word
    first = _numba.rans_encode(symbols, classes, lookup, tables.alphabet, tables.probability_bits, states, words)
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
    states = np.frombuffer(block[: 4 * lanes].tobytes(), "<u4").astype(np.uint32)
    check_states(states)
    return states, kernel_input(block[4 * lanes :].view("<u2"), np.uint16)


def decode_part(
    words: np.ndarray, position: int, states: np.ndarray, tables: TableSet, classes: Classes, out: np.ndarray
) -> int:
    """Decode `out.size` symbols that begin with lane 0 at word `position`; update `states`, return the new position."""
    from l2codec import _numba

    lookup, classes = select(tables.slots, len(tables), classes)
    position = _numba.rans_decode(words, position, states, lookup, classes, tables.probability_bits, out)
    if position < 0:
        raise CorruptStreamError("the words end before the symbols")
    return position


def check_states(states: np.ndarray) -> None:
    if int(states.min()) < INITIAL_STATE:
        raise CorruptStreamError(f"the state of lane {int(states.argmin())} is {int(states.min())}, below 2**16")


def check_end(states: np.ndarray, words_left: int) -> None:
    """Raise CorruptStreamError unless all lanes are back in their initial state and all words are read."""
    if words_left:
        raise CorruptStreamError(f"{words_left} words are left after the last symbol")
    if wrong := np.flatnonzero(states != INITIAL_STATE).tolist():
        raise CorruptStreamError(f"lane {wrong[0]} ends in state {states[wrong[0]]} instead of 2**16")

