"""Mean outputs are what they were, without data and with them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.equalization.correction import correct_by_data, correct_by_moments
from l2fmt.optimize.equalization.graph import find_units, trace
from l2fmt.optimize.equalization.moments import Moments, after_activation, input_means
from l2fmt.optimize.equalization.scaling import fold


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A residual block, a clipped activation, and a head; its norms have the statistics of normal inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.block, self.block_norm = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.mixed, self.mixed_norm, self.clip = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU6()
        self.head = nn.Linear(16, 4)
        for norm in (self.stem_norm, self.block_norm, self.mixed_norm):
            norm.weight.data, norm.bias.data = torch.rand(16) + 0.5, drawn(16)
            norm.momentum = None
        for _ in range(3):
            self(drawn(400, 3, 4, 4))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(self.block_norm(self.block(x)) + x)
        return self.head(self.clip(self.mixed_norm(self.mixed(x))).mean((2, 3)))


def units_of(module: nn.Module) -> list[Any]:
    named = [*module.named_parameters(), *module.named_buffers()]
    vectors = frozenset(name for name, t in named if t.dim() == 1)
    units = find_units(module, trace(module), [name for name, t in named if t.dim() > 1], vectors, {})
    fold(units)
    return units


def rounded(units: list[Any], step: float) -> dict[str, Tensor]:
    """Weights rounded down, which shifts all outputs."""
    return {unit.path: (unit.layer.weight / step).floor() * step for unit in units}


def shift(module: nn.Module, before: Tensor, values: dict[str, Tensor], given: Tensor) -> float:
    found = torch.func.functional_call(module, {f"{path}.weight": v for path, v in values.items()}, (given,))
    return float((found - before).mean(0).abs().max() / before.std(0).mean())


def test_the_mean_of_activations_of_normal_variables() -> None:
    mean, deviation = torch.tensor([-1.0, 0.0, 2.0, 5.0]).double(), torch.tensor([0.5, 1.0, 2.0, 3.0]).double()
    sample = mean + deviation * drawn(1_000_000, 1).double()
    for function in (torch.relu, nn.ReLU6(), nn.SiLU()):
        found = after_activation(function, Moments(mean, deviation))
        assert torch.allclose(found.mean, function(sample).mean(0), atol=0.02)
        assert torch.allclose(found.deviation, function(sample).std(0), atol=0.02)
    # the closed form of a normal variable cut off at zero
    z = (mean / deviation).numpy()
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    below = torch.special.ndtr(-mean / deviation).numpy()
    expected = deviation.numpy() * density + mean.numpy() * (1 - below)
    assert np.allclose(after_activation(torch.relu, Moments(mean, deviation)).mean, expected, atol=1e-5)


def test_input_means_follow_the_graph() -> None:
    module = Net()
    units = units_of(module)
    found = input_means(module, units)
    assert list(found) == ["block", "mixed", "head"]
    inputs: dict[str, Tensor] = {}
    for unit in units:
        unit.layer.register_forward_hook(lambda m, given, out, path=unit.path: inputs.update({path: given[0]}))
    module(drawn(2000, 3, 4, 4, seed=5))
    for path, mean in found.items():
        by_channel = inputs[path].movedim(1, 0).flatten(1)
        # a residual sum is of terms that depend on each other
        assert torch.allclose(mean.float(), by_channel.mean(1), atol=0.03 if path == "block" else 0.15), path


def test_channels_added_and_joined_in_moments() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(10, 2, 1)
            self.norm.bias.data = torch.arange(4.0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.a(x))[:, :, ::2, ::2]
            return self.b(torch.cat((nn.functional.pad(x, (0, 0, 0, 0, 1, 1)), x), 1))

    module = Joined().eval()
    found = input_means(module, units_of(module))
    assert found["b"].tolist() == [0, 0, 1, 2, 3, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("data", [False, True])
def test_correction_brings_the_mean_outputs_back(data: bool) -> None:
    module, given = Net(), drawn(2000, 3, 4, 4, seed=6)
    before = module(given)
    units = units_of(module)
    values = rounded(units, 0.05)
    shifted = shift(module, before, values, given)
    if data:
        batches = [Batch((part,), {}, None) for part in given.split(500)]
        assert correct_by_data(module, units, values, batches, 12, lambda done: None) == 4
        assert shift(module, before, values, given) < 0.002 * shifted
    else:
        means = input_means(module, units)
        assert correct_by_moments(units, values, means) == 3
        assert shift(module, before, values, given) < 0.15 * shifted
