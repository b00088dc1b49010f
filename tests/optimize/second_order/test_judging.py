"""Codes are chosen by what the model then outputs."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import l2fmt
from l2fmt.dtypes import DTYPES
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize import obs
from l2fmt.optimize.base import Budget, Calibration, Task, WeightTensor, decoded
from l2fmt.optimize.second_order.judging import nearest_codes
from l2fmt.pipeline import QuantizedTensor
from l2fmt.transforms import Uniform


def codes_of(module: nn.Module, step: float) -> list[QuantizedTensor]:
    found = []
    for name, weight in module.named_parameters():
        codes = np.rint(weight.detach().numpy().reshape(-1) / step).astype(np.int16)
        found.append(QuantizedTensor(name, DTYPES["F32"], tuple(weight.shape), codes, Uniform(step)))
    return found


def task_of(module: nn.Module, data: torch.Tensor) -> Task:
    def measure(codes: Any, vectors: Any = None) -> Any:
        raise AssertionError("sizes do not matter here")

    tensors = [
        WeightTensor(name, DTYPES["F32"], tuple(w.shape), w.detach().numpy) for name, w in module.named_parameters()
    ]
    calibration = Calibration(module, CalibrationSet([{0: data}]), frozenset(), 23, 0)
    return Task(tensors, Budget(), measure, lambda *_: None, calibration)


@pytest.mark.parametrize("heads", [False, True])
def test_the_codes_with_the_nearest_outputs_are_taken(heads: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    before = {name: w.clone() for name, w in module.state_dict().items()}
    candidates = [codes_of(module, step) for step in (0.3, 0.05, 0.1)]
    task = task_of(module, torch.randn(50, 6))
    assert task.calibration is not None
    chosen = nearest_codes(candidates, task, task.calibration.samples, 16, heads, 0)
    assert chosen == 1
    assert all(torch.equal(before[name], w) for name, w in module.state_dict().items())


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 10)).eval()


class Choice:
    """Takes a given one of two sets of codes, in place of `nearest_codes`, and remembers both."""

    def __init__(self, number: int):
        self.number, self.offered = number, list[list[list[QuantizedTensor]]]()

    def __call__(self, candidates: list[list[QuantizedTensor]], *_: Any) -> int:
        self.offered.append(candidates)
        return self.number if len(candidates) > 1 else 0

    def made(self, result: l2fmt.PackResult) -> bool:
        """Whether the last codes taken are those of a file."""
        found, taken = l2fmt.load(result.data or b""), self.offered[-1][self.number]
        return all(np.array_equal(found[code.name].numpy(), decoded(code)) for code in taken)


@pytest.fixture(params=[0, 1])
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Choice:
    made = Choice(request.param)
    monkeypatch.setattr(obs, "nearest_codes", made)
    return made


def packed(network: nn.Module, **options: Any) -> l2fmt.PackResult:
    data = torch.randn(200, 24, generator=torch.Generator().manual_seed(0))
    return l2fmt.pack(network, module=network, calibration=data, method="obs", target_ratio=4, options=options)


def test_rounding_in_order_stays_only_where_it_helps(network: nn.Module, choice: Choice) -> None:
    result = packed(network, step_exponent=0.5)
    assert [len(candidates) for candidates in choice.offered] == [1, 2] and choice.made(result)


def test_steps_follow_the_curvature_as_far_as_helps(network: nn.Module, choice: Choice) -> None:
    result = packed(network, in_order=False)
    half, most = choice.offered[0]
    ratios = [first.transform.step / last.transform.step for first, last in (half, most)]  # type: ignore[attr-defined]
    assert abs(np.log(ratios[1])) > 1.2 * abs(np.log(ratios[0])) > 0.01  # of steps of the two layers
    assert choice.made(result)
