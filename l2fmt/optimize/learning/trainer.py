"""The training loop of `l2`: transforms, weights, or all at once, against the full model's outputs and the rate."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from l2fmt.errors import InputError
from l2fmt.inputs.calibration import Batch, CalibrationSet
from l2fmt.optimize.base import Progress
from l2fmt.optimize.learning.checkpoint import Checkpoint, interruptible
from l2fmt.optimize.learning.comparison import Comparison
from l2fmt.optimize.learning.optimizers import cosine, make_optimizers, vector_groups
from l2fmt.optimize.learning.rate import Balance, Counting, Gate, RateEstimate
from l2fmt.optimize.learning.settings import Settings
from l2fmt.optimize.learning.student import Student, touched_rows
from l2fmt.optimize.search import AIM

_MEASURE_EVERY = 100  # iterations between two exact measurements of the size
_SAVE_EVERY = 60.0  # seconds between checkpoints
_PAST = 0.95  # weight of the past in the loss that is shown


class Trainer:
    """Trains a student towards a size; `run` it once, or again after an interruption with the same checkpoint.

    `measure` returns the size to be controlled as the student's present codes make it, and the bytes of the codes in
    it; `target` is what that size should be, `rate_weight` what the rate weighs beside the distance, or does at first,
    and `shown_size` says a size for people.
    """

    def __init__(
        self,
        settings: Settings,
        student: Student,
        comparison: Comparison,
        samples: CalibrationSet,
        measure: Callable[[], tuple[int, int]],
        target: int,
        rate_weight: float,
        shown_size: Callable[[float], str],
        checkpoint: Checkpoint,
        progress: Progress,
    ):
        self._settings, self._student, self._comparison, self._samples = settings, student, comparison, samples
        self._measure, self._target = measure, target
        self._shown_size, self._checkpoint, self._progress = shown_size, checkpoint, progress
        self._counting = Counting(settings.kernel, settings.resolution, settings.relaxation, settings.query_path)
        if settings.label_weight and not samples.has_labels:
            raise InputError("label_weight asks for labels, and the calibration data have none")
        self._find_reached()
        self._control = (Balance if settings.control == "balance" else Gate)(rate_weight)
        self._optimizers = make_optimizers(settings, student)
        self._loss = 0.0  # smoothed
        self.estimate = RateEstimate()
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Train through all phases that the checkpoint does not have behind it."""
        phases = self._settings.phases()
        total = sum(count for _, count in phases)
        done = self._load()
        if not total:
            self._calibrate()
        batches = self._batches(skip=done)
        first, saved = 0, time.monotonic()
        with interruptible() as interrupted:
            for number, (what, count) in enumerate(phases):
                began = time.monotonic()
                for iteration in range(max(first, done), first + count):
                    if iteration % _MEASURE_EVERY == 0:
                        self._calibrate()
                    self._set_rates((iteration + 0.5) / total)
                    size = self._iterate(what, self._comparison.prepared(next(batches), iteration))
                    turn = f" {number + 1} of {len(phases)}" if len(phases) > 1 else ""
                    stage = f"training {what}{turn}: loss {self._loss:.4f}, {self._shown_size(size)}"
                    self._progress(stage, (iteration + 1) / total)
                    if interrupted.is_set() or time.monotonic() - saved > _SAVE_EVERY:
                        self._save(iteration + 1)
                        saved = time.monotonic()
                    if interrupted.is_set():
                        raise KeyboardInterrupt
                first += count
                self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - began
        if done < total:
            self._save(total)

    def settle(self, values: dict[str, Tensor], iterations: int) -> None:
        """Train the vectors alone, with these weights."""
        groups = vector_groups(self._settings, self._student)
        if not iterations or not groups:
            return
        for vector in self._student.vectors.values():
            vector.requires_grad_()
        optimizer = torch.optim.Adam(groups)
        total = sum(count for _, count in self._settings.phases())
        batches = self._batches(skip=total)
        for iteration in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * cosine((iteration + 0.5) / iterations)
            batch = self._comparison.prepared(next(batches), total + iteration)
            optimizer.zero_grad()
            (self._comparison.distance(batch, values) * self._share(batch)).backward()
            optimizer.step()
            self._progress("training vectors", (iteration + 1) / iterations)

    def _iterate(self, what: str, batch: Batch) -> float:
        """Do one update and return the estimated size."""
        settings, student = self._settings, self._student
        for kind, optimizer in self._optimizers.items():
            trained = what in ("all", kind)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(trained)
            optimizer.zero_grad()
        values, codes = student.decoded()
        touched: dict[str, Tensor] = {}
        for name in student.partly:
            if values[name].requires_grad:
                values[name].register_hook(lambda gradient, name=name: _note_rows(touched, name, gradient))
        loss = self._comparison.distance(batch, values)
        shown = float(loss.detach())
        loss = loss * self._share(batch)
        if not math.isfinite(shown):
            raise InputError(
                f"training diverged: the distance from the full model is {shown}; try lower learning rates"
            )
        self._loss = _PAST * self._loss + (1 - _PAST) * shown if self._loss else shown
        if what == "weights" and not settings.rate_in_weights:
            with torch.no_grad():
                size = self.estimate.size(float(self._counting.bits(codes)))
        else:
            bits = self._counting.bits(codes)
            size = self.estimate.size(float(bits.detach()))
            weight = self._control(size / (self._target * AIM) - 1)
            loss = loss + weight * (bits / (8 * self._target)).to(loss.dtype)
        loss.backward()
        for name, rows in touched.items():  # where the data say nothing, the rate has no say either
            if (gradient := student.weights[name].grad) is not None:
                gradient[~rows] = 0
        for kind, optimizer in self._optimizers.items():
            if what in ("all", kind):
                optimizer.step()
        return size

    def _find_reached(self) -> None:
        student = self._student
        values, _ = student.decoded()
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        loss = self._comparison.distance(self._comparison.prepared(next(self._batches(skip=0)), 0), leaves)
        if not loss.requires_grad:
            raise InputError("the outputs of the model have no gradient: it uses no weights, or runs under no_grad")
        loss.backward()
        student.find_reached({name: tensor.grad for name, tensor in (leaves | student.vectors).items()})
        for vector in student.vectors.values():
            vector.grad = None

    def _share(self, batch: Batch) -> float:
        """Return what a batch counts: samples of rare shapes, which have small batches of their own, count no more."""
        return batch.count / self._settings.batch_size

    def _calibrate(self) -> None:
        """Measure the size that the present codes make, and what the counter says of them."""
        size, weight_bytes = self._measure()
        with torch.no_grad():
            bits = float(self._counting.bits(self._student.decoded()[1]))
        self.estimate.calibrate(bits, size, weight_bytes)

    def expected(self) -> float:
        """Return the estimated size of the present codes."""
        with torch.no_grad():
            return self.estimate.size(float(self._counting.bits(self._student.decoded()[1])))

    def _batches(self, skip: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self._settings.seed % 2**63)
        batches = self._samples.shuffled(self._settings.batch_size, generator)
        for _ in range(skip):
            next(batches)
        return batches

    def _set_rates(self, share: float) -> None:
        factor = cosine(share) if self._settings.cosine else 1.0
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

    def _save(self, done: int) -> None:
        state: dict[str, Any] = {
            "done": done,
            "student": self._student.state(),
            "control": self._control.state,
            "estimate": list(self.estimate.state),
            "loss": self._loss,
        }
        state["optimizers"] = {kind: optimizer.state_dict() for kind, optimizer in self._optimizers.items()}
        self._checkpoint.save(state)

    def _load(self) -> int:
        """Take up the state of the checkpoint and return how many iterations are done."""
        state = self._checkpoint.load()
        if state is None:
            return 0
        try:
            self._student.load_state(state["student"])
            self._control.state = float(state["control"])
            counted, size, slope = map(float, state["estimate"])
            self.estimate.state = (counted, size, slope)
            self._loss = float(state["loss"])
            for kind, optimizer in self._optimizers.items():
                optimizer.load_state_dict(state["optimizers"][kind])
            return int(state["done"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the checkpoint does not hold the state of this run ({error})") from error


def _note_rows(touched: dict[str, Tensor], name: str, gradient: Tensor) -> Tensor:
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    touched[name] = touched_rows(dense)
    return dense
