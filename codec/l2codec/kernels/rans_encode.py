"""Encoding of interleaved rANS."""

import numpy as np

from l2codec.kernels._compiler import kernel


@kernel
def rans_encode(symbols, classes, intervals, alphabet, bits, states, words):
    """Encode backwards into the end of `words`; return the first used index, or -1 - i for an impossible symbol i."""
    bits = np.uint32(bits)
    lane_mask = np.uint64(states.size - 1)
    alphabet = np.uint64(alphabet)
    several = classes.size > 0
    word = np.uint64(words.size)
    i = np.uint64(symbols.size)
    while i > np.uint64(0):
        i -= np.uint64(1)
        symbol = np.uint64(symbols[i])
        if symbol >= alphabet:
            return np.int64(-1) - np.int64(i)
        if several:
            symbol += np.uint64(classes[i]) * alphabet
        count = intervals[symbol] >> np.uint32(16)
        start = intervals[symbol] & np.uint32(0xFFFF)
        if count == np.uint32(0):
            return np.int64(-1) - np.int64(i)
        lane = i & lane_mask
        x = states[lane]
        words[word - np.uint64(1)] = np.uint16(x & np.uint32(0xFFFF))  # there is one word for every symbol to come
        emit = np.uint64(x) >= np.uint64(count) << np.uint64(np.uint32(32) - bits)
        word -= np.uint64(emit)
        x = np.uint32(x >> np.uint32(16)) if emit else x
        quotient = np.uint32(x // count)
        states[lane] = np.uint32((quotient << bits) + (x - quotient * count) + start)
    return np.int64(word)
