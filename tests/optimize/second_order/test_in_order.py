"""Layers rounded in order: the targets against least squares, and what the pass is worth."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.learning.distillation import distance
from l2fmt.optimize.second_order import in_order
from l2fmt.optimize.second_order.layers import find_layers


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair_of(module: nn.Module, data: Tensor) -> in_order._Pair:
    paths = [path for path, part in module.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    return in_order._Pair(module.eval().requires_grad_(False), paths, CalibrationSet([{0: data}]), 50, 0)


@pytest.mark.parametrize(
    ("second", "inputs"),
    [
        (nn.Conv2d(8, 12, 3), lambda x: torch.nn.functional.unfold(x, 3).transpose(1, 2).reshape(-1, 72)),
        (nn.Conv2d(8, 4, 1, bias=False), lambda x: x.movedim(1, 3).reshape(-1, 8)),
    ],
)
def test_targets_are_those_of_least_squares(second, inputs, monkeypatch):
    monkeypatch.setattr(in_order, "_DAMPINGS", (1e-9,))
    monkeypatch.setattr(in_order, "_INPUTS_PER_COLUMN", 1000)
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3)
    data = drawn(600, 3, 8, 8)
    module = nn.Sequential(first, nn.ReLU(), second)
    pair = pair_of(module, data)
    rounded = (first.weight.detach() * 8).round() / 8
    pair.set_weight(find_layers(module, ["0.weight"])["0.weight"], rounded.numpy())
    weights = second.weight.detach().numpy()
    found = pair.targets(find_layers(module, ["2.weight"])["2.weight"], weights)

    with torch.no_grad():
        full = inputs(torch.relu(first(data)))
        met = inputs(torch.relu(torch.func.functional_call(first, {"weight": rounded}, (data,))))
    flat = torch.from_numpy(weights).flatten(1)
    exact = torch.linalg.lstsq(met.double(), (full @ flat.T).double()).solution.T

    def error(w: Tensor) -> float:
        return float((met @ w.float().T - full @ flat.T).square().mean())

    assert found.shape == weights.shape and found.dtype == np.float32
    least, before, after = error(exact), error(flat), error(torch.from_numpy(found).flatten(1))
    assert least * (1 - 1e-6) <= after < least + 0.05 * (before - least)


@pytest.mark.parametrize("samples", [24, 1000])
def test_how_far_weights_move_is_asked_of_other_samples(samples):
    torch.manual_seed(0)
    first, second = nn.Linear(60, 60), nn.Linear(60, 30)
    module = nn.Sequential(first, nn.ReLU(), second)
    pair = pair_of(module, drawn(samples, 60))
    layers = find_layers(module, ["0.weight", "2.weight"])
    rounded = first.weight + 0.03 * drawn(60, 60, seed=9)
    pair.set_weight(layers["0.weight"], rounded.numpy())
    weights = second.weight.detach()
    found = torch.from_numpy(pair.targets(layers["2.weight"], weights.numpy()))
    halves = pair._moments(layers["2.weight"])
    by_heart = (halves[0] + halves[1]).targets(weights[None].double(), 0.001)[0].float()

    fresh = drawn(4000, 60, seed=5)
    full = torch.relu(first(fresh)) @ weights.T
    met = torch.relu(torch.func.functional_call(first, {"weight": rounded}, (fresh,)))
    stays, moves, naive = (float((met @ w.T - full).square().mean()) for w in (weights, found, by_heart))
    if samples == 24:
        assert moves < 1.01 * stays and naive > 1.3 * stays
    else:
        assert moves < 0.8 * stays


@pytest.mark.parametrize("samples", [1, 2, 3, 50, 99, 151])
def test_no_sample_is_in_both_halves(samples):
    first = nn.Linear(300, 300, bias=False)
    nn.init.eye_(first.weight)
    module = nn.Sequential(first, nn.Linear(300, 4))
    pair = pair_of(module, torch.eye(300)[:samples])  # whose moments say which samples they are of
    halves = pair._moments(find_layers(module, ["1.weight"])["1.weight"])
    counted = [half.own[0].diagonal() for half in halves]
    assert len(halves) == min(samples, 2)
    together = torch.stack(counted).sum(0)
    assert together.max() == 1 and together.sum() == samples


def test_no_sample_of_several_shapes_is_in_both_halves():
    first = nn.Linear(300, 300, bias=False)
    nn.init.eye_(first.weight)
    module = nn.Sequential(first, nn.Linear(300, 4)).requires_grad_(False)
    rows = torch.eye(300)
    shapes = CalibrationSet([{0: rows[:33]}, {0: rows[33:55, None]}, {0: rows[55:133].reshape(39, 2, 300)}])
    with in_order._Pair(module, ["0", "1"], shapes, 10, 0) as pair:
        halves = pair._moments(find_layers(module, ["1.weight"])["1.weight"])
    together = halves[0].own[0].diagonal() + halves[1].own[0].diagonal()
    assert together.tolist() == [1.0] * 133 + [0.0] * 167


def test_as_long_as_nothing_is_rounded_weights_stay():
    first, second = nn.Linear(6, 6), nn.Linear(6, 4)
    module = nn.Sequential(first, second)
    layers = find_layers(module, ["0.weight", "1.weight"])
    pair = pair_of(module, drawn(64, 6))
    assert not pair.differs
    pair.set_weight(layers["0.weight"], first.weight.detach().numpy())
    weights = second.weight.detach().numpy()
    assert pair.differs and np.allclose(pair.targets(layers["1.weight"], weights), weights, atol=1e-6)


def test_a_layer_that_is_not_called_keeps_its_weights():
    module, unused = nn.Sequential(nn.Linear(6, 6)), nn.Linear(3, 3)
    module[0].add_module("unused", unused)
    pair = pair_of(module, drawn(64, 6))
    weights = unused.weight.detach().numpy()
    assert pair.targets(find_layers(module, ["0.unused.weight"])["0.unused.weight"], weights) is weights


def test_a_deep_network_comes_nearer():
    torch.manual_seed(0)
    widths = [nn.Linear(24, 48), nn.Tanh(), *(m for _ in range(6) for m in (nn.Linear(48, 48), nn.ReLU()))]
    model = nn.Sequential(*widths, nn.Linear(48, 10)).eval()
    mixed = drawn(24, 24, seed=7)
    data, held_out = drawn(400, 24) @ mixed, drawn(400, 24, seed=2) @ mixed
    errors, sizes = [], []
    for chosen in (False, True):
        options = {"in_order": chosen}
        result = l2fmt.pack(model, module=model, calibration=data, method="obs", target_ratio=9, options=options)
        with torch.no_grad():
            found = torch.func.functional_call(model, l2fmt.load(result.data or b""), (held_out,))
            errors.append(float(distance([found], [model(held_out)])))
        sizes.append(result.ratio)
    assert errors[1] < 0.9 * errors[0], errors
    assert all(9 <= ratio <= 9.05 for ratio in sizes), sizes


def test_layers_with_one_input_are_measured_once(monkeypatch):
    torch.manual_seed(0)
    first, one, other, wide = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 3)

    class Branches(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            y = self[0](input)
            return torch.cat([part(y)[..., :3, :3].flatten(1) for part in list(self)[1:]], 1)

    model = Branches(first, one, other, wide).eval()
    measured: list[str] = []
    moments = in_order._Pair._moments

    def counted(pair, layer):
        measured.append(layer.name)
        return moments(pair, layer)

    monkeypatch.setattr(in_order._Pair, "_moments", counted)
    l2fmt.pack(model, module=model, calibration=drawn(60, 3, 8, 8), method="obs", target_ratio=2.5)
    assert set(measured) == {"1.weight", "3.weight"}  # the first layer meets what it always does
