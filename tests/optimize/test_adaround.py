"""Method `adaround` on small models, and what its parts promise."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.errors import InputError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.adaround import step_of_least_error
from l2fmt.optimize.reconstruction.samples import Sampler, Site
from l2fmt.optimize.reconstruction.soft_rounding import Schedule, layer_loss, learn_rounding, rectified_sigmoid
from l2fmt.optimize.second_order.layers import Layer

FAST = {"iterations": 200, "inputs": 128, "learning_rate": 0.03}


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PICTURES = drawn(64, 3, 8, 8) + drawn(64, 3, 1, 1, seed=2)
HELD_OUT = drawn(64, 3, 8, 8, seed=3) + drawn(64, 3, 1, 1, seed=4)


def network() -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    layers += [nn.Conv2d(24, 24, 3, groups=2), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net: Any = nn.Sequential(*layers, nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 10))
    for norm in (net[1], net[4]):
        norm.weight.data, norm.momentum = torch.exp(drawn(24) / 2), None
    for _ in range(3):
        net(PICTURES)
    return net.eval()


def packed(model: nn.Module, data: Any = PICTURES, ratio: float | None = None, **options: Any) -> Any:
    return l2fmt.pack(
        model, method="adaround", options=FAST | options, module=model, calibration=data, target_ratio=ratio
    )


def error(model: nn.Module, result: Any) -> float:
    """The relative squared error of the outputs."""
    with torch.no_grad():
        expected = model(HELD_OUT)
        found = torch.func.functional_call(model, l2fmt.load(result.data), (HELD_OUT,))
    return float((found - expected).square().mean() / expected.var())


def site_of(layer: Any, activation: Any, given: Tensor) -> tuple[Site, Tensor]:
    """A site with its targets, and its inputs."""
    rows = len(layer.weight)
    site = Site(Layer("layer.weight", layer), "layer", torch.ones(rows), torch.zeros(rows), activation)
    samples = CalibrationSet.of(given)
    wrapped = Wrapped(layer)
    sampler = Sampler(lambda: samples.in_order(16), samples.count, 1000, seed=0)
    assert sampler.see_targets(wrapped, [site]) == [site]
    return site, sampler.inputs(wrapped, site)


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


LAYERS = {
    "groups": (lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False), torch.relu, (32, 6, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False), None, (32, 8, 7, 7)),
    "linear": (lambda: nn.Linear(20, 12, bias=False), nn.ReLU6(), (100, 20)),
}


@pytest.mark.parametrize(("build", "activation", "shape"), LAYERS.values(), ids=LAYERS)
def test_learned_rounding_is_never_worse_than_nearest(build: Any, activation: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = build()
    site, inputs = site_of(layer, activation, drawn(*shape) + 1)
    weight, limits = site.matrices(layer.weight.detach()), (-8, 7)
    nearest = layer_loss(site, inputs, (weight / 0.1).round().clamp(*limits) * 0.1)
    for iterations, rate, share in ((2, 10.0, 1.0), (300, 0.03, 0.8)):  # far too fast, and well
        schedule, generator = Schedule(iterations, 64, rate, 0.01), torch.Generator().manual_seed(0)
        codes = learn_rounding(site, inputs, weight, 0.1, limits, schedule, generator, lambda done: None)
        assert layer_loss(site, inputs, codes.round() * 0.1) <= share * nearest
        assert ((codes.round() - weight / 0.1).abs() <= 1).all() and bool((codes.round().abs() <= 8).all())


def test_samples_are_inputs_and_outputs_of_the_same_places() -> None:
    layer = nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False)
    site, inputs = site_of(layer, torch.relu, drawn(64, 6, 10, 10))
    assert inputs.shape[0] == 2 and 1000 <= inputs.shape[1] <= 1100 and site.targets.shape == (inputs.shape[1], 8)
    outputs = site.outputs(inputs, site.matrices(layer.weight))
    assert torch.allclose(outputs, site.targets, atol=1e-5)
    everything = torch.relu(layer(drawn(64, 6, 10, 10))).movedim(1, 3).reshape(-1, 8)
    assert torch.cdist(site.targets[:20], everything).min(1).values.max() < 1e-3


def test_the_rectified_sigmoid_reaches_both_ends() -> None:
    found = rectified_sigmoid(torch.tensor([-10.0, -2.5, 0.0, 2.5, 10.0]))
    assert found.tolist() == [0, 0, pytest.approx(0.5), 1, 1]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_step_has_the_least_squared_error(bits: int) -> None:
    weights = drawn(500).numpy()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def squares(step: float) -> float:
        return float(np.square(np.clip(np.rint(weights / step), low, high) * step - weights).sum())

    found = step_of_least_error(weights, bits)
    steps = np.abs(weights).max() / (high + 0.5) * np.linspace(0.2, 1, 500)
    assert squares(found) <= 1.02 * min(map(squares, steps))


def test_learning_beats_rounding_at_a_size_and_the_size_is_met() -> None:
    model = network()
    errors = {}
    for name, options in {"none": {"iterations": 1, "learning_rate": 0.0}, "learned": {}}.items():
        result = packed(model, ratio=5, end_bits=0, **options)
        assert 5 <= result.ratio <= 5 * 1.0101
        errors[name] = error(model, result)
    assert errors["learned"] < 0.75 * errors["none"], errors


def test_grids_of_bits_without_a_size() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = packed(model, bits=3)
    tensors = l2fmt.load(result.data)
    assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in before.items()}
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    levels = {name: len(t.unique()) for name, t in tensors.items() if t.dim() > 1}
    assert levels.pop("0.weight") > 64 and levels.pop("10.weight") > 64
    assert set(levels) == {"3.weight", "8.weight"} and all(4 <= n <= 8 for n in levels.values())
    assert packed(model, bits=3).data == result.data != packed(model, bits=3, seed=1).data
    settings = json.loads(l2fmt.inspect(result.data).metadata["l2fmt.settings"])
    assert settings["options"]["bits"] == 3 and settings["calibration"]["samples"] == 64


def test_rows_whose_gains_differ_by_orders_of_magnitude_share_a_step() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    layers += [nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    model: Any = nn.Sequential(*layers)
    gains = torch.logspace(-2, 2, 32)
    model[4].weight.data, model[6].running_var = gains, gains.square()
    model.eval()
    assert error(model, packed(model)) < 0.01


class Words(nn.Module):
    """No graph: its path depends on its input. An embedding, a layer called twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.twice, self.unused = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.words(x).mean(1)
        return self.twice(torch.relu(self.twice(hidden))) if x.sum() > 0 else hidden


def test_any_module() -> None:
    model = Words()
    words = torch.randint(1, 50, (60, 7), generator=torch.Generator().manual_seed(0))
    result = packed(model, words, bits=6)
    assert any("cannot be traced" in note for note in result.notes)
    tensors = l2fmt.load(result.data)
    for name, tensor in model.state_dict().items():
        assert float((tensors[name] - tensor).square().sum() / tensor.square().sum()) < 0.01, name


def test_what_is_not_possible_is_said() -> None:
    model = network()
    with pytest.raises(InputError, match="needs calibration data"):
        l2fmt.pack(model, method="adaround")
    with pytest.raises(InputError, match="keeps outputs, not weights"):
        l2fmt.pack(model, method="adaround", calibration=PICTURES, max_error=0.1)
    with pytest.raises(InputError, match=r"bits must lie in \[2, 8\], not 1 and 8"):
        packed(model, bits=1)
    with pytest.raises(InputError, match="iterations must be at least 1, not 0"):
        packed(model, iterations=0)
    with pytest.raises(InputError, match="cannot run on the calibration data"):
        packed(model, drawn(10, 4))
