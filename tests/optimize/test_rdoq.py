"""Method `rdoq`: never above plain rounding in D + lambda R, sizes met, with and without data."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError
from l2fmt.optimize import Budget, Task, WeightTensor
from l2fmt.optimize.base import decoded
from l2fmt.optimize.code_lengths import code_costs, fit_tables
from l2fmt.optimize.rdoq import GreedyRateDistortion
from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.model import Model
from l2fmt.optimize.second_order.rounding import Rounding
from l2fmt.pipeline import QuantizedTensor, write_files


def weights() -> list[WeightTensor]:
    rng = np.random.default_rng(0)
    shapes = {"conv": (24, 16, 3, 3), "linear": (32, 64), "table": (300, 16)}
    drawn = [rng.laplace(0, 0.02 * 2**i, shape).astype(np.float32) for i, shape in enumerate(shapes.values())]
    return [WeightTensor(n, DTYPES["F32"], w.shape, lambda w=w: w) for n, w in zip(shapes, drawn, strict=True)]


def importances(seed: int = 0) -> dict[str, Curvature]:
    """Return a diagonal curvature, spread over two decades, for all tensors but the last."""
    rng = np.random.default_rng(seed)
    found = {}
    for tensor in weights()[:-1]:
        columns = int(np.prod(tensor.shape[1:]))
        diagonal, rows = (torch.from_numpy(10 ** rng.uniform(-1, 1, size)) for size in ((1, columns), tensor.shape[0]))
        found[tensor.name] = Curvature(diagonal, rows)
    return found


def measure(codes: Any, vectors: Any = None) -> Any:
    return write_files(None, codes, {}, {})


def silent(stage: str, done: float) -> None:
    assert 0 <= done <= 1


def quantize(budget: dict[str, Any], **settings: Any) -> list[QuantizedTensor]:
    return GreedyRateDistortion(**settings).quantize(Task(weights(), Budget(**budget), measure, silent)).codes


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("rate_weight", [0.3, 1.0, 3.0])
def test_never_above_plain_rounding(data: bool, rate_weight: float) -> None:
    curvatures = importances() if data else {}
    model = Model(weights(), curvatures, Rounding(refits=1), silent)
    scale = model.first_scale(2.5)
    plain, found = model.codes(scale, silent), model.at_rate(rate_weight).codes(scale, silent)
    tables, classes = fit_tables([c.codes for c in plain], [c.shape for c in plain])
    totals = []
    for tensor, before, after, class_map in zip(weights(), plain, found, classes, strict=True):
        step = before.transform.step  # type: ignore[attr-defined]
        assert after.transform == before.transform
        rows = tensor.load().reshape(tensor.shape[0], -1)
        importance = np.ones(rows.shape)
        if curvature := curvatures.get(tensor.name):
            importance = curvature.sensitivity.numpy()[:, None] * curvature.hessian.numpy()
        # One lambda for all weights of a tensor: that of fine steps at its typical importance.
        typical = np.exp(np.log(importance[0] / importance[0, 0]).mean()) * importance[:, 0].mean()
        slope = rate_weight * np.log(2) / 6 * typical * step**2
        limit = int(max(np.abs(before.codes).max(), np.abs(after.codes).max())) + 1
        costs, at = code_costs(tables, limit), class_map.slice(0, before.size)
        pair = []
        for code in (before, after):
            errors = decoded(code).reshape(rows.shape).astype(np.float64) - rows
            bits = costs[at, code.codes.reshape(-1).astype(int) + limit].reshape(rows.shape)
            pair.append(importance * errors**2 + slope * bits)
        assert (pair[1] <= pair[0] * (1 + 1e-4) + 1e-9 * slope).all()
        totals.append((pair[0].sum(), pair[1].sum()))
    assert sum(after for _, after in totals) < 0.999 * sum(before for before, _ in totals)


def test_the_search_finds_the_least_distortion() -> None:
    def distortion(codes: list[QuantizedTensor]) -> float:
        return sum(
            float(((decoded(code).astype(np.float64) - tensor.load()) ** 2).sum())
            for tensor, code in zip(weights(), codes, strict=True)
        )

    budget = {"file_bytes": 2600}
    searched = distortion(quantize(budget))
    fixed = [distortion(quantize(budget, rate_weight=weight)) for weight in (0.0, 1.0)]
    assert searched <= min(fixed) * (1 + 1e-9) and searched < fixed[0]


def test_without_data_one_step_for_all() -> None:
    codes = quantize({"weight_bits": 3.0})
    assert len({code.transform for code in codes}) == 1
    size = sum(code.size for code in codes)
    assert 2.93 <= 8 * measure(codes).weight_bytes / size <= 3.0


def test_steps_follow_the_importance() -> None:
    model = Model(weights(), importances(), Rounding(refits=1), silent)
    other = Model(
        weights(),
        {name: Curvature(100 * c.hessian, c.sensitivity) if name == "conv" else c for name, c in importances().items()},
        Rounding(refits=1),
        silent,
    )
    before, after = ({c.name: c.transform.step for c in m.codes(0.01, silent)} for m in (model, other))  # type: ignore[attr-defined]
    assert after["conv"] == pytest.approx(before["conv"] / 10, rel=1e-4)
    assert after["linear"] == pytest.approx(before["linear"], rel=1e-4)


@pytest.mark.parametrize("target", [8000, 2500])
def test_file_bytes_are_met(target: int) -> None:
    assert 0.98 * target <= measure(quantize({"file_bytes": target}, rate_weight=0.6)).file_bytes <= target


def test_equal_input_gives_equal_codes() -> None:
    first, second = (quantize({"file_bytes": 4000}, rate_weight=1.0) for _ in range(2))
    assert all(
        a.codes.tobytes() == b.codes.tobytes() and a.transform == b.transform
        for a, b in zip(first, second, strict=True)
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))


def signals(seed: int) -> Tensor:
    """Return inputs of which three in four are all but silent: weights that meet them hardly matter."""
    drawn = torch.randn((200, 64), generator=torch.Generator().manual_seed(seed))
    return drawn * torch.where(torch.arange(64) % 4 > 0, 0.03, 1.0)


def test_data_say_which_weights_matter() -> None:
    net, held_out = network(), signals(2)
    distances = []
    for data in ({}, {"module": net, "calibration": signals(1)}):
        result = l2fmt.pack(net, target_ratio=8, method="rdoq", options={"rate_weight": 0.6}, **data)
        assert 8 <= result.ratio <= 8 * 1.0051
        assert result.settings["options"]["rate_weight"] == 0.6 and ("calibration" in result.settings) == bool(data)
        with torch.no_grad():
            found = torch.func.functional_call(net, l2fmt.load(result.data or b""), (held_out,))
            distances.append(float((found - net(held_out)).square().mean()))
    assert distances[1] < 0.75 * distances[0], distances


def test_what_is_not_possible_is_said() -> None:
    with pytest.raises(InputError, match="method rdoq quantizes to a size"):
        quantize({})
    with pytest.raises(InputError, match="rate_weight must not be negative"):
        GreedyRateDistortion(rate_weight=-1.0)
    with pytest.raises(InputError, match="must be at least 1"):
        GreedyRateDistortion(refits=0)
    with pytest.raises(InputError, match="give the module"):
        l2fmt.pack({"weight": torch.ones(64, 64)}, target_ratio=8, method="rdoq", calibration=signals(1))
    assert GreedyRateDistortion().quantize(Task([], Budget(file_bytes=10), measure, silent)).codes == []
