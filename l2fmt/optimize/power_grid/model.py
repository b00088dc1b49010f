"""The tensors of a model, each with a tuned grid for every bit width, and the order in which they give up bits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from l2fmt.errors import TargetError
from l2fmt.optimize.base import Progress, WeightTensor, decoded, relative_error
from l2fmt.optimize.power_grid.allocation import bits_after, drop_order
from l2fmt.optimize.power_grid.grids import PowerGrid
from l2fmt.optimize.power_grid.tuning import tune
from l2fmt.pipeline import QuantizedTensor

if TYPE_CHECKING:
    from l2fmt.optimize.second_order.curvature import Curvature

WIDTHS = range(2, 9)  # bits of a code


class Model:
    """Codes of all tensors when so many bits have been given up: `order` says by which tensors, the cheapest first.

    With `curvatures` the distance of outputs has a say in what a tensor loses; see pnmq.py.
    """

    def __init__(
        self,
        tensors: Sequence[WeightTensor],
        norm: int,
        rounding: str,
        per_channel: bool,
        curvatures: Mapping[str, "Curvature"],
        progress: Progress,
    ):
        self.tensors, self._norm, self._rounding, self._per_channel = tensors, norm, rounding, per_channel
        self.sizes = [int(np.prod(t.shape)) for t in tensors]
        self.size = sum(self.sizes)
        self._grids: list[list[PowerGrid]] = []
        losses, distances = np.zeros((2, len(tensors), len(WIDTHS)))
        for number, tensor in enumerate(tensors):
            progress("tuning grids", number / len(tensors))
            rows = self._rows(tensor)
            self._grids.append([tune(rows, 2 ** (bits - 1) - 1, norm, rounding) for bits in WIDTHS])
            for width, grid in enumerate(self._grids[-1]):
                errors = decoded(grid.quantize(tensor, rows, rounding)).reshape(rows.shape) - rows
                losses[number, width] = _relative_norm(errors, rows, norm)
                if tensor.name in curvatures:
                    distances[number, width] = curvatures[tensor.name].distance(errors.reshape(tensor.shape[0], -1))
        self.order = drop_order(_in_one_unit(losses, distances), self.sizes)

    def codes(self, dropped: int, stretch: float = 1.0) -> list[QuantizedTensor]:
        """Return all codes when so many bits have been given up, on grids stretched by a factor."""
        bits = bits_after(self.order[:dropped], len(self.tensors), WIDTHS[-1])
        return [self._quantize(number, int(width), stretch) for number, width in enumerate(bits)]

    def simulated_ratio(self, dropped: int) -> float:
        """Return the original bits over those of all codes at their full width and of the grids, 32 a parameter."""
        bits = bits_after(self.order[:dropped], len(self.tensors), WIDTHS[-1])
        original = sum(n * 8 * t.dtype.itemsize for n, t in zip(self.sizes, self.tensors, strict=True))
        parameters = sum(grids[0].ends.size + 1 for grids in self._grids)
        return original / (float(bits @ np.array(self.sizes)) + 32 * parameters)

    def codes_within(self, error: float) -> list[QuantizedTensor]:
        """Return codes of the fewest bits with which no tensor's relative squared error exceeds `error`."""
        return [self._within(number, error) for number in range(len(self.tensors))]

    def _within(self, number: int, error: float) -> QuantizedTensor:
        found = 0.0
        for bits in WIDTHS:
            code = self._quantize(number, bits, 1.0)
            found = relative_error(self.tensors[number], code)
            if found <= error:
                return code
        name = self.tensors[number].name
        message = f"a relative error of {error:g} is too small: {WIDTHS[-1]} bits give {found:.3g} for {name!r}"
        raise TargetError(f"{message}; use rd, or lossless")

    def _quantize(self, number: int, bits: int, stretch: float) -> QuantizedTensor:
        tensor, grid = self.tensors[number], self._grids[number][bits - WIDTHS[0]]
        return grid.stretched(stretch).quantize(tensor, self._rows(tensor), self._rounding)

    def _rows(self, tensor: WeightTensor) -> np.ndarray:
        """Return the weights, float32[rows that have an end of their own, columns]."""
        rows = tensor.shape[0] if self._per_channel and len(tensor.shape) > 1 else 1
        return np.ascontiguousarray(tensor.load(), np.float32).reshape(rows, -1)


def _relative_norm(errors: np.ndarray, weights: np.ndarray, norm: int) -> float:
    """Return the squared L_m norm of errors over that of the weights; 0 for a tensor of zeros."""
    peak = np.abs(weights).max(initial=0)
    if peak == 0:
        return 0.0
    lost, whole = (float((np.abs(x / peak).astype(np.float64) ** norm).sum()) for x in (errors, weights))
    return (lost / whole) ** (2 / norm)


def _in_one_unit(losses: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the geometric means of both where distances are known, else losses at the rate of the other tensors."""
    known = distances.any(axis=1, keepdims=True)
    if not known.any():
        return losses
    means = np.sqrt(losses * distances)
    rate = means.sum() / max(float((losses * known).sum()), 1e-300)
    return np.where(known, means, losses * rate)
