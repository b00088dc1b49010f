"""Scalar kernels of the coders, compiled on first use; they take validated arguments and report failure as a result.

All bounds on what a stream can make a kernel read are checked here; every write is bounded by the size of an
argument. Indices are unsigned, so that Numba leaves out its handling of negative ones. `classes` is empty if all
symbols have class 0.
"""

import numpy as np
from numba import njit

kernel = njit(cache=True, nogil=True, error_model="numpy")

U32_MAX = np.uint64(0xFFFFFFFF)
LOW_STATE = np.uint64(1 << 16)


@kernel
def rans_decode(words, position, states, slots, classes, bits, out):
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
            slot = x & mask
            if several:
                slot |= np.uint64(classes[i]) << bits
            entry = slots[slot]
            x = ((entry >> np.uint64(16)) & np.uint64(0xFFFF)) * (x >> bits) + (entry >> np.uint64(32))
            renew = np.uint64(x < LOW_STATE)  # arithmetic, as a branch would be mispredicted
            x = (x << (renew << np.uint64(4))) | (np.uint64(words[word]) & (np.uint64(0) - renew))
            word += renew
            states[lane] = np.uint32(x)
            out[i] = entry & np.uint64(0xFFFF)
            i += np.uint64(1)
    # The rest of the block, with a check of every word.
    lane = np.uint64(0)
    while i < count:
        x = np.uint64(states[lane])
        slot = x & mask
        if several:
            slot |= np.uint64(classes[i]) << bits
        entry = slots[slot]
        x = ((entry >> np.uint64(16)) & np.uint64(0xFFFF)) * (x >> bits) + (entry >> np.uint64(32))
        if x < LOW_STATE:
            if word >= n_words:
                return np.int64(-1)
            x = (x << np.uint64(16)) | np.uint64(words[word])
            word += np.uint64(1)
        states[lane] = np.uint32(x)
        out[i] = entry & np.uint64(0xFFFF)
        i += np.uint64(1)
        lane += np.uint64(1)
        if lane == lanes:
            lane = np.uint64(0)
    return np.int64(word)


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


@kernel
def range_decode(words, slots, classes, bits, out):
    """Decode `out.size` symbols; return how often a word was taken in, -1 for a bad point, -2 for one at the end."""
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
    for i in range(np.uint64(out.size)):
        unit = (width >> scale_bits) << widen  # of one count
        slot = point // unit
        if slot >> bits:
            return np.int64(-1)
        index = slot
        if several:
            index |= np.uint64(classes[i]) << bits
        entry = slots[index]
        point -= unit * (slot - (entry >> np.uint64(32)))
        width = unit * ((entry >> np.uint64(16)) & np.uint64(0xFFFF))
        if width <= U32_MAX:
            width <<= np.uint64(32)
            point = point << np.uint64(32) | (np.uint64(words[word]) if word < n_words else np.uint64(0))
            word += np.uint64(1)
        out[i] = entry & np.uint64(0xFFFF)
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


@kernel
def huffman_decode(words, n_bits, windows, classes, bits, out):
    """Decode `out.size` symbols of big-endian `words` padded by two; return the bits used, -1 if beyond `n_bits`."""
    bits = np.uint64(bits)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    n_bits = np.uint64(n_bits)
    several = classes.size > 0
    at = np.uint64(0)
    for i in range(np.uint64(out.size)):
        word = at >> np.uint64(5)
        both = np.uint64(words[word]) << np.uint64(32) | np.uint64(words[word + np.uint64(1)])
        index = (both >> (np.uint64(64) - bits - (at & np.uint64(31)))) & mask
        if several:
            index |= np.uint64(classes[i]) << bits
        entry = windows[index]
        at += np.uint64(entry >> np.uint32(16))
        if at > n_bits:
            return np.int64(-1)
        out[i] = entry & np.uint32(0xFFFF)
    return np.int64(at)


@kernel
def huffman_encode(symbols, classes, codes, alphabet, words):
    """Encode into `words`, most significant bit first; return the bits used, or -1 - i for an impossible symbol i."""
    alphabet = np.uint64(alphabet)
    several = classes.size > 0
    held, n_held, used = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(np.uint64(symbols.size)):
        symbol = np.uint64(symbols[i])
        if symbol >= alphabet:
            return np.int64(-1) - np.int64(i)
        if several:
            symbol += np.uint64(classes[i]) * alphabet
        code = np.uint64(codes[symbol])
        length = code >> np.uint64(16)
        if length > np.uint64(16):
            return np.int64(-1) - np.int64(i)
        held = held << length | (code & np.uint64(0xFFFF))
        n_held += length
        if n_held >= np.uint64(32):
            n_held -= np.uint64(32)
            words[used] = np.uint32((held >> n_held) & U32_MAX)
            used += np.uint64(1)
    if n_held:
        words[used] = np.uint32((held << (np.uint64(32) - n_held)) & U32_MAX)
    return np.int64(used) * np.int64(32) + np.int64(n_held)
