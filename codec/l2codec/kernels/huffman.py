"""Kernels of prefix codes."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from l2codec.kernels._compiler import kernel

U32_MAX = np.uint64(0xFFFFFFFF)
BURST = np.uint64(8)  # symbols that are copied at once, and the most that one lookup finds


@kernel
def huffman_decode(words, n_bits, windows, classes, bits, out):
    """Decode `out.size` symbols of big-endian `words` padded by two; return the bits used, -1 if beyond `n_bits`."""
    bits = np.uint64(bits)
    down = np.uint64(64) - bits
    several = classes.size > 0
    i, word, held, n_held = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    # While whole words are left: two symbols of at most 14 bits each time that 32 bits are sure to be held. The bits
    # held are the upper ones of `held`; bits beyond the block are not among them, so nothing is checked.
    whole = np.uint64(n_bits) >> np.uint64(5)
    while word < whole and i + np.uint64(2) <= np.uint64(out.size):
        short = np.uint64(n_held <= np.uint64(32))  # arithmetic, as a branch would be mispredicted
        held |= (np.uint64(words[word]) << (np.uint64(32) - n_held * short)) * short
        n_held += short << np.uint64(5)
        word += short
        for _ in range(2):
            index = held >> down
            if several:
                index |= np.uint64(classes[i]) << bits
            entry = windows[index]
            out[i] = entry & np.uint32(0xFFFF)
            i += np.uint64(1)
            length = np.uint64(entry >> np.uint32(16))
            held <<= length
            n_held -= length
    return _decode_rest(words, (word << np.uint64(5)) - n_held, n_bits, windows, classes, bits, out, i)


@kernel
def huffman_decode_bursts(words, n_bits, windows, bursts, sizes, classes, bits, out):
    """Do what `huffman_decode` does for 8-bit symbols of one class, several in a lookup.

    For each value of the next P bits, `bursts` (uint8[2**P, 8]) holds the symbols that begin in it and end in it, and
    `sizes` (uint16[2**P]) how many there are | bits they have << 8.
    """
    down = np.uint64(64) - np.uint64(bits)
    i, word, held, n_held = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    whole = np.uint64(n_bits) >> np.uint64(5)
    while word < whole and i + np.uint64(2) * BURST <= np.uint64(out.size):
        short = np.uint64(n_held <= np.uint64(32))
        held |= (np.uint64(words[word]) << (np.uint64(32) - n_held * short)) * short
        n_held += short << np.uint64(5)
        word += short
        for _ in range(2):
            index = held >> down
            _copy_8_bytes(out.ctypes.data + np.int64(i), bursts.ctypes.data + np.int64(index * BURST))
            size = np.uint64(sizes[index])
            i += size & np.uint64(0xFF)
            held <<= size >> np.uint64(8)
            n_held -= size >> np.uint64(8)
    return _decode_rest(words, (word << np.uint64(5)) - n_held, n_bits, windows, classes, bits, out, i)


@kernel
def _decode_rest(words, at, n_bits, windows, classes, bits, out, i):
    """Decode from bit `at` on the symbols from `i` on, with a check of every one."""
    bits = np.uint64(bits)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    n_bits = np.uint64(n_bits)
    several = classes.size > 0
    while i < np.uint64(out.size):
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
        i += np.uint64(1)
    return np.int64(at)


def _copy(typing, target, source):
    """Copy 8 bytes from one address to another."""

    def generate(context, builder, signature, arguments):
        target, source = (builder.inttoptr(address, ir.IntType(64).as_pointer()) for address in arguments)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


_copy_8_bytes: Any = intrinsic(_copy)


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
