"""Samples that a classifier makes of those it is given: pictures in which it sees other classes.

Pictures that are few, or of other things than a model was trained on, reach few of the directions that inputs of its
last layers can have, and what is fitted to them is wrong in the others. The model itself knows what is missing: copies
of the pictures are moved a little, until it sees in most of them a class drawn by chance, while what goes into its
batch norms keeps the mean and the variance that they remember of the training (DeepInversion, Yin et al. 2020, section
3.2, which begins with noise and takes thousands of iterations for pictures that please the eye).
"""

from collections import Counter
from dataclasses import replace
from math import cos, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2fmt.errors import InputError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.inputs.columns import MAX_BYTES, checked_columns
from l2fmt.optimize.base import Task
from l2fmt.optimize.learning.distillation import teacher_of
from l2fmt.optimize.learning.taps import float_tensors

_ITERATIONS = 10
_STEP = 0.04  # of an iteration, in deviations of the pictures
_NORMS_WEIGHT, _VARIATION_WEIGHT = 900.0, 10.0  # beside the cross-entropy
_SHIFTED = 14  # pictures are shifted by up to this part of their sides, so that no place is special


def with_synthetic(task: Task, count: int, batch_size: int, seed: int) -> Task:
    """Return the task with so many more calibration samples, made of its own `batch_size` at a time.

    Raises InputError for a model that is no classifier of pictures with batch norms, and for more samples than memory
    may hold.
    """
    calibration = task.calibration
    if not count or calibration is None:
        return task
    nbytes = sum(tensor.nbytes for tensor in next(calibration.samples.in_order(1)).args)
    if count * nbytes > MAX_BYTES:
        raise InputError(f"{count:,} synthetic samples of {nbytes:,} bytes exceed the {MAX_BYTES:,} allowed in memory")

    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode is
        maker, done = _Maker(calibration.module, calibration.samples, batch_size, seed), 0
        made: dict[torch.Size, Tensor] = {}  # by the shape of a picture: filled in place, as they take gigabytes
        filled = Counter[torch.Size]()
        while done < count:
            for batch in calibration.samples.sample(batch_size, count, seed + done):
                task.progress("making samples", done / count)
                pictures = maker.made_of(batch.args[0])[: count - done]
                shape, number = pictures.shape[1:], len(pictures)
                if shape not in made:
                    made[shape] = torch.empty((count, *shape))  # what is not filled takes no memory
                made[shape][filled[shape] : filled[shape] + number] = pictures
                filled[shape] += number
                done += number
                if done >= count:
                    break
        groups = [checked_columns({0: room[: filled[shape]]}, "the synthetic samples") for shape, room in made.items()]
        samples = calibration.samples.joined(CalibrationSet(groups))
    return replace(task, calibration=replace(calibration, samples=samples))


class _Maker:
    """A copy of the model, which pictures are changed for."""

    def __init__(self, module: nn.Module, samples: CalibrationSet, batch_size: int, seed: int):
        teacher = teacher_of(module, False, False)
        first = next(samples.in_order(1))
        norms = [m for m in teacher.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        norms = [norm for norm in norms if norm.running_mean is not None]
        x = first.args[0] if len(first.args) == 1 and not first.kwargs else None
        if not norms or x is None or x.dim() != 4 or not x.is_floating_point():
            raise InputError("synthetic samples are made for models with batch norms whose one input is pictures")
        teacher.probe(first)
        outputs = teacher.run(first.to(teacher.device, teacher.memory_format))[1]
        if len(outputs) != 1 or outputs[0].dim() != 2 or outputs[0].shape[1] < 2:
            raise InputError("synthetic samples are made for classifiers, whose one output is [samples, classes]")
        self._teacher, self._batch_size = teacher, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._mismatch: list[Tensor] = []
        for norm in norms:
            norm.register_forward_pre_hook(self._compare)
        self._classes = outputs[0].shape[1]
        self._left = torch.empty(0, dtype=torch.int64)  # of the classes in the order drawn

    def made_of(self, pictures: Tensor) -> Tensor:
        """Return pictures made of float32 [any, channels, height, width], several of each if there are too few."""
        repeats = -(-self._batch_size // pictures.shape[0])
        repeated = pictures.repeat(repeats, 1, 1, 1)[: self._batch_size]
        x = repeated.to(self._teacher.device, memory_format=self._teacher.memory_format).requires_grad_()
        lowest, highest = (f(x.detach(), (0, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        deviation = float(pictures.std(correction=0).clamp(min=1e-12))
        classes = self._draw().to(self._teacher.device)
        optimizer = torch.optim.Adam([x], betas=(0.5, 0.9))
        for iteration in range(_ITERATIONS):
            for group in optimizer.param_groups:
                group["lr"] = _STEP * deviation * (1 + cos(pi * iteration / _ITERATIONS)) / 2
            (x.grad,) = torch.autograd.grad(self._loss(self._moved(x), classes, deviation), [x])
            optimizer.step()
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, lowest), highest))
        return x.detach().cpu().contiguous()

    def _draw(self) -> Tensor:
        """Return the next classes: all take turns, in a new order each time."""
        while len(self._left) < self._batch_size:
            self._left = torch.cat([self._left, torch.randperm(self._classes, generator=self._generator)])
        drawn, self._left = self._left.split([self._batch_size, len(self._left) - self._batch_size])
        return drawn

    def _moved(self, x: Tensor) -> Tensor:
        down, right = (
            int(torch.randint(-(n // _SHIFTED), n // _SHIFTED + 1, (), generator=self._generator)) for n in x.shape[2:]
        )
        shifted = torch.roll(x, (down, right), (2, 3))
        return shifted.flip(3) if torch.rand((), generator=self._generator) < 0.5 else shifted

    def _loss(self, x: Tensor, classes: Tensor, deviation: float) -> Tensor:
        self._mismatch.clear()
        logits = next(float_tensors(self._teacher.module(x)))
        if not logits.requires_grad:
            raise InputError("synthetic samples are made for models whose outputs have a gradient")
        variation = x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()
        norms = sum(self._mismatch) / max(len(self._mismatch), 1)
        weighted = _NORMS_WEIGHT * norms + _VARIATION_WEIGHT * variation / deviation**2
        return F.cross_entropy(logits, classes) + weighted

    def _compare(self, norm: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Note how far what goes into a batch norm is from what it remembers, in its deviations."""
        x, mean, variance = _Moments.apply(given[0])  # type: ignore[misc]
        deviation = (norm.running_var + norm.eps).sqrt()
        by_mean = (mean - norm.running_mean) / deviation
        by_deviation = (variance + norm.eps).sqrt() / deviation - 1
        self._mismatch.append((by_mean.square() + by_deviation.square()).mean())
        return (x, *given[1:])


class _Moments(torch.autograd.Function):
    """What goes into a norm, with the mean and variance of each channel: torch takes twice as long for all of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        others = [i for i in range(x.dim()) if i != 1]
        mean = x.mean(others)
        variance = (x.square().mean(others) - mean.square()).clamp(min=0)
        ctx.save_for_backward(x, mean)
        return x.view_as(x), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        gradient, by_mean, by_variance = gradients
        count = x.numel() // mean.numel()
        by_channel = [-1 if i == 1 else 1 for i in range(x.dim())]
        slope = 2 * by_variance / count
        moved = by_mean / count - slope * mean
        return torch.addcmul(gradient, x, slope.view(by_channel)).add_(moved.view(by_channel))
