"""Rounding to the nearest multiple of a step, one scale for the steps of all tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2fmt.optimize.base import Progress, WeightTensor
from l2fmt.pipeline import QuantizedTensor
from l2fmt.transforms import Uniform

MAX_CODE = 4000  # on each side of zero: beyond it a table of 14 probability bits gets too coarse


@dataclass(frozen=True, eq=False)
class Grid:
    """Weights, float32 of the tensor's shape, and what their step is at scale 1, or at any scale if it is `fixed`.

    With `row_scale`, float32[rows], each row has steps of its own, that many times as wide.
    """

    tensor: WeightTensor
    weights: np.ndarray
    base: float
    fixed: bool = False
    row_scale: np.ndarray | None = None

    def step(self, scale: float) -> float:
        """Return the step at a scale, a float32; wide enough that no code exceeds `MAX_CODE`."""
        return float(np.float32(max(self.base if self.fixed else scale * self.base, self.finest)))

    @property
    def scaled(self) -> np.ndarray:
        """The weights over their row scales."""
        if self.row_scale is None:
            return self.weights
        return self.weights / self.row_scale.reshape(-1, *[1] * (self.weights.ndim - 1))

    @property
    def finest(self) -> float:
        """The smallest step."""
        return max(float(np.abs(self.scaled).max(initial=0)) / MAX_CODE, float(np.finfo(np.float32).tiny))

    def coded(self, codes: np.ndarray, step: float) -> QuantizedTensor:
        """Return integer codes at a step with what decodes them."""
        t = self.tensor
        return QuantizedTensor(t.name, t.dtype, t.shape, codes.reshape(-1), Uniform(step), self.row_scale)

    def nearest(self, scale: float) -> QuantizedTensor:
        """Return the nearest codes at a scale, int16."""
        step = self.step(scale)
        return self.coded(np.rint(self.scaled / np.float32(step)).astype(np.int16), step)


class NearestModel:
    """The grids of all tensors, as a search for a size needs them."""

    def __init__(self, grids: Sequence[Grid]):
        self.grids = grids
        self.size = sum(grid.weights.size for grid in grids)
        self.finest_scale = min((grid.finest / grid.base for grid in grids if not grid.fixed), default=1.0)

    def first_scale(self, bits: float) -> float:
        """Return the scale at which rounding of Gaussian weights takes `bits` a weight."""
        total, weights = 0.0, 0
        for grid in self.grids:
            if (spread := float(grid.scaled.std())) > 0 and not grid.fixed:
                total += grid.weights.size * np.log2(spread / grid.base * np.sqrt(2 * np.pi * np.e))
                weights += grid.weights.size
        return float(2.0 ** (total / max(weights, 1) - bits))

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        """Return the nearest codes of all tensors at a scale."""
        progress("rounding", 0.0)
        return [grid.nearest(scale) for grid in self.grids]
