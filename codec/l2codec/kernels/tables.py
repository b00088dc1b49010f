"""Frequency tables, laid out for decoding by slot (spec/entropy-coding.md 2)."""

from typing import Any

import numpy as np
from numba.extending import overload

from l2codec.kernels._compiler import kernel


@kernel
def fill_slots(counts, slots):
    """Write the entry of each slot of all tables, as `TableSet.slots` (uint64) or `rans_slots` (uint32) has them.

    The counts of each table, uint16[tables, alphabet], sum to its number of slots.
    """
    at = np.uint64(0)
    for table in range(counts.shape[0]):
        for symbol in range(counts.shape[1]):
            count = np.uint64(counts[table, symbol])
            for offset in range(count):
                slots[at + offset] = _entry(np.uint64(symbol), count, np.uint64(offset), slots)
            at += count


def _entry(symbol: Any, count: Any, offset: Any, slots: Any) -> Any:
    """Return the entry of a slot, of the type that `slots` has."""


@overload(_entry)
def _entry_of_type(symbol, count, offset, slots):
    if slots.dtype.bitwidth == 32:
        return lambda symbol, count, offset, slots: np.uint32(
            symbol | offset << np.uint64(8) | (count - np.uint64(1)) << np.uint64(20)
        )
    return lambda symbol, count, offset, slots: symbol | count << np.uint64(16) | offset << np.uint64(32)
