"""Decoding of interleaved rANS on any processor."""

import numpy as np

from l2codec.kernels._compiler import kernel

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
