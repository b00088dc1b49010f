"""Scales of rows and columns: steps that follow how much each of them counts, where that pays for storing them.

With error feedback, an error in a column meets the column's own pivot of the curvature. The rate that reaches a
distance is least when all these are alike after scaling, c ~ pivot^-1/2: water-filling, as WaterSIC (arXiv 2603.04956)
has it for columns. Rows, whose errors meet the sensitivity of their output, are no different.
"""

import numpy as np

_MARGIN = 2.0  # what scales save, by the law of fine steps, over what they take: coarse steps save less


def paying_scales(importance: np.ndarray, weights_each: int, exponent: float = 1.0) -> np.ndarray | None:
    """Return scales float32[n] for rows or columns of `weights_each` weights that count so much, or None.

    importance: float64[n], positive; `exponent` is how far scales follow it, 1 all the way. The scales are exact powers
    of two, of one byte each, or floats of two bytes (spec/transforms.md 7), whichever saves more.
    """
    ideal = importance ** (-0.5 * exponent)
    ideal /= np.exp(np.log(ideal).mean())
    best, most = None, 0.0
    for scales, bits in ((_powers_of_two(ideal), 8), (_short_floats(ideal), 16)):
        saved = saving(importance, scales) * weights_each
        if saved > _MARGIN * bits and saved - bits > most:
            best, most = scales, saved - bits
    return best


def saving(importance: np.ndarray, scales: np.ndarray) -> float:
    """Return the bits a weight that steps of these scales save at the same distance, if steps are fine."""
    wide = np.asarray(scales, np.float64)
    return float(0.5 * np.log2(importance.mean() / (importance * wide**2).mean()) + np.log2(wide).mean())


def _powers_of_two(values: np.ndarray) -> np.ndarray:
    return np.exp2(np.clip(np.rint(np.log2(values)), -126, 127)).astype(np.float32)


def _short_floats(values: np.ndarray) -> np.ndarray:
    """Return the nearest values with sixteen zero bits at their end, which are those of BF16."""
    words = np.asarray(values, np.float32).view(np.uint32)
    return ((words + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)
