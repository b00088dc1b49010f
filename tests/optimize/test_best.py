"""What an effort of `best` does: how codes are found that training begins with, and how it trains them."""

from math import sqrt
from typing import Any

import pytest
import torch
from torch import nn

import l2fmt
from l2fmt.errors import InputError
from l2fmt.optimize import best
from l2fmt.optimize.base import Compressed, Task
from l2fmt.optimize.l2 import L2
from l2fmt.optimize.obs import SecondOrder


def packed(**options: Any) -> l2fmt.PackResult:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 10))
    return l2fmt.pack(
        model, module=model, calibration=torch.randn(60, 16), method="best", target_ratio=3, options=options
    )


def test_efforts_search_along_more_paths_then_train_ever_longer_at_lower_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[SecondOrder] = []
    trained: list[L2] = []

    def train(settings: L2, task: Task, begin: SecondOrder) -> Compressed:
        begun.append(begin)
        trained.append(settings)
        return begin.quantize(task)

    monkeypatch.setattr(best, "trained", train)
    for effort in range(1, 10):
        packed(effort=effort, wander=0.06, seed=3)
    assert len(trained) == 7 and all(method.paths > SecondOrder().paths and method.seed == 3 for method in begun)
    lengths = [settings.weight_iterations for settings in trained]
    assert lengths == sorted(set(lengths))
    assert all(s.weight_lr * sqrt(s.weight_iterations) == pytest.approx(0.06) for s in trained)


def test_settings_out_of_range_are_said() -> None:
    for name in ("wander", "synthetic"):
        with pytest.raises(InputError, match=f"best: {name} must be at least 0, not -1"):
            packed(**{name: -1})
