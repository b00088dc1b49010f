"""`obs`: second-order quantization with one trade-off for the whole model, from calibration data, without training.

Optimal brain surgery applied to rounding (Frantar and Alistarh 2022; GPTQ): the errors of a row's weights are made up
for by the weights after them, as the correlations of the layer's inputs say. What differs from the published forms:

* **One slope for all.** Curvatures include the squared gradients of the outputs, so that errors of all layers are in
  one unit, the relative squared distance of the model's outputs; one lambda, distance a bit, then fixes the step, the
  dead zone and the rounding of every layer: step^2 = 12 lambda / (h ln 2) for the curvature h that a
  rounding error meets (the high-rate entropy-coded quantizer).
* **Rounding by the coder's own code lengths**: the class model that will code the codes is fitted to them, and they are
  rounded again with lambda times their bits added.
* **Descent**: after the greedy pass single codes are changed while distance + lambda bits falls.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import ClassVar

import numpy as np
import torch

from l2codec import ClassMap, TableSet
from l2fmt.errors import InputError
from l2fmt.optimize.base import Budget, Calibration, Compressed, Measure, Progress, WeightTensor
from l2fmt.optimize.code_lengths import code_costs, fit_tables
from l2fmt.optimize.learning.distillation import Teacher
from l2fmt.optimize.learning.student import working_copy
from l2fmt.optimize.learning.taps import find_blocks
from l2fmt.optimize.search import codes_of_size
from l2fmt.optimize.second_order.curvature import Curvature, measure_curvature
from l2fmt.optimize.second_order.layers import find_layers
from l2fmt.optimize.second_order.rounding import Rounder
from l2fmt.pipeline import QuantizedTensor
from l2fmt.transforms import Uniform

_MAX_CODE = 4000  # on each side of zero: beyond it a table of 14 probability bits gets too coarse


@dataclass(frozen=True)
class SecondOrder:
    """Settings of the method, see the module.

    step_exponent: how far steps follow the curvature: 1 as the slope says, 0 one step for all; curvatures of layers are
        estimates, and half way has been the best.
    damping: added to the diagonal of each layer's input correlations, of its mean. row_damping: to the sensitivity of
        each output, of their mean.
    rate_weight: of code lengths in the rounding; 1 is the slope's own. refits: of the tables to the codes.
    passes: of descent. blocks: whether the outputs of blocks count beside the final ones, as in training.
    batch_size, seed: of measuring curvature.
    """

    step_exponent: float = 0.5
    damping: float = 0.01
    row_damping: float = 0.01
    rate_weight: float = 0.3
    passes: int = 2
    refits: int = 1
    batch_size: int = 50
    blocks: bool = True
    seed: int = 0
    name: ClassVar[str] = "obs"
    needs_module: ClassVar[bool] = True

    @property
    def settings(self) -> dict[str, object]:
        """The settings as recorded in the file."""
        return asdict(self)

    def quantize(
        self,
        tensors: Sequence[WeightTensor],
        budget: Budget,
        measure: Measure,
        progress: Progress,
        calibration: Calibration | None = None,
    ) -> Compressed:
        """Choose the codes of all tensors for a size; as `Method` says."""
        if calibration is None:
            raise InputError("method obs needs a module and calibration data")
        if budget.file_bytes is None and budget.weight_bits is None:
            raise InputError("method obs quantizes to a size: give a target ratio, or bits a weight")
        if not tensors:
            return Compressed([])
        model = _Model(self, tensors, calibration, progress)
        return Compressed(codes_of_size(model, budget, measure, progress))


METHOD = SecondOrder


class _Model:
    """The layers ready to be rounded, and the step of each at scale 1."""

    def __init__(
        self, method: SecondOrder, tensors: Sequence[WeightTensor], calibration: Calibration, progress: Progress
    ):
        self.method, self.tensors = method, tensors
        module = working_copy(calibration.module)
        layers = find_layers(module, [t.name for t in tensors])
        blocks = find_blocks(module) if method.blocks else []
        teacher = Teacher(module, blocks)
        teacher.probe(next(calibration.samples.in_order(method.batch_size)))
        curvatures = measure_curvature(
            teacher,
            list(layers.values()),
            calibration.samples,
            method.batch_size,
            method.seed,
            lambda done: progress("measuring curvature", done),
        )
        loaded = [np.asarray(t.load(), np.float32) for t in tensors]
        self.size = sum(w.size for w in loaded)
        self.rounders = []
        for number, (tensor, weights) in enumerate(zip(tensors, loaded, strict=True)):
            progress("factorizing", number / len(tensors))
            rows = weights.reshape(weights.shape[0] if weights.ndim > 1 else 1, -1)
            found = curvatures.get(tensor.name) or _without_data(rows)
            self.rounders.append(Rounder.of(rows, found, method.damping, method.row_damping))
        levels = np.array([r.level for r in self.rounders])
        known = np.array([t.name in curvatures for t in tensors])
        typical = float(np.exp(np.log(levels[known]).mean())) if known.any() else 1.0
        levels = np.where(known, levels, typical)
        self.bases = (typical ** (1 - method.step_exponent) * levels**method.step_exponent) ** -0.5
        self.levels = levels
        peaks = np.array([float(np.abs(w).max(initial=0)) for w in loaded])
        self.finest_steps = np.maximum(peaks / _MAX_CODE, float(np.finfo(np.float32).tiny))
        self.finest_scale = float((self.finest_steps / self.bases).min())
        self.spreads = [float(w.std()) for w in loaded]

    def first_scale(self, bits: float) -> float:
        """Return the scale at which rounding of Gaussian weights takes `bits` a weight."""
        total, weights = 0.0, 0
        for rounder, spread, base in zip(self.rounders, self.spreads, self.bases, strict=True):
            if spread > 0:
                total += rounder.weights.size * np.log2(spread / base * np.sqrt(2 * np.pi * np.e))
                weights += rounder.weights.size
        return float(2.0 ** (total / max(weights, 1) - bits))

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        """Return all codes with steps of `scale` times the base steps."""
        method = self.method
        steps = [float(np.float32(max(scale * b, f))) for b, f in zip(self.bases, self.finest_steps, strict=True)]
        rounds = 1 + (method.refits if method.rate_weight > 0 else 0)
        codes: list[np.ndarray] = []
        for number in range(rounds):
            fitted = None
            if number:
                progress("fitting tables", number / rounds)
                fitted = fit_tables(codes, [t.shape for t in self.tensors])
            passes = method.passes if number == rounds - 1 else 0
            chosen = []
            for i, step in enumerate(steps):
                progress("rounding", (number + i / len(steps)) / rounds)
                chosen.append(self._round(i, step, fitted and (fitted[0], fitted[1][i]), passes))
            codes = chosen
        return [
            QuantizedTensor(t.name, t.dtype, t.shape, c, Uniform(step))
            for t, c, step in zip(self.tensors, codes, steps, strict=True)
        ]

    def _round(self, number: int, step: float, fitted: tuple[TableSet, ClassMap] | None, passes: int) -> np.ndarray:
        """Return the codes of a tensor, int16; without tables they cost nothing."""
        rounder = self.rounders[number]
        size = rounder.weights.size
        limit = min(2 * int(np.abs(rounder.weights).max(initial=0) / step) + 2, _MAX_CODE)
        costs, classes, slope = np.zeros((1, 2 * limit + 1), np.float32), np.zeros(size, np.uint8), 0.0
        if fitted is not None:
            tables, class_map = fitted
            costs, classes = code_costs(tables, limit), class_map.slice(0, size)
            # lambda of this step: distance a bit, of a rounding error at the tensor's typical curvature
            slope = self.method.rate_weight * log(2) / 6 * self.levels[number] * step * step
        return rounder.round(step, slope, costs, classes, limit, passes).reshape(-1).astype(np.int16)


def _without_data(rows: np.ndarray) -> Curvature:
    """Return the curvature of a tensor that no layer with data is known for: all weights alike."""
    return Curvature(
        torch.ones((1, rows.shape[1]), dtype=torch.float64), torch.ones(rows.shape[0], dtype=torch.float64)
    )
