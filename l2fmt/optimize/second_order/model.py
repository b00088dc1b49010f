"""The layers of a model ready to be rounded with their curvatures, and the step of each."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from math import log, prod

import numpy as np
import torch

from l2codec import ClassMap, TableSet
from l2fmt.optimize.base import Progress, WeightTensor, decoded
from l2fmt.optimize.code_lengths import code_costs, fit_tables
from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.factor import Factor
from l2fmt.optimize.second_order.rounding import CodeCosts, Rounder, Rounding
from l2fmt.pipeline import QuantizedTensor
from l2fmt.transforms import Uniform

Tables = tuple[TableSet, list[ClassMap]]

_MAX_CODE = 4000  # on each side of zero: beyond it a table of 14 probability bits gets too coarse


class Model:
    """The layers ready to be rounded, and the step of each at scale 1.

    Tensors without a curvature are rounded as if all their weights counted alike, and with the model's typical step.
    """

    def __init__(
        self,
        tensors: Sequence[WeightTensor],
        curvatures: Mapping[str, Curvature],
        rounding: Rounding,
        progress: Progress,
    ):
        self.tensors, self.rounding = tensors, rounding
        loaded = [np.asarray(t.load(), np.float32) for t in tensors]
        self.size = sum(w.size for w in loaded)
        self._curvatures, self._rounders = [], []
        for number, (tensor, weights) in enumerate(zip(tensors, loaded, strict=True)):
            progress("preparing layers", number / len(tensors))
            rows = weights.reshape(weights.shape[0] if weights.ndim > 1 else 1, -1)
            self._curvatures.append(curvatures.get(tensor.name) or _without_data(rows))
            positions = prod(weights.shape[2:]) if weights.ndim > 1 else None
            self._rounders.append(Rounder.of(rows, self._curvatures[-1], rounding, positions))
        levels = np.array([r.level for r in self._rounders])
        known = np.array([t.name in curvatures for t in tensors])
        typical = float(np.exp(np.log(levels[known]).mean())) if known.any() else 1.0
        for number in np.flatnonzero(~known):  # in the unit of those that were measured
            factor = float(typical / levels[number])
            curvature, rounder = self._curvatures[number], self._rounders[number]
            self._curvatures[number] = replace(curvature, sensitivity=curvature.sensitivity * factor)
            self._rounders[number] = replace(rounder, rows=Factor(rounder.rows.matrix * factor, None))
        self._levels = np.where(known, levels, typical)
        self._bases = (typical ** (1 - rounding.step_exponent) * self._levels**rounding.step_exponent) ** -0.5
        peaks = np.array([float(np.abs(r.weights).max(initial=0)) for r in self._rounders])
        self._finest_steps = np.maximum(peaks / _MAX_CODE, float(np.finfo(np.float32).tiny))
        self.finest_scale = float((self._finest_steps / self._bases).min())
        self._spreads = [float(r.weights.std()) for r in self._rounders]

    def at_rate(self, rate_weight: float) -> "Model":
        """Return the same model with another weight of code lengths."""
        other = copy(self)
        other.rounding = replace(self.rounding, rate_weight=rate_weight)
        return other

    def distance(self, codes: Sequence[QuantizedTensor]) -> float:
        """Return the distance of outputs that the errors of these codes cause, by the curvatures as they were given."""
        total = 0.0
        for tensor, code, curvature, rounder in zip(self.tensors, codes, self._curvatures, self._rounders, strict=True):
            weights = np.asarray(tensor.load(), np.float32).reshape(-1, rounder.weights.shape[2])
            total += curvature.distance(decoded(code).reshape(weights.shape) - weights)
        return total

    def first_scale(self, bits: float) -> float:
        """Return the scale at which rounding of Gaussian weights takes `bits` a weight."""
        total, weights = 0.0, 0
        for rounder, spread, base in zip(self._rounders, self._spreads, self._bases, strict=True):
            if spread > 0:
                total += rounder.weights.size * np.log2(spread / base * np.sqrt(2 * np.pi * np.e))
                weights += rounder.weights.size
        return float(2.0 ** (total / max(weights, 1) - bits))

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        """Return all codes with steps of `scale` times the base steps."""
        rounding = self.rounding
        rounds = 1 + (rounding.refits if rounding.rate_weight > 0 else 0)
        tables: Tables | None = None
        codes: list[QuantizedTensor] = []
        for number in range(rounds):
            if number:
                progress("fitting tables", number / rounds)
                tables = self.fitted(codes)
            chosen = []
            for i in range(len(self.tensors)):
                progress("rounding", (number + i / len(self.tensors)) / rounds)
                chosen.append(self.rounded(i, scale, tables, careful=number == rounds - 1))
            codes = chosen
        return codes

    def fitted(self, codes: Sequence[QuantizedTensor]) -> Tables | None:
        """Return the tables that will code these codes; None if code lengths do not count."""
        if self.rounding.rate_weight == 0:
            return None
        return fit_tables([code.codes for code in codes], [tensor.shape for tensor in self.tensors])

    def scale_of(self, codes: Sequence[QuantizedTensor]) -> float:
        """Return the scale that codes were made with."""
        steps = [code.transform.step for code in codes]  # type: ignore[attr-defined]
        return float(np.median(np.array(steps) / self._bases))

    def rounded(
        self, number: int, scale: float, tables: Tables | None, weights: np.ndarray | None = None, careful: bool = True
    ) -> QuantizedTensor:
        """Return the codes of one tensor, or of other weights in its place; without tables they cost nothing.

        Those that tables are only fitted to need not be `careful`: one path, and no second search.
        """
        tensor, rounder, rounding = self.tensors[number], self._rounders[number], self.rounding
        rounder = rounder if weights is None else rounder.of_other(weights)
        step = float(np.float32(max(scale * self._bases[number], self._finest_steps[number])))
        size = rounder.weights.size
        limit = min(2 * int(np.abs(rounder.weights).max(initial=0) / step) + 2, _MAX_CODE)
        costs = CodeCosts.none(limit, size)
        if tables is not None:
            # lambda of this step: distance a bit, of a rounding error at the tensor's typical curvature
            slope = rounding.rate_weight * log(2) / 6 * self._levels[number] * step * step
            costs = CodeCosts(code_costs(tables[0], limit), tables[1][number].slice(0, size), slope)
        passes, paths = (rounding.passes, rounding.paths) if careful else (0, 1)
        codes = rounder.round(step, costs, passes, paths)
        return QuantizedTensor(
            tensor.name,
            tensor.dtype,
            tensor.shape,
            codes.reshape(-1).astype(np.int16),
            Uniform(step),
            rounder.row_scale,
            rounder.column_scale,
        )


def _without_data(rows: np.ndarray) -> Curvature:
    """Return the curvature of a tensor that no layer with data is known for: all weights alike."""
    return Curvature(
        torch.ones((1, rows.shape[1]), dtype=torch.float64), torch.ones(rows.shape[0], dtype=torch.float64)
    )
