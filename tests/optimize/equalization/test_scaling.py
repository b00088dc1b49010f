"""Folding, equalization and absorption leave the function as it is, and do what they are for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l2fmt.optimize.equalization.graph import find_units, trace
from l2fmt.optimize.equalization.scaling import absorb, equalize, fold, row_ranges, sums_of_products


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm(channels: int, seed: int = 0) -> Any:
    made: Any = nn.BatchNorm2d(channels, eps=1e-3)
    random = torch.Generator().manual_seed(seed)
    for tensor in (made.weight, made.bias, made.running_mean):
        tensor.data = torch.randn(channels, generator=random)
    made.running_var = torch.rand(channels, generator=random) + 0.1
    return made


def uneven(layer: Any) -> Any:
    """Spread the ranges of a layer's rows over three orders of magnitude."""
    rows = len(layer.weight)
    with torch.no_grad():
        layer.weight *= torch.logspace(-2, 1, rows)[torch.randperm(rows)].reshape(-1, *[1] * (layer.weight.dim() - 1))
    return layer


def chain() -> Any:
    torch.manual_seed(0)
    parts = [uneven(nn.Conv2d(3, 12, 3, bias=False)), norm(12), nn.ReLU(), nn.Conv2d(12, 6, 3, groups=3), nn.PReLU(6)]
    parts += [nn.AvgPool2d(2), uneven(nn.Conv2d(6, 4, 1)), norm(4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)]
    return nn.Sequential(*parts, nn.ReLU(), nn.Linear(5, 3)).eval().requires_grad_(False)


def triple() -> Any:
    """A depthwise convolution between two pointwise ones, as in MobileNet, with padding."""
    torch.manual_seed(0)
    parts = [uneven(nn.Conv2d(3, 16, 1, bias=False)), norm(16), nn.ReLU()]
    parts += [uneven(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)), norm(16, 1), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(16, 4, 1, bias=False), norm(4, 2)).eval().requires_grad_(False)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stem_norm = uneven(nn.Conv2d(3, 8, 1)), norm(8)
        self.a, self.a_norm = uneven(nn.Conv2d(8, 8, 3, padding=1)), norm(8, 1)
        self.b, self.b_norm = nn.Conv2d(8, 8, 3, padding=1), norm(8, 2)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        return torch.relu(x + self.b_norm(self.b(torch.relu(self.a_norm(self.a(x))))))


def units_of(module: nn.Module) -> list[Any]:
    named = [*module.named_parameters(), *module.named_buffers()]
    vectors = frozenset(name for name, t in named if t.dim() == 1)
    return find_units(module, trace(module), [name for name, t in named if t.dim() > 1], vectors, {})


def difference(module: nn.Module, before: Tensor, given: Tensor) -> float:
    return float((module(given) - before).abs().max() / before.abs().max())


@pytest.mark.parametrize(("build", "pairs"), [(chain, 4), (triple, 2), (Residual, 1)])
def test_the_function_stays_the_same(build: Any, pairs: int) -> None:
    module, given = build(), drawn(2, 3, 8, 8)
    before, units = module(given), units_of(module)
    names = {name: t.shape for name, t in module.state_dict().items()}
    fold(units)
    assert difference(module, before, given) < 1e-5
    for unit in units:
        if unit.norm is not None:
            assert bool((unit.norm.weight == 1).all() and (unit.norm.running_var == 1).all())
            assert not unit.norm.running_mean.any() and (unit.layer.bias is None or not unit.layer.bias.any())
    weights = [unit.layer.weight.clone() for unit in units]
    assert equalize(units) == pairs
    assert difference(module, before, given) < 1e-5
    assert any(not torch.allclose(w, u.layer.weight, rtol=0.1) for w, u in zip(weights, units, strict=True))
    assert {name: t.shape for name, t in module.state_dict().items()} == names


def test_equalized_ranges_are_equal() -> None:
    units = units_of(module := triple())
    fold(units)
    first, middle, last = (unit.layer.weight.clone() for unit in units)
    equalize(units)
    ranges = [row_ranges(module[0]), row_ranges(module[3]), module[6].weight.abs().amax((0, 2, 3)).double()]
    assert torch.allclose(ranges[0], ranges[1], rtol=0.01) and torch.allclose(ranges[1], ranges[2], rtol=0.01)
    # of three layers, the closed form is the cube root of the product of ranges
    product = first.abs().amax((1, 2, 3)) * middle.abs().amax((1, 2, 3)) * last.abs().amax((0, 2, 3))
    assert torch.allclose(ranges[0].float(), product ** (1 / 3), rtol=0.01)


def test_residual_branches_keep_their_scale() -> None:
    units = {unit.path: unit for unit in units_of(Residual())}
    fold(list(units.values()))
    before = {path: row_ranges(unit.layer) for path, unit in units.items()}
    equalize(list(units.values()))
    assert torch.equal(row_ranges(units["stem"].layer), before["stem"])
    assert not torch.allclose(row_ranges(units["a"].layer), before["a"])


def test_dead_channels_keep_their_scale() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    net[0].weight[1], net[2].weight[:, 2] = 0, 0
    before, given = net(drawn(5, 4)), drawn(5, 4)
    equalize(units_of(net))
    assert all(bool(t.isfinite().all()) for t in net.state_dict().values()) and difference(net, before, given) < 1e-5


def test_norms_keep_the_moments_of_what_they_put_out() -> None:
    module = triple()
    [unit, *_] = units = units_of(module)
    mean, deviation = module[1].bias.double(), module[1].weight.double().abs()
    fold(units)
    assert torch.equal(unit.mean, mean) and torch.equal(unit.deviation, deviation)
    equalize(units)
    assert torch.allclose(unit.mean / unit.deviation, mean / deviation)


def high_biases(padding: int = 0) -> Any:
    """Channels that are far above zero, but for one."""
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4)
    bn.bias.data, bn.weight.data = torch.tensor([20.0, 30.0, 40.0, 1.0]), torch.ones(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), bn, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=padding))
    return net.eval().requires_grad_(False)


def test_high_biases_are_absorbed() -> None:
    module, given = high_biases(), drawn(4, 3, 6, 6)
    before, units = module(given), units_of(module)
    fold(units)
    absorb(units)
    assert torch.equal(module[1].bias, torch.tensor([3.0, 3.0, 3.0, 1.0]))
    assert difference(module, before, given) < 1e-5
    units = units_of(padded := high_biases(1))
    before = padded(given)
    fold(units)
    absorb(units)
    assert difference(padded, before, given) < 1e-5 and padded[1].bias[0] == 20


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_sums_of_products_are_those_of_constant_inputs(groups: int) -> None:
    layer = nn.Conv2d(4, 8, 3, groups=groups, bias=False).requires_grad_(False)
    inputs = drawn(4)
    found = sums_of_products(layer, layer.weight, inputs)
    assert torch.allclose(found.float(), layer(inputs[None, :, None, None].expand(1, 4, 3, 3)).flatten(), atol=1e-5)
