"""What symbols stand for, written to words (spec/transforms.md 1, 2)."""

import numpy as np
from numba import types
from numba.extending import overload

from l2codec.kernels._compiler import kernel
from l2codec.kernels.look_up import look_up, look_up_scaled

ZERO, ONE = np.uint64(0), np.uint64(1)
FEW = 2  # rows of fewer symbols than one in so many of the codebook are not worth a table of their own


@kernel
def write_values(symbols, first, layout, words, floats, rows, columns, out):
    """Write the values of symbols, the first of which is number `first` of its sequence.

    `layout`, int64[6], is columns, positions, the number of bits that symbols are shifted by, whether these bits are
    joined to those of `out`, whether words of 16 bits are bfloat16, and the first of 64 symbols that are likely.

    `words` holds the word of each symbol. With `floats`, a value is `floats[symbol] * rows[r] * columns[k]`, without
    the scales that are empty, `words` is scratch, and both have 64 items or more. Without both, words are shifted
    symbols.
    """
    if floats.size > 0:
        _write_scaled(symbols, first, layout, words, floats, rows, columns, out)
    elif words.size > 0:
        look_up(symbols, words, layout[5], out)
    elif layout[3]:
        for i in range(np.uint64(symbols.size)):
            out[i] |= _shifted(symbols[i], layout[2], out)
    else:
        for i in range(np.uint64(symbols.size)):
            out[i] = _shifted(symbols[i], layout[2], out)


@kernel
def _write_scaled(symbols, first, layout, words, floats, rows, columns, out):
    size, positions = np.uint64(symbols.size), np.uint64(layout[1])
    length = np.uint64(layout[0]) * positions
    brain, fused = layout[4], out.itemsize == 4 and (columns.size == 0 or positions == ONE)
    r, at = np.uint64(first) // length, np.uint64(first) % length
    i, filled = ZERO, False
    while i < size:
        stop = min(size, i + length - at)
        scale = rows[r] if rows.size > 0 else np.float32(1)
        if fused:
            _look_up_scaled(symbols[i:stop], floats, layout[5], scale, columns, at, out[i:stop])
        elif columns.size > 0 or stop - i < np.uint64(floats.size // FEW):
            _scale_each(symbols[i:stop], at, positions, brain, floats, scale, columns, out[i:stop])
        else:
            if rows.size > 0 or not filled:
                for symbol in range(np.uint64(floats.size)):
                    words[symbol] = _word(floats[symbol] * scale, brain, out)
                filled = True
            look_up(symbols[i:stop], words, layout[5], out[i:stop])
        i, r, at = stop, r + ONE, ZERO


def _look_up_scaled(symbols, floats, window, scale, columns, at, out):
    """Write float32 of a row, times its scale and those of columns from number `at` on, if there are any."""


@overload(_look_up_scaled)
def _look_up_scaled_of_width(symbols, floats, window, scale, columns, at, out):
    if out.dtype != types.uint32:
        return lambda symbols, floats, window, scale, columns, at, out: None

    def scaled(symbols, floats, window, scale, columns, at, out):
        words = floats.view(np.uint32)
        if columns.size > 0:
            look_up_scaled(symbols, words, window, scale, columns[at : at + np.uint64(symbols.size)], out)
        else:
            look_up_scaled(symbols, words, window, scale, None, out)

    return scaled


@kernel
def _scale_each(symbols, at, positions, brain, floats, scale, columns, out):
    """Write the values of symbols, the first of which is number `at` of its row, whose scale is given."""
    size = np.uint64(symbols.size)
    if columns.size == 0:
        for i in range(size):
            out[i] = _word(floats[np.uint64(symbols[i])] * scale, brain, out)
        return
    i, k, p = ZERO, at // positions, at % positions
    while i < size:
        end = min(size, i + positions - p) if positions > ONE else size
        for j in range(end - i):
            column = columns[k] if positions > ONE else columns[k + j]
            out[i + j] = _word(floats[np.uint64(symbols[i + j])] * scale * column, brain, out)
        i, k, p = end, k + ONE, ZERO


def _shifted(symbol, shift, out):
    """Return a symbol as a word of `out`, shifted left."""


@overload(_shifted)
def _shifted_word(symbol, shift, out):
    word = out.dtype
    return lambda symbol, shift, out: word(symbol) << word(shift)


def _word(value, brain, out):
    """Return a float32 as the float that is as wide as the words of `out`, by its bits."""


@overload(_word)
def _word_of_width(value, brain, out):
    if out.dtype == types.uint32:
        return lambda value, brain, out: np.float32(value).view(np.uint32)
    if out.dtype == types.uint64:
        return lambda value, brain, out: np.float64(value).view(np.uint64)
    if out.dtype == types.uint16:
        return lambda value, brain, out: _brain(value) if brain else _half(value)
    return lambda value, brain, out: np.uint8(0)  # no float has 8 bits: never called


@kernel
def _brain(value):
    """Return a number as bfloat16, rounded to nearest even; a carry out of the largest mantissa gives infinity."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@kernel
def _half(value):
    """Return a number as float16, rounded to nearest even."""
    bits = np.float32(value).view(np.uint32)
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    bits &= np.uint32(0x7FFFFFFF)
    # The sum with 0.5 has the distance of float16's subnormal numbers, 2**-24: adding rounds to them.
    small = np.float32(np.uint32(bits).view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
    rounded = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    normal = min((rounded >> np.uint32(13)) - np.uint32(112 << 10), np.uint32(0x7C00))  # what is beyond is infinite
    return np.uint16(sign | (small if bits < np.uint32(0x38800000) else normal))
