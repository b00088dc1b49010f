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


@pytest.mark.parametrize(("blocks", "heads"), [(False, False), (True, True)])
def test_the_codes_with_the_nearest_outputs_are_taken(blocks: bool, heads: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    before = {name: w.clone() for name, w in module.state_dict().items()}
    candidates = [codes_of(module, step) for step in (0.3, 0.05, 0.1)]
    task = task_of(module, torch.randn(50, 6))
    assert task.calibration is not None
    chosen = nearest_codes(candidates, task, task.calibration.samples, 16, blocks, heads, 0)
    assert chosen is candidates[1]
    assert all(torch.equal(before[name], w) for name, w in module.state_dict().items())


def test_rounding_in_order_stays_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    data = torch.randn(200, 24)

    for number in (0, 1):
        taken: list[QuantizedTensor] = []

        def choose(candidates: Any, *_: Any, number: int = number, taken: list[QuantizedTensor] = taken) -> Any:
            assert len(candidates) == 2
            taken += candidates[number]
            return candidates[number]

        monkeypatch.setattr(obs, "nearest_codes", choose)
        result = l2fmt.pack(module, module=module, calibration=data, method="obs", target_ratio=4)
        found = l2fmt.load(result.data or b"")
        assert len(taken) == 2 and all(np.array_equal(found[code.name].numpy(), decoded(code)) for code in taken)
