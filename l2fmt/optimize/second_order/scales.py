"""Scales of rows and columns: steps that follow how much each of them counts, where that pays for storing them.

With error feedback, an error in a column meets the column's own pivot of the curvature. The rate that reaches a
distance is least when all these are alike after scaling, c ~ pivot^-1/2: water-filling, as WaterSIC (arXiv 2603.04956)
has it for columns. Rows, whose errors meet the sensitivity of their output, are no different.
"""

import numpy as np

from l2fmt.transforms import PER_OCTAVE, nearest_octaves, octave_scales

_MARGIN = 8.0  # what scales save, by the law of fine steps, over what they take: coarse steps save far less
_CODE_LOSS = 0.5  # bits an offset, of prefix codes that all tensors share, over the entropy of one tensor's own


def paying_scales(importance: np.ndarray, weights_each: int, exponent: float = 1.0) -> np.ndarray | None:
    """Return scales float32[n] for rows or columns of `weights_each` weights that count so much, or None.

    importance: float64[n], positive; `exponent` is how far scales follow it, 1 all the way. The scales are whole
    octaves or parts of one (spec/transforms.md 7), whichever saves most beside what their offsets take.
    """
    ideal = importance ** (-0.5 * exponent)
    ideal /= np.exp(np.log(ideal).mean())
    best, most = None, 0.0
    for per_octave in (1, 2, 4, PER_OCTAVE):
        offsets = nearest_octaves(ideal, per_octave)
        scales, bits = octave_scales(offsets), _entropy(offsets) + _CODE_LOSS
        saved = saving(importance, scales) * weights_each
        if saved > _MARGIN * bits and saved - bits > most:
            best, most = scales, saved - bits
    return best


def cheap_gains(gains: np.ndarray, weights_each: int) -> np.ndarray:
    """Return gains near to these, float32[n], of rows of `weights_each` weights that take what is left of them.

    gains: float64[n], not negative; a gain of 0 stays. The others become whole octaves or parts of one, whichever costs
    least: what is left makes the steps of rows unlike, as finely as they are.
    """
    best, least = gains.astype(np.float32), np.inf
    some = gains > 0
    for per_octave in (1, 2, 4, PER_OCTAVE) if some.any() else ():
        offsets = nearest_octaves(gains[some], per_octave)
        found = octave_scales(offsets)
        cost = _entropy(offsets) - saving(np.ones(len(found)), found / gains[some]) * weights_each
        if cost < least:
            least = cost
            best[some] = found
    return best


def saving(importance: np.ndarray, scales: np.ndarray) -> float:
    """Return the bits a weight that steps of these scales save at the same distance, if steps are fine."""
    wide = np.asarray(scales, np.float64)
    return float(0.5 * np.log2(importance.mean() / (importance * wide**2).mean()) + np.log2(wide).mean())


def _entropy(offsets: np.ndarray) -> float:
    """Return the bits an offset, at best."""
    counts = np.unique(offsets, return_counts=True)[1]
    return float(np.log2(offsets.size) - (counts * np.log2(counts)).sum() / offsets.size)
