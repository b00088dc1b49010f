"""Kernels of the range coder."""

import numpy as np

from l2codec.kernels._compiler import kernel

U32_MAX = np.uint64(0xFFFFFFFF)


@kernel
def range_decode(words, slots, leaders, classes, bits, out):
    """Decode `out.size` symbols; return how often a word was taken in, -1 for a bad point, -2 for one at the end.

    The symbol of highest count is tried first: where it is frequent, the processor predicts it and goes on with what
    follows without waiting. Else a symbol is found by division, which takes less time than an estimate that is put
    right, or a search.
    """
    bits = np.uint64(bits)
    scale_bits = np.uint64(24)
    widen = scale_bits - bits
    n_words = np.uint64(words.size)
    several = classes.size > 0
    point = np.uint64(0)
    for word in range(np.uint64(2)):
        point = point << np.uint64(32) | (np.uint64(words[word]) if word < n_words else np.uint64(0))
    width = np.uint64(0xFFFFFFFFFFFFFFFF)
    word = np.uint64(2)
    first = np.uint64(0)  # slot of the class
    leader = leaders[0]
    for i in range(np.uint64(out.size)):
        if several:
            first = np.uint64(classes[i]) << bits
            leader = leaders[np.uint64(classes[i])]
        unit = (width >> scale_bits) << widen  # of one count
        before = unit * (leader >> np.uint64(32))
        width = unit * ((leader >> np.uint64(16)) & np.uint64(0xFFFF))
        if point - before < width:  # a point below `before` becomes a large number
            point -= before
            out[i] = leader & np.uint64(0xFFFF)
        else:
            slot = point // unit
            if slot >> bits:
                return np.int64(-1)
            entry = slots[slot | first]
            point -= unit * (slot - (entry >> np.uint64(32)))
            width = unit * ((entry >> np.uint64(16)) & np.uint64(0xFFFF))
            out[i] = entry & np.uint64(0xFFFF)
        if width <= U32_MAX:
            width <<= np.uint64(32)
            point = point << np.uint64(32) | (np.uint64(words[word]) if word < n_words else np.uint64(0))
            word += np.uint64(1)
    if point >> np.uint64(33):
        return np.int64(-2)
    return np.int64(word) - np.int64(2)


@kernel
def range_encode(symbols, classes, intervals, alphabet, bits, words):
    """Encode into `words`; return how many are used, or -1 - i for an impossible symbol i."""
    scale_bits = np.uint64(24)
    widen = scale_bits - np.uint64(bits)
    alphabet = np.uint64(alphabet)
    several = classes.size > 0
    low = np.uint64(0)
    width = np.uint64(0xFFFFFFFFFFFFFFFF)
    used = np.uint64(0)
    for i in range(np.uint64(symbols.size)):
        symbol = np.uint64(symbols[i])
        if symbol >= alphabet:
            return np.int64(-1) - np.int64(i)
        if several:
            symbol += np.uint64(classes[i]) * alphabet
        count = np.uint64(intervals[symbol] >> np.uint32(16))
        start = np.uint64(intervals[symbol] & np.uint32(0xFFFF))
        if count == np.uint64(0):
            return np.int64(-1) - np.int64(i)
        unit = (width >> scale_bits) << widen  # of one count
        before = low
        low += unit * start
        if low < before:
            _carry(words, used)
        width = unit * count
        if width <= U32_MAX:
            words[used] = np.uint32(low >> np.uint64(32))
            used += np.uint64(1)
            low <<= np.uint64(32)
            width <<= np.uint64(32)
    last = low >> np.uint64(32)
    if low & U32_MAX:
        last += np.uint64(1)
        if last > U32_MAX:
            _carry(words, used)
    words[used] = np.uint32(last & U32_MAX)
    return np.int64(used) + np.int64(1)


@kernel
def _carry(words, used):
    """Add one to the number that the first `used` words are."""
    while used > np.uint64(0):
        used -= np.uint64(1)
        words[used] += np.uint32(1)
        if words[used] != np.uint32(0):
            return
