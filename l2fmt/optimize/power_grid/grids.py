"""The grid of PNMQ: 0 and values d, d (1 + p), d (1 + p + p^2), ... on both sides of it (Chikin and Antiukh, 2022)."""

from dataclasses import dataclass, replace

import numpy as np

from l2fmt.optimize.base import WeightTensor
from l2fmt.pipeline import QuantizedTensor
from l2fmt.transforms import Geometric, Transform, Uniform

ROUNDINGS = ("nearest", "published")


def first_step(growth: float, levels: int) -> float:
    """Return d of the grid whose value number `levels` is 1."""
    return 1 / levels if growth == 1 else (growth - 1) / (growth**levels - 1)


def threshold_share(growth: float, rounding: str) -> float:
    """Return which share of a step the weights below it get of the weights in it.

    The nearest value changes in the middle. The published rounding (supplement, A.2) rounds the logarithm of
    v = 1 + |w| (p - 1) / d, which changes at the geometric mean of p^k and p^(k + 1): weights are rounded up too often.
    """
    return 0.5 if rounding == "nearest" else 1 / (1 + growth**0.5)


@dataclass(frozen=True, eq=False)
class PowerGrid:
    """A grid of `2 levels + 1` values, `growth` being p, a float32 of at least 1; a row's last value is its end.

    ends: float64[rows], or float64[1] if all rows share one grid.
    """

    ends: np.ndarray
    growth: float
    levels: int

    def stretched(self, factor: float) -> "PowerGrid":
        """Return the grid with all values multiplied by a factor."""
        return replace(self, ends=self.ends * factor)

    def quantize(self, tensor: WeightTensor, weights: np.ndarray, rounding: str) -> QuantizedTensor:
        """Return the codes of weights float32[rows, columns] of a tensor, and their transform; row scales for several
        ends.
        """
        ends = self.ends.astype(np.float32)
        codes = self._codes(weights / ends[:, None].astype(np.float64), rounding).astype(np.int16).reshape(-1)
        if ends.size > 1:
            return QuantizedTensor(tensor.name, tensor.dtype, tensor.shape, codes, self._transform(1.0), ends)
        return QuantizedTensor(tensor.name, tensor.dtype, tensor.shape, codes, self._transform(float(ends[0])))

    def _transform(self, end: float) -> Transform:
        first = end * first_step(self.growth, self.levels)
        return Uniform(first) if self.growth == 1 else Geometric(first / (self.growth - 1), self.growth)

    def _codes(self, weights: np.ndarray, rounding: str) -> np.ndarray:
        """Return the codes, float64, of weights in units of their ends, by closed forms.

        With v as above, which is p^k at value k: the published code is round(log_p v), that of the nearest value
        floor(log_p(2 v / (1 + p))) + 1, since the middle of two values is at v = p^k (1 + p) / 2.
        """
        p, first = self.growth, first_step(self.growth, self.levels)
        steps = np.abs(weights) / first
        if p == 1:
            codes = np.rint(steps)
        elif rounding == "nearest":
            codes = np.floor((np.log1p(steps * (p - 1)) - np.log1p((p - 1) / 2)) / np.log(p)) + 1
        else:
            codes = np.rint(np.log1p(steps * (p - 1)) / np.log(p))
        return np.copysign(np.minimum(codes, self.levels), weights)
