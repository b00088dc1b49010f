"""The prefix codes that dyadic tables are (spec/entropy-coding.md 8), and what decodes them by look-up."""

import numpy as np


def lengths(counts: np.ndarray, probability_bits: int) -> np.ndarray:
    """Return the code lengths P - log2(count) of positive dyadic counts."""
    return probability_bits - np.round(np.log2(counts)).astype(np.int64)


def code_order(counts: np.ndarray) -> np.ndarray:
    """Return the used symbols in ascending order of (code length, symbol): that of their code words (spec 8)."""
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    return order[: np.count_nonzero(counts)]


def code_words(counts: np.ndarray, probability_bits: int) -> np.ndarray:
    """Return code word | length << 16 of each symbol of a dyadic table, uint32; 2**31 where the count is 0."""
    result = np.full(counts.size, 1 << 31, np.uint32)
    order = code_order(counts)
    used = counts[order].astype(np.int64)
    ends = np.cumsum(used)
    result[order] = (ends - used) // used | lengths(used, probability_bits) << 16
    return result


def windows(counts: np.ndarray, probability_bits: int) -> np.ndarray:
    """Return symbol | length << 16 for each value of the next P bits: code words follow each other without gaps."""
    order = code_order(counts)
    used = counts[order].astype(np.int64)
    return np.repeat(order | lengths(used, probability_bits) << 16, used).astype(np.uint32)


def bursts(windows: np.ndarray, probability_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return up to 8 symbols that begin and end in each value of the next P bits, and how many | their bits << 8."""
    bits = np.arange(windows.size)
    used, count = np.zeros((2, windows.size), np.int64)
    symbols = np.zeros((windows.size, 8), np.uint8)
    for number in range(8):
        entry = windows[bits << used & windows.size - 1].astype(np.int64)
        # Once a code word is cut off, it stays so: nothing is used any more.
        whole = (count == number) & (used + (entry >> 16) <= probability_bits)
        symbols[whole, number] = entry[whole] & 0xFFFF
        used += np.where(whole, entry >> 16, 0)
        count += whole
    return symbols, (count | used << 8).astype(np.uint16)
