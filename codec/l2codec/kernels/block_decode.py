"""A run of blocks of rANS in one call: their checks, classes, symbols and values, some thousand symbols at a time.

Four blocks are decoded at once. What passes from one step to the next stays in near caches. Scratch is `states`,
uint32[4, lanes], `at`, int64[4, 4], `classes`, uint8[4, symbols of a step] or [4, 0] if all symbols have one class,
and `symbols`, four times those of a step.

`words` are those of a stream, its data as uint16; block `b` of the run lies at the bytes `bounds[b]` to
`bounds[b + 1]` of it and has `block_size` symbols, the last one what is left of `out`.
"""

import numpy as np

from l2codec.kernels._compiler import kernel
from l2codec.kernels.classes import fill_classes
from l2codec.kernels.rans_decode import rans_decode_four
from l2codec.kernels.values import write_values

INITIAL_STATE = np.uint32(1 << 16)
FOUR = 4


@kernel
def rans_symbols(
    words, bounds, slots, search, bits, start, block_size, row, row_ends, column, position, pattern, class_layout,
    states, at, classes, symbols, out,
):  # fmt: skip
    """Decode blocks, the first of which begins with symbol `start`; return whether none is corrupt.

    Nothing is written to `symbols`.
    """
    maps, step = (row, row_ends, column, position, pattern, class_layout), symbols.size // FOUR
    for block in range(0, bounds.size - 1, FOUR):
        if not _begin(words, bounds, block, states, at):
            return False
        for first in range(0, block_size, step):
            for n in range(FOUR):
                begin, size = _part(block + n, block_size, first, step, out)
                at[2, n], at[3, n] = begin, begin + size
                fill_classes(start + begin, *maps, classes[n, : min(size, classes.shape[1])])
            rans_decode_four(words, at, states, slots, search, classes, bits, out)
            if min(min(at[0, 0], at[0, 1]), min(at[0, 2], at[0, 3])) < 0:
                return False
        if not _are_whole(states, at):
            return False
    return True


@kernel
def rans_values(
    words, bounds, slots, search, bits, start, block_size, row, row_ends, column, position, pattern, class_layout,
    states, at, classes, symbols, layout, codes, floats, rows, columns, out,
):  # fmt: skip
    """As `rans_symbols`, with `write_values` applied."""
    maps, step = (row, row_ends, column, position, pattern, class_layout), symbols.size // FOUR
    for block in range(0, bounds.size - 1, FOUR):
        if not _begin(words, bounds, block, states, at):
            return False
        for first in range(0, block_size, step):
            for n in range(FOUR):
                begin, size = _part(block + n, block_size, first, step, out)
                at[2, n], at[3, n] = n * step, n * step + size
                fill_classes(start + begin, *maps, classes[n, : min(size, classes.shape[1])])
            rans_decode_four(words, at, states, slots, search, classes, bits, symbols)
            if min(min(at[0, 0], at[0, 1]), min(at[0, 2], at[0, 3])) < 0:
                return False
            for n in range(FOUR):
                begin, size = _part(block + n, block_size, first, step, out)
                some, to = symbols[n * step : n * step + size], out[begin : begin + size]
                write_values(some, start + begin, layout, codes, floats, rows, columns, to)
        if not _are_whole(states, at):
            return False
    return True


@kernel
def _begin(words, bounds, block, states, at):
    """Read the states of up to four blocks; return whether they and the lengths of the blocks are valid.

    `at[0]` and `at[1]` get where the words of each begin and end; a block that there is not has none, and is whole.
    """
    lanes, valid = states.shape[1], True
    for n in range(FOUR):
        if block + n >= bounds.size - 1:
            states[n, :] = INITIAL_STATE
            at[0, n], at[1, n] = 0, 0
            continue
        first, end = bounds[block + n], bounds[block + n + 1]
        if (first | end) & 1 or end - first < 4 * lanes or end > 2 * words.size:
            return False
        at[0, n], at[1, n] = first // 2 + 2 * lanes, end // 2
        for lane in range(lanes):
            word = np.uint64(first // 2 + 2 * lane)
            states[n, lane] = np.uint32(words[word]) | np.uint32(words[word + np.uint64(1)]) << np.uint32(16)
            valid &= states[n, lane] >= INITIAL_STATE
    return valid


@kernel
def _part(block, block_size, first, step, out):
    """Return where in `out` the symbols of a block from number `first` of it on begin, and how many make up a step."""
    begin = min(block * block_size + first, out.size)
    return begin, min(block * block_size + min(first + step, block_size), out.size) - begin


@kernel
def _are_whole(states, at):
    """Return whether all lanes are back in their initial state and all words are read."""
    whole = True
    for n in range(FOUR):
        whole &= at[0, n] == at[1, n]
        for lane in range(states.shape[1]):
            whole &= states[n, lane] == INITIAL_STATE
    return whole
