"""`dfq`: uniform quantization of equalized weights with corrected biases, from the module's graph, data or none.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019): batch norms are
folded into the weights, the ranges of consecutive layers equalized, the weights rounded on a min-max grid, and the
biases corrected for the shift of mean outputs, as batch norms (or calibration data, if given) say. What differs:

* **The file is of the original module**, whose operations cannot change: clipped activations (ReLU6), which the paper
  replaces by ReLU, stay, and no ranges are equalized across them. `per_channel` serves such models.
* **A size fixes the step**: all steps are the same share of their layer's range, found for the size of the whole file.
  Without one the grids have 2^`bits` values, as published.
* **High biases** are absorbed only if asked for, because it serves quantized activations, which a file does not have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import inf
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from l2fmt.errors import InputError, TargetError
from l2fmt.optimize.base import Aim, Budget, Compressed, DataUse, Method, Task, WeightTensor, decoded
from l2fmt.optimize.equalization.correction import correct_by_data, correct_by_moments
from l2fmt.optimize.equalization.graph import arrays_of, find_units, trace
from l2fmt.optimize.equalization.moments import input_means
from l2fmt.optimize.equalization.scaling import absorb, equalize, fold
from l2fmt.optimize.learning.distillation import Teacher
from l2fmt.optimize.learning.student import working_copy
from l2fmt.optimize.nearest import Grid, NearestModel
from l2fmt.optimize.search import TOLERANCE, codes_of_size
from l2fmt.pipeline import QuantizedTensor, Size

_ATTEMPTS = 6  # to meet a size with the corrected biases, which change it by some bytes


@dataclass(frozen=True)
class DataFree(Method):
    """Settings of the method, see the module.

    bits: of a weight where no size is given, 2 to 12. symmetric: whether grids reach as far on both sides of zero.
    per_channel: whether each row has a range of its own. equalize, absorb, correct: whether to do these.
    batch_size, batches: of the calibration data that biases are corrected by, if there are any.
    """

    bits: int = 8
    symmetric: bool = False
    per_channel: bool = False
    equalize: bool = True
    absorb: bool = False
    correct: bool = True
    batch_size: int = 32
    batches: int = 8
    name: ClassVar[str] = "dfq"
    needs_module: ClassVar[bool] = True
    data: ClassVar[DataUse] = "optional"
    aims: ClassVar[tuple[Aim, ...]] = ("size", "default")
    instead: ClassVar[str] = "changes weights before it rounds them: give a target ratio, or bits"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 12:
            raise InputError(f"dfq: bits must lie in [2, 12], not {self.bits}")
        self._require_at_least(1, "batch_size", "batches")

    def _compress(self, task: Task) -> Compressed:
        return _Run(self, task).result()


METHOD = DataFree


class _Run:
    """A module with equalized weights, and the codes and biases of a size."""

    def __init__(self, method: DataFree, task: Task):
        assert task.calibration is not None
        self._method, self._task, calibration = method, task, task.calibration
        self._module = working_copy(calibration.module).cpu()
        for batch in islice(calibration.samples.in_order(method.batch_size), 1):
            Teacher(self._module, ()).run(batch)  # says what does not fit
        graph, names = trace(self._module), task.names
        self._units = find_units(self._module, graph, names, calibration.vectors, calibration.aliases)
        if not self._units:
            parts = ", ".join(repr(node.target) for node in graph.nodes if node.op == "call_module") or "it"
            message = f"method dfq finds no layer to work on in the {type(self._module).__name__}"
            raise InputError(f"{message}: {parts} cannot be traced, or has no weights to quantize")
        fold(self._units)
        pairs = equalize(self._units) if method.equalize else 0
        if method.absorb:
            absorb(self._units)
        norms = sum(unit.norm is not None for unit in self._units)
        self._notes = [f"dfq: {norms} batch norms folded, {pairs} pairs of layers equalized"]
        self._biases = {unit.path: unit.bias.clone() for unit in self._units if unit.bias is not None}
        own = dict(self._module.named_parameters(remove_duplicate=False))
        self._model = NearestModel([self._grid(tensor, own) for tensor in task.tensors])

    def _grid(self, tensor: WeightTensor, own: Mapping[str, Tensor]) -> Grid:
        changed = {f"{unit.path}.weight" for unit in self._units}
        weights = own[tensor.name].detach().numpy() if tensor.name in changed else np.asarray(tensor.load(), np.float32)
        rows = weights.reshape(weights.shape[0], -1)
        scale = None
        if self._method.per_channel:
            ranges = _ranges(rows, 1, self._method.symmetric)
            scale = np.where(ranges > 0, ranges, 1.0).astype(np.float32)
            rows = rows / scale[:, None]
        base = float(_ranges(rows, None, self._method.symmetric))
        return Grid(tensor, weights, base or 1.0, row_scale=scale)

    def result(self) -> Compressed:
        """Return codes and vectors that meet the budget."""
        budget, measuring = self._task.budget, replace(self._task, measure=self._measured)
        if budget.aim == "default":
            intervals = 2**self._method.bits - (2 if self._method.symmetric else 1)
            codes = self._model.codes(1 / intervals, self._task.progress)
            return self._compressed(codes)
        if budget.file_bytes is None:
            return self._compressed(codes_of_size(self._model, measuring))
        target = aim = budget.file_bytes
        best: tuple[Compressed, int] | None = None
        low: float = 0  # the highest aim that ended too low
        high, size = inf, 0  # the lowest that ended too high
        for _ in range(_ATTEMPTS):
            codes = codes_of_size(self._model, replace(measuring, budget=Budget(file_bytes=aim)))
            found = self._compressed(codes)
            size = self._task.measure(found.codes, found.vectors).file_bytes
            if size <= target and (best is None or size > best[1]):
                best = found, size
            if target * (1 - TOLERANCE) <= size <= target:
                break
            low, high = (max(low, aim), high) if size < target else (low, min(high, aim))
            aim = target - (size - self._measured(codes).file_bytes)
            if high < inf and not low < aim < high:  # what corrections add is not the same each time
                aim = int(low + high) // 2
        if best is None:
            raise TargetError(f"{target:,} bytes cannot be reached: corrected biases make it {size:,}", size)
        return best[0]

    def _measured(self, codes: Sequence[QuantizedTensor], vectors: object = None) -> Size:
        """Return the size with biases as they are."""
        return self._task.measure(codes, arrays_of(self._units))

    def _compressed(self, codes: list[QuantizedTensor]) -> Compressed:
        """Return codes with the biases corrected for them, and leave the module's as they were."""
        method, notes, calibration = self._method, list(self._notes), self._task.calibration
        if method.correct:
            values = {code.name.removesuffix(".weight"): torch.from_numpy(decoded(code)) for code in codes}
            if calibration is not None and calibration.samples.count:
                batches = list(islice(calibration.samples.in_order(method.batch_size), method.batches))
                report = partial(self._task.progress, "correcting biases")
                bits = calibration.mantissa_bits
                corrected = correct_by_data(self._module, self._units, values, batches, bits, report)
            else:
                means = input_means(self._module, self._units)
                corrected = correct_by_moments(self._units, values, means)
            notes[0] += f", {corrected} biases corrected"
        vectors = arrays_of(self._units)
        with torch.no_grad():
            for unit in self._units:
                if unit.bias is not None:
                    unit.bias.copy_(self._biases[unit.path])
        return Compressed(codes, vectors, notes=notes)


def _ranges(rows: np.ndarray, axis: int | None, symmetric: bool) -> np.ndarray:
    """Return how far a grid must reach, from the lowest value to the highest, zero included."""
    if symmetric:
        return 2 * np.abs(rows).max(axis)
    return rows.max(axis, initial=0) - rows.min(axis, initial=0)
