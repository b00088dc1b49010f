"""Rounding a layer with its curvature: error feedback (OBS, GPTQ), then descent on single codes.

An error of a weight is made up for by those that follow in its row, and by the rows that follow: where the curvature is
a product of a factor of the rows and one of the columns, so is the feedback (as in YAQA, arXiv 2505.22988).
Which follow is up to the factors: nothing of the order is in the file.
"""

from dataclasses import dataclass, replace

import numpy as np

from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.factor import Factor
from l2fmt.optimize.second_order.scales import paying_scales

_BLOCK = 96  # columns quantized before the others hear of it: one matrix product instead of many updates
_ROWS = 32  # whose codes change before the others hear of it


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

        Error feedback follows so many `paths`, then there are so many `passes` of descent.
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
            errors = np.empty((groups, count, last - first), np.float32)
            _kernels.feed_back(
                left, shifts, feedback, row_feedback, slopes, *costs.tables, paths, first, last, codes, errors
            )
            if last < columns:
                shifts[:, :, last:] -= errors @ feedback[:, first:last, last:]
        if passes:
            self._descend(scaled, costs, passes, codes)
        return codes

    def _descend(self, scaled: np.ndarray, costs: CodeCosts, passes: int, codes: np.ndarray) -> None:
        """Change single codes, in place, as long as that pays, in so many passes over all rows."""
        from l2fmt.optimize.second_order import _kernels

        groups, count, _ = codes.shape
        diagonal = self.rows.diagonal
        shares = np.empty((groups, 0, 0), np.float32)
        if self.rows.feedback is not None:
            shares = (self.rows.matrix / diagonal[:, :, None]).astype(np.float32)
        slopes = (costs.slope / diagonal).astype(np.float32)
        hessian = self.columns.matrix.astype(np.float32)
        products = (codes.astype(np.float32) - scaled) @ hessian
        for _ in range(passes):
            changed = 0
            for first in range(0, count, _ROWS):
                last = min(first + _ROWS, count)
                here = products[:, first:last]
                gradients = shares[:, first:last] @ products if shares.size else here.copy()
                changed += _kernels.descend(
                    products, gradients, hessian, shares, slopes, *costs.tables, first, last, codes
                )
            if not changed:
                break
