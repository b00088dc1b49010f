"""What the search of `kernels.vector_search` needs: where the likely symbols of each table start.

Of up to 32 symbols each slot's is found; of more, 30 around the origin, and others are looked up one by one.
"""

import numpy as np

SYMBOLS, LEVELS = 32, 5
HEADER = 32  # words before the first level
TABLES = (8, 16)  # for so many there are kernels
NONE = np.empty(0, np.uint16)  # stands for no search
_MOST_UNLIKELY = 1 / 64  # share of symbols to be looked up, beyond which there is no search


def search_tables(counts: np.ndarray, probability_bits: int, origin: int) -> np.ndarray:
    """Return what the kernel searches, uint16; empty if it cannot, or look-ups are faster.

    After 32 words come the levels of a binary search: level `l` has `2**l` starts of symbols for each table, and takes
    at least 32 words. Of the first words one is the first symbol; the next is what a symbol, as a number from that one
    on, and 1 have in common with it unless the symbol is to be looked up; then comes 1.
    """
    n_tables, alphabet = counts.shape
    if not 1 < n_tables <= TABLES[-1] or alphabet > 256 or probability_bits > 12:
        return NONE
    counts = counts.astype(np.int64)
    width = next(size for size in TABLES if size >= n_tables)
    first = min(max(origin - SYMBOLS // 2, 0), max(alphabet - SYMBOLS, 0))
    total = 1 << probability_bits
    unlikely = 0xFFFF
    if alphabet > SYMBOLS:
        unlikely = SYMBOLS - 2
        if counts[:, first + 1 : first + SYMBOLS - 1].sum() < (1 - _MOST_UNLIKELY) * total * n_tables:
            return NONE
    starts = np.full((width, first + SYMBOLS), total)
    size = min(alphabet, first + SYMBOLS)
    starts[:n_tables, :size] = (np.cumsum(counts, axis=1) - counts)[:, :size]
    starts = starts[:, first:]
    levels = [np.zeros(HEADER)]
    levels[0][:3] = first, unlikely, 1
    for level in range(LEVELS):
        step = SYMBOLS >> level
        each = starts[:, step // 2 :: step].ravel()
        levels.append(np.resize(each, max(each.size, SYMBOLS)))
    result = _aligned(sum(level.size for level in levels))
    result[:] = np.concatenate(levels)
    return result


def _aligned(size: int) -> np.ndarray:
    """Return new words at the start of a cache line, as vectors that cross one take longer to load."""
    words = np.empty(size + 32, np.uint16)
    first = -words.ctypes.data % 64 // 2
    return words[first : first + size]
