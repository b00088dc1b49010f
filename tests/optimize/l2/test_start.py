"""What training begins with, and goes back to where it was of no use."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize import l2
from l2fmt.optimize.learning import trainer
from l2fmt.optimize.learning.comparison import Comparison
from l2fmt.optimize.learning.rate import Balance
from l2fmt.optimize.learning.trainer import Trainer
from tests.optimize.l2.models import ROWS, compressed, perceptron


def test_training_that_does_harm_is_undone() -> None:
    torch.manual_seed(0)
    module = perceptron()
    begun = l2fmt.pack(module, target_ratio=5)
    result = compressed(module, ROWS, 5, {"weight_lr": 1.0, "fold_statistics": False})
    assert any("the codes are those it started from" in note for note in result.notes)
    first, last = l2fmt.load(begun.data or b""), l2fmt.load(result.data or b"")
    # The same but for what the longer metadata leave of the size.
    for name, tensor in first.items():
        assert float((last[name] - tensor).square().mean()) <= 0.01 * float(tensor.square().mean())


@pytest.mark.parametrize("better", [False, True])
def test_samples_that_judge_training_have_no_part_in_it(monkeypatch: pytest.MonkeyPatch, better: bool) -> None:
    """Whatever the samples of training say of it, which can be learned by heart."""
    torch.manual_seed(0)
    asked: list[Tensor] = []
    trained: list[Tensor] = []

    def seen(_comparison: Comparison, _values: dict[str, Tensor], samples: CalibrationSet) -> float:
        asked.append(next(samples.in_order(100)).args[0])
        return float(better == (len(asked) == 1))

    def run(trainer: Trainer) -> None:
        trained.append(next(trainer._samples.in_order(100)).args[0])
        train(trainer)

    train = Trainer.run
    monkeypatch.setattr(Comparison, "mean_distance", seen)
    monkeypatch.setattr(Trainer, "run", run)
    result = compressed(perceptron(), ROWS[:20], 5, {"start": "obs"})
    assert len(asked) == 2 and torch.equal(*asked)
    assert len(trained[0]) == 16 and len(asked[0]) == 4
    assert not (trained[0][:, None] == asked[0]).all(2).any()
    assert any("the codes are those it started from" in note for note in result.notes) != better


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({}, 2 * np.log(2) * 0.02 * 32 / 5),  # what a bit a weight saves of 0.02, times bits a weight
        ({"rate_weight": 0.3}, 0.3),
        ({"start": "range"}, 0.1),
        ({"label_weight": 1.0}, 0.1),
    ],
)
def test_the_rate_begins_at_what_a_bit_saves(
    options: dict[str, Any], weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    begun: list[float] = []

    def balance(weight: float) -> Balance:
        begun.append(weight)
        return Balance(weight)

    monkeypatch.setattr(trainer, "Balance", balance)
    monkeypatch.setattr(Comparison, "mean_distance", lambda *_: 0.02)
    monkeypatch.setattr(l2, "land", lambda codes, target, measure: [np.rint(c).astype(np.int32) for c in codes])
    module = nn.Sequential(nn.Linear(64, 400, bias=False), nn.ReLU(), nn.Linear(400, 10, bias=False))
    compressed(module, [(ROWS, torch.arange(40) % 10)], 5, options)
    assert begun == [pytest.approx(weight, rel=0.01)]
