"""Decoding of interleaved rANS without vector instructions, on any processor."""

from typing import Any

import numpy as np
from numba.extending import overload

from l2codec.kernels._compiler import kernel

LOW_STATE = np.uint64(1 << 16)


def fields(slots: Any, table: Any, slot: Any, bits: Any) -> tuple[Any, Any, Any]:
    """Return (symbol, count, slot - start), uint64, of a slot of `TableSet.rans_slots`."""
    raise NotImplementedError("only kernels call this")


@overload(fields)
def _fields(slots, table, slot, bits):
    def of_compact(slots, table, slot, bits):
        entry = np.uint64(slots[table << bits | slot])
        count = (entry >> np.uint64(20)) + np.uint64(1)
        return entry & np.uint64(0xFF), count, (entry >> np.uint64(8)) & np.uint64(0xFFF)

    def of_wide(slots, table, slot, bits):
        symbol = np.uint64(slots[table, slot])
        at = (np.uint64(1) << bits) + np.uint64(2) * symbol
        return symbol, np.uint64(slots[table, at + np.uint64(1)]), slot - np.uint64(slots[table, at])

    return of_compact if slots.ndim == 1 else of_wide


@kernel
def rans_decode_plain(words, position, states, slots, classes, bits, out):
    """Decode `out.size` symbols from word `position` on; return the position after them, or -1 for a word too many."""
    bits = np.uint64(bits)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    word = np.uint64(position)
    n_words = np.uint64(words.size)
    lanes = np.uint64(states.size)
    count = np.uint64(out.size)
    several = classes.size > 0
    i = np.uint64(0)
    # Rows of symbols, one a lane, for as long as the words suffice whatever the states are: no checks, no branches.
    while i + lanes <= count and word + lanes <= n_words:
        for lane in range(lanes):
            x = np.uint64(states[lane])
            table = np.uint64(classes[i]) if several else np.uint64(0)
            symbol, frequency, offset = fields(slots, table, x & mask, bits)
            x = frequency * (x >> bits) + offset
            renew = np.uint64(x < LOW_STATE)  # arithmetic, as a branch would be mispredicted
            x = (x << (renew << np.uint64(4))) | (np.uint64(words[word]) & (np.uint64(0) - renew))
            word += renew
            states[lane] = np.uint32(x)
            out[i] = symbol
            i += np.uint64(1)
    # The rest of the block, with a check of every word.
    lane = np.uint64(0)
    while i < count:
        x = np.uint64(states[lane])
        table = np.uint64(classes[i]) if several else np.uint64(0)
        symbol, frequency, offset = fields(slots, table, x & mask, bits)
        x = frequency * (x >> bits) + offset
        if x < LOW_STATE:
            if word >= n_words:
                return np.int64(-1)
            x = (x << np.uint64(16)) | np.uint64(words[word])
            word += np.uint64(1)
        states[lane] = np.uint32(x)
        out[i] = symbol
        i += np.uint64(1)
        lane += np.uint64(1)
        if lane == lanes:
            lane = np.uint64(0)
    return np.int64(word)


@kernel
def rans_decode_four_plain(words, at, states, slots, search, classes, bits, out):
    """Decode four streams, as `rans_decode_plain` does each.

    `at`, int64[4, 4], has for each in `words` the position and the end, of which the first is updated, and in `out`
    the beginning and the end; `states` and `classes` have a row for each. `search` is not needed here.
    """
    for n in range(4):
        some = out[at[2, n] : at[3, n]]
        part = classes[n, : min(some.size, classes.shape[1])]
        at[0, n] = rans_decode_plain(words[: at[1, n]], at[0, n], states[n], slots, part, bits, some)
