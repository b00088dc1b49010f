"""Rounding a layer with its curvature: error feedback column by column (OBS, GPTQ), then descent on single codes."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.scales import paying_scales

_BLOCK = 96  # columns quantized before the others hear of it: one matrix product instead of many updates
_DEAD = 1e-4  # of the mean: inputs that are hardly ever there, rows that hardly matter


@dataclass(frozen=True, eq=False)
class Rounder:
    """A layer ready to be rounded: damped curvature and its inverse's Cholesky factor; `None` if it is diagonal.

    weights float32[groups, rows, columns], over the scales of their rows and columns if there are any;
    hessian float32[groups, columns, columns] or [groups, columns]; feedback as `feed_back` wants it; sensitivity
    float64[groups, rows]. `level` is the typical curvature that a rounding error meets.
    """

    weights: np.ndarray
    hessian: np.ndarray
    feedback: np.ndarray | None
    sensitivity: np.ndarray
    level: float
    row_scale: np.ndarray | None
    column_scale: np.ndarray | None

    @classmethod
    def of(
        cls,
        weights: np.ndarray,
        curvature: Curvature,
        damping: float,
        row_damping: float,
        positions: int | None = None,
        exponent: float = 1.0,
    ) -> "Rounder":
        """Prepare weights float32[rows of all groups, columns].

        With `positions`, how many neighbouring columns share a scale, rows and columns get scales where they pay, as
        `paying_scales` says.
        """
        groups = curvature.hessian.shape[0]
        shaped = np.ascontiguousarray(weights.reshape(groups, -1, weights.shape[1]))
        sensitivity = curvature.sensitivity.cpu().numpy().reshape(groups, -1)
        mean = float(sensitivity.mean()) or 1.0
        sensitivity = np.maximum(sensitivity, _DEAD * mean) + row_damping * mean
        hessian = curvature.hessian
        if hessian.dim() == 2:
            hessian = hessian + damping * hessian.mean() + _tiny(hessian)
            inverse_squares, feedback = hessian, None
        else:
            hessian = damped(hessian, damping)
            upper = _feedback(hessian)
            inverse_squares = upper.diagonal(dim1=1, dim2=2) ** -2.0
            feedback = upper.float().cpu().numpy()
        pivots, curved = inverse_squares.cpu().numpy(), hessian.float().cpu().numpy()
        row_scale = column_scale = None
        if positions:
            row_scale = paying_scales(sensitivity.reshape(-1), shaped.shape[2], exponent)
            means = np.exp(np.log(pivots).reshape(groups, -1, positions).mean((0, 2)))
            column_scale = paying_scales(means, weights.shape[0] * positions, exponent)
        if row_scale is not None:
            rows = row_scale.reshape(groups, -1)
            shaped, sensitivity = shaped / rows[:, :, None], sensitivity * rows**2
        if column_scale is not None:
            columns = np.repeat(column_scale, positions or 1)
            shaped, pivots = shaped / columns, pivots * columns**2
            if feedback is None:
                curved = curved * columns**2
            else:
                curved, feedback = curved * columns[:, None] * columns, feedback / columns
        level = float(np.exp(np.log(pivots).mean()) * sensitivity.mean())
        return cls(shaped, curved, feedback, sensitivity, level, row_scale, column_scale)

    def of_other(self, weights: np.ndarray) -> "Rounder":
        """Return the same for other weights, of any shape."""
        shaped = weights.reshape(self.weights.shape)
        if self.row_scale is not None:
            shaped = shaped / self.row_scale.reshape(*shaped.shape[:2], 1)
        if self.column_scale is not None:
            shaped = shaped / np.repeat(
                self.column_scale, weights.size // self.sensitivity.size // len(self.column_scale)
            )
        return replace(self, weights=np.ascontiguousarray(shaped, np.float32))

    def round(
        self, step: float, slope: float, costs: np.ndarray, classes: np.ndarray, limit: int, passes: int
    ) -> np.ndarray:
        """Return the codes, int32[rows of all groups, columns], of the least distance + slope * bits at a step."""
        from l2fmt.optimize.second_order import _kernels

        scaled = self.weights * np.float32(1 / step)
        slopes = (slope / (self.sensitivity * step * step)).astype(np.float32)
        classes = classes.reshape(scaled.shape)
        codes = np.empty(scaled.shape, np.int32)
        if self.feedback is None:
            _kernels.round_alone(scaled, self.hessian, slopes, costs, classes, limit, codes)
            return codes.reshape(-1, scaled.shape[2])
        left = scaled.copy()
        columns = scaled.shape[2]
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            errors = np.empty((*scaled.shape[:2], last - first), np.float32)
            _kernels.feed_back(left, self.feedback, slopes, costs, classes, limit, first, last, codes, errors)
            if last < columns:
                left[:, :, last:] -= errors @ self.feedback[:, first:last, last:]
        if passes:
            gradient = (codes - scaled) @ self.hessian
            _kernels.descend(gradient, self.hessian, slopes, costs, classes, limit, passes, codes)
        return codes.reshape(-1, columns)


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return a stack of curvatures with `damping` times their mean diagonal added to it."""
    mean = hessian.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, mean.mean().clamp(min=1e-30))
    added = damping * mean[:, None] * torch.ones_like(hessian[:, 0])
    return hessian + torch.diag_embed(added.clamp(min=_DEAD * float(mean.mean())))


def _feedback(hessian: Tensor) -> Tensor:
    """Return U, upper triangular, U^T U being the inverse of each curvature."""
    lower = torch.linalg.cholesky(hessian)
    inverse = torch.cholesky_inverse(lower)
    return torch.linalg.cholesky(inverse, upper=True)


def _tiny(hessian: Tensor) -> Tensor:
    return _DEAD * hessian.mean().clamp(min=1e-30)
