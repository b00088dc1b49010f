"""Choosing integer counts for a histogram: exactly optimal, and the same on every machine.

Logarithms enter only as multiples of 2**-40, rounded once, so that the last digit of a platform's `log2` does not
decide.
"""

import math
from functools import lru_cache

import numpy as np

from l2codec.errors import CodecError


@lru_cache(maxsize=1)
def _gains() -> np.ndarray:
    """Return log2((c + 1) / c) at index c in units of 2**-40 bits, float64[2**14], strictly falling; infinite at 0."""
    logs = np.array([round(math.log2(c) * 2**40) for c in range(1, 2**14 + 2)], np.float64)
    return np.concatenate([[np.inf], np.diff(logs)])


def optimal_counts(hist: np.ndarray, probability_bits: int) -> np.ndarray:
    """Return int64 counts that minimise sum(hist * -log2(count)), each used symbol having at least 1.

    The cost is convex in each count, so the optimum takes the largest marginal gains hist * log2((c + 1) / c). A
    threshold on the gain is bisected until it takes as many as there are; where symbols tie, the lowest come first.
    """
    used, total = _used_symbols(hist, probability_bits)
    counts = np.zeros(hist.size, np.int64)
    if used.size == 1:
        counts[used] = total
        return counts
    weights = hist[used].astype(np.float64)
    falling = -_gains()[1:]

    def at_threshold(gain: float) -> np.ndarray:
        return 1 + np.searchsorted(falling, -gain / weights, side="right")

    low = high = float(weights.sum()) / total * 2**40 / math.log(2)  # near the optimum, where counts are proportional
    while at_threshold(low).sum() < total:
        low /= 2
    while (best := at_threshold(high)).sum() > total:
        high *= 2
    while best.sum() != total:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        trial = at_threshold(middle)
        if trial.sum() > total:
            low = middle
        else:
            high, best = middle, trial
    missing = total - int(best.sum())  # only ties are left: each of these symbols is due one more
    best[np.argsort(-weights * _gains()[best], kind="stable")[:missing]] += 1
    counts[used] = best
    return counts


def dyadic_counts(hist: np.ndarray, probability_bits: int) -> np.ndarray:
    """Return int64 counts 2**(P - length) of an optimal prefix code with lengths of at most P bits.

    Package-merge (Larmore and Hirschberg 1990): each of P levels merges the symbols with the pairs of the level below.
    """
    used, total = _used_symbols(hist, probability_bits)
    counts = np.zeros(hist.size, np.int64)
    if used.size == 1:
        counts[used] = total
        return counts
    by_weight = used[np.argsort(hist[used], kind="stable")]
    leaves = hist[by_weight]
    orders, merged = [], leaves
    for _ in range(probability_bits - 1):
        even = merged.size & ~1
        both = np.concatenate([leaves, merged[:even:2] + merged[1:even:2]])
        orders.append(np.argsort(both, kind="stable"))
        merged = both[orders[-1]]
    lengths = np.zeros(used.size, np.int64)
    take = 2 * used.size - 2  # items of the top level: a leaf adds a bit to its symbol, a pair takes two items below
    for order in reversed(orders):
        taken = int(np.count_nonzero(order[:take] < used.size))
        lengths[:taken] += 1
        take = 2 * (take - taken)
    lengths[:take] += 1
    counts[by_weight] = 1 << (probability_bits - lengths)
    return counts


def _used_symbols(hist: np.ndarray, probability_bits: int) -> tuple[np.ndarray, int]:
    """Return the indices of used symbols (symbol 0 if there is none) and the total of the counts."""
    total = 1 << probability_bits
    used = np.flatnonzero(hist)
    if used.size > total:
        raise CodecError(f"{used.size} used symbols do not fit {probability_bits} probability bits")
    return (used if used.size else np.array([0])), total
