"""`l2`: joint pruning and quantization by training, to a size, after the paper this project implements.

Lossy and Lossless (L2) Post-training Model Size Compression (ICCV 2023): transforms with learned steps turn weights
into integer codes; a differentiable count of the codes gives the rate; the outputs of the full model, for calibration
data without labels, give the distortion. What differs from the paper by default, each a setting (measured in
benchmarks/accuracy/README.md): training starts from the codes of `rd` at the target size, transforms and weights are
trained together, the rate counts in both and is held at the target, and batch norms are folded and in evaluation mode.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from l2fmt.optimize.base import Aim, Compressed, DataUse, Method, Task, WeightTensor, decoded
from l2fmt.optimize.learning.checkpoint import Checkpoint
from l2fmt.optimize.learning.comparison import Comparison
from l2fmt.optimize.learning.counter import hard_bits
from l2fmt.optimize.learning.distillation import Teacher
from l2fmt.optimize.learning.landing import land
from l2fmt.optimize.learning.quantizers import MAX_CODE
from l2fmt.optimize.learning.settings import PRESETS, RATE_WEIGHT, Settings
from l2fmt.optimize.learning.start import Start
from l2fmt.optimize.learning.student import working_copy
from l2fmt.optimize.learning.taps import find_blocks
from l2fmt.optimize.learning.trainer import Trainer
from l2fmt.optimize.search import target_of
from l2fmt.pipeline import QuantizedTensor, Size

T = TypeVar("T")

_SHARE_TRAINED = 0.8  # of the samples, where training starts from codes: the others say whether it was of use


class L2(Settings, Method):
    """The method; its settings are those of `Settings`."""

    name: ClassVar[str] = "l2"
    needs_module: ClassVar[bool] = True
    data: ClassVar[DataUse] = "always"
    aims: ClassVar[tuple[Aim, ...]] = ("size",)
    instead: ClassVar[str] = "trains to a size: give a target ratio, or bits a weight"
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    def _compress(self, task: Task) -> Compressed:
        return trained(self, task)


METHOD = L2


def trained(settings: L2, task: Task, begin: Method | None = None) -> Compressed:
    """Return what training makes of the codes of another method, by default the one that the settings name."""
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode is
        return _Run(settings, task, begin).result()


class _Run:
    """One compression: a start, training, landing on the size, and the vectors' last word."""

    def __init__(self, settings: L2, task: Task, begin: Method | None):
        assert task.calibration is not None
        self._settings, self._task, self._calibration = settings, task, task.calibration
        calibration = self._calibration
        self._target, self._of = target_of(task.budget, _count(task.tensors))
        self._checkpoint = Checkpoint(calibration.checkpoint, self._identity(begin))
        self._seconds: dict[str, float] = {}
        module = working_copy(calibration.module)
        self._teacher = Teacher(module, settings.blocks or tuple(find_blocks(module)), settings.heads)
        self._teacher.probe(next(calibration.samples.in_order(settings.batch_size)))
        self._trained = self._judges = calibration.samples
        if settings.start != "range":
            self._trained, others = calibration.samples.split(_SHARE_TRAINED, settings.seed)
            self._judges = others if others.count else self._trained
        self._start = Start(settings, task.tensors, calibration, begin)
        self._tensors = self._start.tensors
        self._student = self._timed("start", lambda: self._start.student(task))
        self._last = Size(0, 0)

    def result(self) -> Compressed:
        """Train, and return the codes and vectors that meet the size."""
        settings, task, student = self._settings, self._task, self._student
        comparison = Comparison(settings, student, self._teacher)

        def distance(values: dict[str, Tensor] | None) -> float | None:
            if values is None:
                return None
            task.progress("comparing outputs", 0.0)
            return self._timed("comparison", lambda: comparison.mean_distance(values, self._judges))

        before = distance(self._begun())
        trainer = Trainer(
            settings,
            student,
            comparison,
            self._trained,
            self._sizes,
            self._target,
            self._rate_weight(before),
            self._shown_size,
            self._checkpoint,
            task.progress,
        )
        trainer.run()
        expected, counted = trainer.expected(), self._hard_bits(student.integers())

        def landing() -> list[np.ndarray]:
            with torch.no_grad():
                codes = student.decoded()[1]
            real = [codes[t.name].clamp(-MAX_CODE, MAX_CODE).cpu().numpy() for t in self._tensors]
            return land(
                real, self._target, lambda codes: getattr(task.measure(self._coded(codes), self._vectors()), self._of)
            )

        codes = self._timed("landing", landing)
        found = self._coded(codes)
        vectors = self._vectors()
        slope = trainer.estimate.state[2]
        expected += slope * (self._hard_bits({t.name: q for t, q in zip(self._tensors, codes, strict=True)}) - counted)
        if settings.settle_iterations:
            values = self._values(codes)
            self._timed("settling", lambda: trainer.settle(values, settings.settle_iterations))
            if getattr(task.measure(found, self._vectors()), self._of) <= self._target:
                vectors = self._vectors()
        if self._of == "weight_bytes":
            expected += self._last.file_bytes - self._last.weight_bytes
        after = distance(None if before is None else self._values(codes))
        seconds = self._seconds | trainer.seconds
        if before is not None and after is not None and before < after:
            note = "training brought the outputs no nearer to the model's: the codes are those it started from"
            return Compressed(self._start.codes, self._start.fixed, None, seconds, [note])
        return Compressed(found, vectors, round(expected), seconds)

    def _begun(self) -> dict[str, Tensor] | None:
        """Return the weights and vectors of the codes that training starts from; None where it starts from none."""
        begun = {code.name: code for code in self._start.codes}
        if set(begun) != {tensor.name for tensor in self._tensors}:
            return None
        student = self._student
        values = {name: torch.from_numpy(decoded(code)).to(student.device) for name, code in begun.items()}
        return values | {name: student.module.get_parameter(name) for name in student.vectors}

    def _rate_weight(self, distance: float | None) -> float:
        """Return what the rate weighs at first, for codes at that distance from the full model.

        By the law of 6 dB a bit, D ~ 4^-bits, one bit a weight more saves 2 ln 2 D; the loss has D + weight * size /
        target.
        """
        settings = self._settings
        if settings.rate_weight is not None:
            return settings.rate_weight
        if not distance or settings.label_weight:  # the cross-entropy does not go to 0
            return RATE_WEIGHT
        return 2 * math.log(2) * distance * 8 * self._target / _count(self._tensors)

    def _coded(self, codes: Sequence[np.ndarray]) -> list[QuantizedTensor]:
        """Return integer codes with what decodes them."""
        begun, result = {code.name: code for code in self._start.codes}, []
        for tensor, q in zip(self._tensors, codes, strict=True):
            transform = self._student.quantizers[tensor.name].transform(int(np.abs(q).max(initial=0)))
            code = QuantizedTensor(tensor.name, tensor.dtype, tensor.shape, q.reshape(-1), transform)
            if before := begun.get(tensor.name):
                code = replace(code, row_scale=before.row_scale, column_scale=before.column_scale)
            result.append(code)
        return result

    def _vectors(self) -> dict[str, np.ndarray]:
        """Return all vectors that differ from the model's."""
        return self._start.fixed | {name: _array(vector) for name, vector in self._student.vectors.items()}

    def _sizes(self) -> tuple[int, int]:
        """Return the exact size of the present codes, and the bytes of codes in it."""
        integers = self._student.integers()
        self._last = self._task.measure(self._coded([integers[t.name] for t in self._tensors]), self._vectors())
        return getattr(self._last, self._of), self._last.weight_bytes

    def _shown_size(self, size: float) -> str:
        if self._of == "file_bytes":
            return f"ratio {self._calibration.original_bytes / max(size, 1):.2f}"
        return f"{8 * size / _count(self._tensors):.3f} bits a weight"

    def _values(self, codes: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Return the decoded weights of integer codes."""
        with torch.no_grad():
            return {
                t.name: self._student.quantizers[t.name].decoded(torch.from_numpy(q).float().to(self._student.device))
                for t, q in zip(self._tensors, codes, strict=True)
            }

    def _hard_bits(self, integers: dict[str, np.ndarray]) -> float:
        return sum(hard_bits(torch.from_numpy(q).float()) for q in integers.values())

    def _identity(self, begin: Method | None) -> str:
        """Return what tells this run from others, for the checkpoint."""
        calibration = self._calibration
        settings = [self._settings.settings, begin.settings if begin else None]
        parts = [settings, calibration.samples.digest, calibration.fingerprint, self._target, self._of]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _timed(self, phase: str, call: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return call()
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.monotonic() - began


def _count(tensors: Sequence[WeightTensor]) -> int:
    return sum(int(np.prod(t.shape)) for t in tensors)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()
