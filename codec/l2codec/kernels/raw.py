"""Symbols of a fixed width (spec/entropy-coding.md 5)."""

import numpy as np

from l2codec.kernels._compiler import kernel

ONE, TWO, THREE, EIGHT, SIXTEEN = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(8), np.uint64(16)


@kernel
def unpack_symbols(data, width, out):
    """Unpack `out.size` symbols of 1 to 16 bits from bytes, uint8; they are at least `ceil(out.size * width / 8)`."""
    width, size = np.uint64(width), np.uint64(data.size)
    mask = (ONE << width) - ONE
    count = np.uint64(out.size)
    # Eight symbols begin and end with whole bytes. Each lies in three bytes at most; where these are not beyond the
    # end, all three are read.
    whole = min(count // EIGHT, (max(size, TWO) - TWO) // width)
    for group in range(whole):
        for number in range(EIGHT):
            bit = number * width
            at = group * width + (bit >> THREE)
            three = np.uint64(data[at]) | np.uint64(data[at + ONE]) << EIGHT | np.uint64(data[at + TWO]) << SIXTEEN
            out[group * EIGHT + number] = (three >> (bit & np.uint64(7))) & mask
    for i in range(whole * EIGHT, count):
        bit = i * width
        held = np.uint64(0)
        for number in range(((bit & np.uint64(7)) + width + np.uint64(7)) >> THREE):
            held |= np.uint64(data[(bit >> THREE) + number]) << (EIGHT * number)
        out[i] = (held >> (bit & np.uint64(7))) & mask
