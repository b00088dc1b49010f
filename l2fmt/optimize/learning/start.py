"""What training starts from: the module as it will run, the weights and grids of another method or of plain ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2fmt.dtypes import dtype_by_torch_name
from l2fmt.optimize.base import Calibration, Method, Task, WeightTensor, get_method
from l2fmt.optimize.learning.quantizers import Quantizer, make_quantizer
from l2fmt.optimize.learning.settings import Settings
from l2fmt.optimize.learning.student import (
    Student,
    fold_statistics,
    reestimate_statistics,
    round_statistics,
    working_copy,
)
from l2fmt.pipeline import QuantizedTensor, Size

_MARGIN = 0.45  # how far from its code, in steps, a weight may begin: near a border, where the rate has a say


class Start:
    """Makes the student. `tensors` are those to be coded, `fixed` the vectors that differ from the model's already.

    `codes` are those that another method has begun with, which fit the budget: none for a start from ranges. `begin` is
    that method, by default the one of the settings' name.
    """

    def __init__(
        self,
        settings: Settings,
        tensors: Sequence[WeightTensor],
        calibration: Calibration,
        begin: Method | None = None,
    ):
        self._settings, self._calibration, self._begin = settings, calibration, begin
        self._module = working_copy(calibration.module)
        self.fixed = self._fold()
        self.codes: list[QuantizedTensor] = []
        self.tensors = list(tensors)
        own = self._module.named_parameters(remove_duplicate=False)
        self._vectors = [name for name, _ in own if name in calibration.vectors]
        if settings.vectors == "uniform":
            self.tensors += [self._vector(name) for name in self._vectors]
            self._vectors = []

    def _fold(self) -> dict[str, np.ndarray]:
        """Fold statistics if asked to, round the others as the file will; return what then differs from the model."""
        adjustable = self._calibration.vectors
        changed = fold_statistics(self._module, adjustable) if self._settings.fold_statistics else {}
        round_statistics(self._module, adjustable, self._calibration.mantissa_bits)
        return {name: _array(tensor) for name, tensor in changed.items()}

    def _set(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Give the module these vectors."""
        own = dict(self._module.named_parameters(remove_duplicate=False)) | dict(self._module.named_buffers())
        with torch.no_grad():
            for name, vector in vectors.items():
                own[name].copy_(torch.from_numpy(vector))

    def _vector(self, name: str) -> WeightTensor:
        parameter = dict(self._calibration.module.named_parameters(remove_duplicate=False))[name]
        dtype = dtype_by_torch_name(str(parameter.dtype).removeprefix("torch."))
        return WeightTensor(
            name, dtype, tuple(parameter.shape), lambda: _array(self._module.get_parameter(name).reshape(-1))
        )

    def _named(self) -> Method:
        """Return the method that the settings name, with settings like theirs."""
        settings, alike = self._settings, dict[str, Any]()
        if settings.start == "obs":
            alike = {"blocks": settings.block_weight > 0, "heads": settings.heads}
            alike |= {"batch_size": settings.batch_size, "seed": settings.seed}
            alike["fold_statistics"] = settings.fold_statistics
            alike["octave_norms"] = not settings.reestimate_statistics  # which are found with norms as they are
        return get_method(settings.start, alike)

    def student(self, task: Task) -> Student:
        """Return the student as training finds it, at the size of the task if another method is to begin."""
        settings, calibration = self._settings, self._calibration
        weights: dict[str, Tensor] = {}
        quantizers: dict[str, Quantizer] = {}
        units: dict[str, float] = {}

        def begin(tensor: WeightTensor, code: QuantizedTensor | None) -> None:
            weight = torch.from_numpy(np.array(tensor.load(), np.float32).reshape(tensor.shape))
            scales: list[Tensor] = []
            step, kind = None, settings.transform if len(tensor.shape) > 1 else "linear"
            unit = float(weight.double().square().mean().sqrt()) or 1.0
            if code is not None:
                step = unit = code.transform.step  # type: ignore[attr-defined]
                scales = [torch.from_numpy(scale) for scale in code.scales]
                for scale in scales:
                    weight = weight / scale
                if kind in ("linear", "joint"):
                    # The codes' errors cancel: the weights begin in their cells, as near as they can.
                    q = torch.from_numpy(code.codes.astype(np.float32)).reshape(tensor.shape)
                    weight = (weight / step).clamp(q - _MARGIN, q + _MARGIN) * step
            weights[tensor.name], units[tensor.name] = weight, unit
            quantizer = quantizers[tensor.name] = make_quantizer(kind, weight, step)
            for scale in scales:
                quantizer.scale_by(scale)

        matrices = [t for t in self.tensors if len(t.shape) > 1]
        coded: dict[str, QuantizedTensor] = {}
        if settings.start != "range":

            def folded(codes: Sequence[QuantizedTensor], vectors: Mapping[str, np.ndarray] | None = None) -> Size:
                return task.measure(codes, self.fixed | dict(vectors or {}))

            found = (self._begin or self._named()).quantize(replace(task, tensors=matrices, measure=folded))
            self.codes = found.codes
            coded = {code.name: code for code in found.codes}
            matrices = [tensor.with_rows_times(found.row_factors.get(tensor.name)) for tensor in matrices]
            self._set(found.vectors)
            self.fixed |= found.vectors
            self._vectors = [name for name in self._vectors if name not in found.settled]
        for tensor in matrices:
            begin(tensor, coded.get(tensor.name))
        if settings.reestimate_statistics:
            self._module = working_copy(calibration.module)
            values = {name: q(weights[name])[0].detach() for name, q in quantizers.items()}
            device = next(self._module.parameters()).device
            batches = (batch.to(device) for batch in calibration.samples.in_order(settings.batch_size))
            changed = reestimate_statistics(self._module, values, batches, calibration.vectors)
            self.fixed = {name: _array(tensor) for name, tensor in changed.items()} | self._fold()
        for tensor in self.tensors:
            if len(tensor.shape) < 2:
                begin(tensor, None)
        return Student(
            self._module, weights, quantizers, units, self._vectors, calibration.mantissa_bits, calibration.aliases
        )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()
