"""A block of rANS, or two, in one call: classes, symbols and values of a few thousand symbols at a time.

What passes from one step to the next stays in the processor's nearest cache: `symbols` and `classes` are scratch.
"""

import numpy as np

from l2codec.kernels._compiler import kernel
from l2codec.kernels.classes import fill_classes
from l2codec.kernels.rans_decode import rans_decode, rans_decode_two
from l2codec.kernels.values import write_values


@kernel
def rans_symbols(words, states, slots, bits, start, row, ends, column, position, pattern, class_layout, classes, out):
    """Decode the block that begins with symbol `start` of its sequence; return the words read, -1 for one too many."""
    at = np.int64(0)
    step = max(classes.size, 1)
    for first in range(0, out.size, step):
        size = min(step, out.size - first)
        part = classes[:size]
        fill_classes(start + first, row, ends, column, position, pattern, class_layout, part)
        at = rans_decode(words, at, states, slots, part, bits, out[first : first + size])
        if at < 0:
            break
    return at


@kernel
def rans_values(
    words, states, slots, bits, start, row, ends, column, position, pattern, class_layout, classes,
    symbols, layout, codes, floats, rows, columns, out,
):  # fmt: skip
    """As `rans_symbols`, with `write_values` applied; `classes` is empty if all symbols have class 0."""
    at = np.int64(0)
    for first in range(0, out.size, symbols.size):
        size = min(symbols.size, out.size - first)
        some = symbols[:size]
        part = classes[: min(size, classes.size)]
        fill_classes(start + first, row, ends, column, position, pattern, class_layout, part)
        at = rans_decode(words, at, states, slots, part, bits, some)
        if at < 0:
            break
        write_values(some, start + first, layout, codes, floats, rows, columns, out[first : first + size])
    return at


@kernel
def rans_symbols_of_two(words, states, words2, states2, slots, no_classes, bits, out, out2, ends):
    """Decode two blocks of one table; `ends`, int64[2], gets the words read of each, -1 for one too many."""
    rans_decode_two(words, 0, states, out, words2, 0, states2, out2, slots, no_classes, bits, ends)


@kernel
def rans_values_of_two(
    words, states, words2, states2, slots, no_classes, bits,
    start, symbols, layout, codes, floats, rows, columns, out, out2, ends,
):  # fmt: skip
    """As `rans_symbols_of_two`, with `write_values` applied.

    The first block begins with symbol `start`, the second, which is no longer, where it ends.
    """
    half = symbols.size // 2
    at, at2 = np.int64(0), np.int64(0)
    for first in range(0, out.size, half):
        some = symbols[: min(half, out.size - first)]
        begin, end = min(first, out2.size), min(first + half, out2.size)
        others = symbols[half : half + end - begin]
        rans_decode_two(words, at, states, some, words2, at2, states2, others, slots, no_classes, bits, ends)
        at, at2 = ends[0], ends[1]
        if at < 0 or at2 < 0:
            break
        write_values(some, start + first, layout, codes, floats, rows, columns, out[first : first + some.size])
        write_values(others, start + out.size + begin, layout, codes, floats, rows, columns, out2[begin:end])
