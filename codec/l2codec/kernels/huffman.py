"""Kernels of prefix codes."""

import numpy as np

from l2codec.kernels._compiler import kernel

U32_MAX = np.uint64(0xFFFFFFFF)


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
