"""Rounding a layer with its curvature: error feedback (OBS, GPTQ), then blocks of codes searched again.

An error of a weight is made up for by those that follow in its row, and by the rows that follow: where the curvature is
a product of a factor of the rows and one of the columns, so is the feedback (as in YAQA, arXiv 2505.22988).
Which follow is up to the factors: nothing of the order is in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.factor import Factor
from l2fmt.optimize.second_order.scales import paying_scales

_BLOCK = 96  # columns quantized before the others hear of it: one matrix product instead of many updates
_LEAST_CHANGED = 0.001  # of the codes: a pass that changes fewer is the last


@dataclass(frozen=True)
class Rounding:
    """How layers are rounded; the settings of method `obs` say what each means."""

    step_exponent: float = 1.0
    damping: float = 0.0
    row_damping: float = 0.0
    rate_weight: float = 0.0
    refits: int = 0
    passes: int = 0
    scales: bool = False
    by_importance: bool = True
    paths: int = 1

    def rows(self, curvature: Curvature) -> Factor:
        """Return the factor of the rows of a layer."""
        sensitivity, groups = curvature.sensitivity, curvature.hessian.shape[0]
        whole = sensitivity if sensitivity.dim() == 3 else sensitivity.reshape(groups, -1)
        return Factor.of(whole, self.row_damping, self.damping, self.by_importance)

    def columns(self, curvature: Curvature) -> Factor:
        """Return the factor of the columns of a layer."""
        return Factor.of(curvature.hessian, self.damping, self.damping, self.by_importance)


@dataclass(frozen=True, eq=False)
class CodeCosts:
    """What codes cost: bits float32[tables, 2 * limit + 1] of the codes from -limit to limit, by the table of each
    weight, classes uint8[weights]; and the distance that a bit is worth, the slope.
    """

    bits: np.ndarray
    classes: np.ndarray
    slope: float

    @classmethod
    def none(cls, limit: int, weights: int) -> "CodeCosts":
        """Return those of codes up to a limit that cost nothing."""
        return cls(np.zeros((1, 2 * limit + 1), np.float32), np.zeros(weights, np.uint8), 0.0)

    @property
    def tables(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Bits, classes and limit, as kernels take them."""
        return self.bits, self.classes, self.bits.shape[1] // 2

    def in_steps(self, step: float, turns: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> "CodeCosts":
        """Return them for distances in squared steps, and for weights of a shape in the order of rounding."""
        return CodeCosts(self.bits, self.classes.reshape(shape)[turns], self.slope / (step * step))


@dataclass(frozen=True, eq=False)
class Rounder:
    """A layer ready to be rounded.

    weights float32[groups, rows, columns], over the scales of their rows and columns if there are any; `rows` and
    `columns` are the factors of their curvature. `level` is the typical curvature that a rounding error meets.
    """

    weights: np.ndarray
    rows: Factor
    columns: Factor
    level: float
    row_scale: np.ndarray | None
    column_scale: np.ndarray | None

    @classmethod
    def of(
        cls,
        weights: np.ndarray,
        curvature: Curvature,
        rounding: Rounding,
        positions: int | None = None,
    ) -> "Rounder":
        """Prepare weights float32[rows of all groups, columns].

        With `positions`, how many neighbouring columns share a scale, rows and columns get scales if rounding has any,
        and where they pay, as `paying_scales` says.
        """
        groups = curvature.hessian.shape[0]
        shaped = np.ascontiguousarray(weights.reshape(groups, -1, weights.shape[1]))
        rows, columns = rounding.rows(curvature), rounding.columns(curvature)
        row_scale = column_scale = None
        if positions and rounding.scales:
            by_row = rows.as_given(rows.pivots).reshape(-1)
            row_scale = paying_scales(by_row, shaped.shape[2], rounding.step_exponent)
            means = np.exp(np.log(columns.as_given(columns.pivots)).reshape(groups, -1, positions).mean((0, 2)))
            column_scale = paying_scales(means, weights.shape[0] * positions, rounding.step_exponent)
        if row_scale is not None:
            by_row = row_scale.reshape(groups, -1)
            shaped, rows = shaped / by_row[:, :, None], rows.scaled(by_row)
        if column_scale is not None:
            by_column = np.repeat(column_scale, positions or 1)
            shaped, columns = shaped / by_column, columns.scaled(by_column[None])
        level = float(np.exp(np.log(columns.pivots).mean()) * rows.pivots.mean())
        return cls(shaped, rows, columns, level, row_scale, column_scale)

    def of_other(self, weights: np.ndarray) -> "Rounder":
        """Return the same for other weights, of any shape."""
        shaped = weights.reshape(self.weights.shape)
        if self.row_scale is not None:
            shaped = shaped / self.row_scale.reshape(*shaped.shape[:2], 1)
        if self.column_scale is not None:
            shaped = shaped / np.repeat(self.column_scale, self.weights.shape[2] // len(self.column_scale))
        return replace(self, weights=np.ascontiguousarray(shaped, np.float32))

    def round(self, step: float, costs: CodeCosts, passes: int, paths: int = 1) -> np.ndarray:
        """Return the codes, int32[rows of all groups, columns], of the least distance and costs at a step.

        Error feedback follows so many `paths`, then so many `passes` search for better codes.
        """
        groups, count, columns = self.weights.shape
        turns = (  # of all weights, in the order of rounding
            np.arange(groups)[:, None, None],
            self.rows.places(count)[:, :, None],
            self.columns.places(columns)[:, None],
        )
        scaled = self.weights[turns] * np.float32(1 / step)
        found = np.empty(scaled.shape, np.int32)
        found[turns] = self._codes(scaled, costs.in_steps(step, turns, scaled.shape), passes, paths)
        return found.reshape(-1, columns)

    def _codes(self, scaled: np.ndarray, costs: CodeCosts, passes: int, paths: int) -> np.ndarray:
        """Return the codes of weights in steps, all in the order of rounding."""
        from l2fmt.optimize.second_order import _kernels

        groups, count, columns = scaled.shape
        codes = np.empty(scaled.shape, np.int32)
        if self.columns.feedback is None:
            slopes = (costs.slope / self.rows.diagonal).astype(np.float32)
            hessian = self.columns.matrix.astype(np.float32)
            _kernels.round_alone(scaled, hessian, slopes, *costs.tables, codes)
            return codes
        slopes = (costs.slope / self.rows.pivots).astype(np.float32)
        feedback = self.columns.feedback.astype(np.float32)
        by_row = self.rows.feedback
        row_feedback = np.empty((groups, 0, 0), np.float32) if by_row is None else by_row.astype(np.float32)
        left, shifts = scaled.copy(), np.zeros_like(scaled)
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            own = _padded([feedback[:, first:last, first:last]])[:, 0]
            errors = np.empty((groups, count, last - first), np.float32)
            _kernels.feed_back(
                left, shifts, own, row_feedback, slopes, *costs.tables, paths, first, last, codes, errors
            )
            if last < columns:
                shifts[:, :, last:] -= errors @ feedback[:, first:last, last:]
        if passes:
            self._search_again(scaled, costs, passes, paths, codes)
        return codes

    def _search_again(self, scaled: np.ndarray, costs: CodeCosts, passes: int, paths: int, codes: np.ndarray) -> None:
        """Replace blocks of codes, in place, by better ones, in so many passes over all rows."""
        from l2fmt.optimize.second_order import _kernels

        diagonal = self.rows.diagonal
        shares = np.empty((len(codes), 0, 0), np.float32)
        if self.rows.feedback is not None:
            shares = (self.rows.matrix / diagonal[:, :, None]).astype(np.float32)
        slopes = (costs.slope / diagonal).astype(np.float32)
        hessian = self.columns.matrix.astype(np.float32)
        products = (codes.astype(np.float32) - scaled) @ hessian
        blocks = [self._blocks(shift) for shift in (0, _BLOCK // 2)]  # in turns, as at an edge less is found
        for number in range(passes):
            changed = _kernels.search_again(
                products, hessian, *blocks[number % 2], shares, slopes, *costs.tables, paths, codes
            )
            if changed <= _LEAST_CHANGED * codes.size:
                break

    def _blocks(self, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the feedback of blocks of columns by themselves, padded, and where they end; the first is shorter."""
        columns = self.weights.shape[2]
        ends = np.array([*range(_BLOCK - shift, columns, _BLOCK), columns] if columns > _BLOCK else [columns])
        whole = torch.from_numpy(self.columns.matrix)
        factors = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(whole[:, start:end, start:end]))
            factors.append(torch.linalg.cholesky(inverse, upper=True).numpy())
        return _padded(factors), ends


def _padded(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Return blocks [groups, n, n] of any sizes as float32[groups, blocks, width, width], as kernels take them."""
    from l2fmt.optimize.second_order._kernels import CHUNK

    width = -(-max(block.shape[1] for block in blocks) // CHUNK) * CHUNK
    result = np.zeros((blocks[0].shape[0], len(blocks), width, width), np.float32)
    for number, block in enumerate(blocks):
        result[:, number, : block.shape[1], : block.shape[1]] = block
    return result
