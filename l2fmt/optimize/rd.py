"""`rd`: data-free rate-distortion quantization, one trade-off for the whole model.

Three ideas, each without data:

* **One slope for all tensors.** With distortion h (w - w')^2 and the high-rate entropy-coded quantizer, one slope
  lambda (distortion a bit) fixes every step: step^2 = 6 lambda / (h ln 2). `h` of a tensor is the typical norm
  of its rows to the power -2 `norm_exponent`: at 1 a row may err by a share of its energy in proportion to its length,
  which suits layers that a normalization follows; at 0 all weights share one step.
* **Errors that cancel.** Inputs of a layer are correlated (after a ReLU they share a positive mean, and neighbouring
  pixels are alike), so the sums of a row's errors, over each kernel and over the row, do far more harm than their size.
  Rounding minimises d^T H d for a prior H = I + `kernel` (ones within a kernel) + `row` (ones within a row), by
  coordinate descent. The structure is that of SQuant (Guo et al., ICLR 2022), which flips roundings until these sums
  vanish.
* **Rounding by the coder's own code lengths.** The tables and classes that will code the codes are fitted, the codes
  rounded again with lambda times their code length added (scaled by `rate_weight`). With a free step that gains a few
  percent at 2 bits a weight, and less above.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, log2, sqrt
from typing import ClassVar

import numpy as np

from l2codec import ClassMap, TableSet
from l2fmt.errors import TargetError
from l2fmt.optimize.base import Compressed, Method, Progress, Task, WeightTensor, relative_error
from l2fmt.optimize.code_lengths import as_rows, code_costs, fit_tables
from l2fmt.optimize.search import codes_of_size
from l2fmt.pipeline import QuantizedTensor
from l2fmt.transforms import Uniform

# The most levels on each side of zero: beyond it a table of 14 probability bits gets too coarse, and storing losslessly
# is better.
_MAX_CODE = 4000
_DEAD = 1e-3  # rows with a smaller share of the largest norm are as good as pruned
_TRIALS = 8  # to meet a largest error


@dataclass(frozen=True)
class RateDistortion(Method):
    """Settings of the method, see the module.

    Without a budget the mean over tensors, and in each over its rows, of the relative squared error is `default_error`.
    """

    norm_exponent: float = 0.75
    kernel: float = 0.3
    row: float = 0.3
    rate_weight: float = 1.0
    passes: int = 2
    refits: int = 1
    default_error: float = 4e-4
    name: ClassVar[str] = "rd"

    def _compress(self, task: Task) -> Compressed:
        model = _Model(self, task.tensors)
        if task.budget.max_error is not None:
            return Compressed(model.codes_within(task.budget.max_error, task.progress))
        if task.budget.aim == "default":
            return Compressed(model.codes(model.scale_of_mean_error(self.default_error), task.progress))
        return Compressed(codes_of_size(model, task))


METHOD = RateDistortion


class _Model:
    """The tensors with what does not change between trials: norms, base steps, and the largest weight of each."""

    def __init__(self, method: RateDistortion, tensors: Sequence[WeightTensor]):
        self.method, self.tensors = method, tensors
        self.sizes, norms, self.peaks, self.inverse_squares = [], [], [], []
        for tensor in tensors:
            weights = tensor.load()
            self.sizes.append(weights.size)
            typical, inverse = row_norms(weights)
            norms.append(typical)
            self.inverse_squares.append(inverse)
            self.peaks.append(float(np.abs(weights).max(initial=0)))
        self.size = sum(self.sizes)
        self.norms = norms
        positive = [n for n in norms if n > 0] or [1.0]
        middle = float(np.exp(np.mean(np.log(positive))))
        exponent = method.norm_exponent
        # A tensor of zeros has no scale: any step codes it.
        self.bases = [n**exponent * middle ** (1 - exponent) if n > 0 else 1.0 for n in norms]
        # The codes of a tensor are limited: below its own finest step a smaller scale no longer changes it.
        self.finest_steps = [max(peak / _MAX_CODE, float(np.finfo(np.float32).tiny)) for peak in self.peaks]
        self.finest_scale = min(step / base for step, base in zip(self.finest_steps, self.bases, strict=True))

    @property
    def error_gains(self) -> list[float]:
        """Mean over each tensor's rows of their relative squared error at scale 1, n step^2 / (12 norm^2)."""
        columns = [
            size / (t.shape[0] if len(t.shape) > 1 else 1) for size, t in zip(self.sizes, self.tensors, strict=True)
        ]
        return [
            n * b * b / 12 * inverse for n, b, inverse in zip(columns, self.bases, self.inverse_squares, strict=True)
        ]

    def scale_of_mean_error(self, error: float) -> float:
        """Return the scale at which the mean over tensors of `error_gains` is about `error`."""
        mean = float(np.mean(self.error_gains))
        return max(sqrt(error / mean), self.finest_scale) if mean > 0 else self.finest_scale

    def codes_within(self, error: float, progress: Progress) -> list[QuantizedTensor]:
        """Return codes of which no tensor's relative squared error exceeds `error`, and the largest comes near it."""
        largest = max(self.error_gains)
        scale = sqrt(error / largest) if largest > 0 else self.finest_scale  # a first guess: rows of equal norm
        result: list[QuantizedTensor] | None = None
        found = least = inf
        for trial in range(1, _TRIALS + 1):
            codes = self.codes(scale, lambda what, done, stage=f"trial {trial}": progress(f"{stage}: {what}", done))
            found = max(relative_error(t, code) for t, code in zip(self.tensors, codes, strict=True))
            least = min(least, found)
            if found <= error:
                result = codes
                if found >= 0.95 * error or trial > 2:
                    break
            if scale <= self.finest_scale and found > error:
                break
            # The error goes with the square of the scale; aim a little inside.
            scale = max(scale * sqrt(0.98 * error / found) if found > 0 else scale * 2, self.finest_scale)
        if result is None:
            message = f"a relative error of {error:g} is too small: {least:.3g} can be reached"
            raise TargetError(f"{message}, or use lossless")
        return result

    def first_scale(self, bits: float) -> float:
        """Return the scale at which plain rounding of a Gaussian source of each tensor's variance takes `bits` a
        weight.
        """
        # h(w) = log2(sigma sqrt(2 pi e)), and a step takes its logarithm off.
        total, weights = 0.0, 0
        for tensor, size, norm, base in zip(self.tensors, self.sizes, self.norms, self.bases, strict=True):
            if norm > 0:
                sigma = norm / sqrt(size / (tensor.shape[0] if len(tensor.shape) > 1 else 1))
                total += size * log2(sigma / base * sqrt(2 * np.pi * np.e))
                weights += size
        return 2.0 ** (total / max(weights, 1) - bits)

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        """Return all codes with steps of `scale` times the base steps."""
        steps = [
            float(np.float32(max(scale * base, finest)))
            for base, finest in zip(self.bases, self.finest_steps, strict=True)
        ]
        codes = [np.empty(0, np.int16)] * len(steps)
        rounds = 1 + (self.method.refits if self.method.rate_weight > 0 else 0)
        fitted: tuple[TableSet, list[ClassMap]] | None = None
        for number in range(rounds):
            if number:
                progress("fitting tables", number / rounds)
                fitted = fit_tables(codes, [t.shape for t in self.tensors])
            for i, tensor in enumerate(self.tensors):
                progress("rounding", (number + i / len(steps)) / rounds)
                codes[i] = self._round(tensor, steps[i], codes[i], fitted and (fitted[0], fitted[1][i]))
        return [
            QuantizedTensor(t.name, t.dtype, t.shape, c, Uniform(step))
            for t, c, step in zip(self.tensors, codes, steps, strict=True)
        ]

    def _round(
        self, tensor: WeightTensor, step: float, before: np.ndarray, fitted: tuple[TableSet, ClassMap] | None
    ) -> np.ndarray:
        from l2fmt.optimize._rounding import round_correlated

        method = self.method
        weights = np.ascontiguousarray(tensor.load(), np.float32)
        shape = as_rows(tensor.shape)
        inverse = np.float32(1) / np.float32(step)
        start = before if before.size else np.rint(weights * inverse)
        codes = start.astype(np.int32).reshape(shape)
        limit = int(np.abs(codes).max(initial=0)) + 1
        if fitted is None:
            costs, classes, trade_off = np.zeros((1, 2 * limit + 1), np.float32), np.zeros(shape, np.uint8), 0.0
        else:
            tables, class_map = fitted
            costs = code_costs(tables, limit)
            classes = class_map.slice(0, codes.size).reshape(shape)
            # The slope in units of step^2: lambda = step^2 ln 2 / 6.
            trade_off = method.rate_weight * log(2) / 6
        kernel = method.kernel if shape[2] > 1 else 0.0  # a kernel of one position has no sum of its own
        kernel, row, trade_off = np.float32(kernel), np.float32(method.row), np.float32(trade_off)
        rows = weights.reshape(shape)
        round_correlated(rows, inverse, costs, classes, limit, kernel, row, trade_off, method.passes, codes)
        return codes.reshape(-1).astype(np.int16)


def row_norms(weights: np.ndarray) -> tuple[float, float]:
    """Return the geometric mean of the norms of a tensor's rows, and the mean of their inverse squares; 0 for zeros.

    A normalization that follows gives each row the same weight, whatever its norm: errors count against the norm of
    their own row. Dead rows do not count.
    """
    rows = weights.reshape(weights.shape[0] if weights.ndim > 1 else 1, -1)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    alive = norms[norms > _DEAD * norms.max(initial=0)]
    return (float(np.exp(np.log(alive).mean())), float(np.mean(alive**-2.0))) if alive.size else (0.0, 0.0)
