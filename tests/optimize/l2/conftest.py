"""What tests of `l2` look at, and what they leave out to be fast."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize import l2, search
from l2fmt.optimize.learning.student import Student
from l2fmt.optimize.learning.taps import float_tensors
from l2fmt.optimize.learning.trainer import Trainer


class Seen:
    """What stood behind a result: the trained student, and the file as it would be without the last rounding."""

    student: Student
    trained: dict[str, Tensor]

    def distance(self, module: nn.Module, data: Any, result: l2fmt.PackResult) -> float:
        """Return how far the student's outputs are from the loaded file's, relative to their largest."""
        loaded = deepcopy(module).float().eval()
        loaded.load_state_dict(l2fmt.load(result.data or b""), strict=False)
        batch = next(CalibrationSet.of(data).in_order(16))
        with torch.no_grad():
            ours = list(float_tensors(self.student.run(batch, self.student.decoded()[0])))
            theirs = list(float_tensors(loaded(*batch.args, **batch.kwargs)))
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are rounded to the nearest at both ends, whatever size that gives: faster than meeting one."""

    def first(
        produce: Callable[[float], Any], target: int, count: int, scale: Callable[[float], float], _: float
    ) -> Any:
        return produce(scale(8 * target / count))[0]

    monkeypatch.setattr(search, "search_size", first)
    monkeypatch.setattr(l2._Run, "_begun", lambda _: None)  # nothing to go back to: a few iterations seldom do better
    monkeypatch.setattr(l2, "land", lambda codes, target, measure: [np.rint(c).astype(np.int32) for c in codes])


@pytest.fixture
def seen(nearest, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The student of the last compression, whose codes are rounded to the nearest."""
    result, run = Seen(), Trainer.run

    def keep(trainer: Trainer) -> None:
        run(trainer)
        result.student, result.trained = trainer._student, trainer._student.state()

    monkeypatch.setattr(Trainer, "run", keep)
    return result
