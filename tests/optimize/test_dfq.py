"""Method `dfq` on small models."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.errors import InputError


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PICTURES, HELD_OUT = drawn(200, 3, 8, 8), drawn(200, 3, 8, 8, seed=2)


def block(inputs: int, outputs: int, groups: int, activation: type[nn.Module]) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, 3 if groups > 1 else 1, padding=int(groups > 1), groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs), activation()]


def network(activation: type[nn.Module] = nn.ReLU) -> Any:
    """A depthwise triple whose rows have ranges of all sizes, made up for by the norms."""
    torch.manual_seed(0)
    parts = block(3, 48, 1, activation) + block(48, 48, 48, activation) + block(48, 32, 1, activation)
    net: Any = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    for norm in (net[1], net[4], net[7]):
        norm.weight.data, norm.bias.data = torch.exp(drawn(len(norm.weight))), drawn(len(norm.weight), seed=3) / 2
        norm.momentum = None
    for _ in range(3):
        net(PICTURES)
    return net.eval()


def packed(model: nn.Module, data: Any = None, ratio: float | None = None, **options: Any) -> Any:
    return l2fmt.pack(model, method="dfq", options=options, calibration=data, target_ratio=ratio)


def error(model: nn.Module, result: Any) -> float:
    """The relative squared error of the outputs."""
    with torch.no_grad():
        expected = model(HELD_OUT)
        found = torch.func.functional_call(model, l2fmt.load(result.data), (HELD_OUT,))
    return float((found - expected).square().mean() / expected.var())


def test_the_result_is_of_the_original_module() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = packed(model)
    tensors = l2fmt.load(result.data)
    assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in before.items()}
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert bool((tensors["1.weight"] == 1).all()) and not tensors["1.running_mean"].any()
    assert error(model, result) < 1e-3
    assert result.notes == ["dfq: 3 batch norms folded, 3 pairs of layers equalized, 3 biases corrected"]
    assert result.settings["options"]["bits"] == 8 and "calibration" not in result.settings


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [3, 5])
def test_a_grid_has_as_many_values_as_its_bits_say(bits: int, symmetric: bool) -> None:
    result = packed(network(), bits=bits, symmetric=symmetric)
    for name, tensor in l2fmt.load(result.data).items():
        if tensor.dim() > 1:
            values = tensor.unique()
            step = float(values.diff().min())
            span = float(values[-1] - values[0]) / step
            assert span == pytest.approx(round(span), abs=1e-3) and round(span) <= 2**bits - 1, name
            if symmetric:
                assert round(float(values.abs().max()) / step) == 2 ** (bits - 1) - 1


def test_every_part_helps() -> None:
    model = network()
    plain, equalized, corrected = (
        error(model, packed(model, bits=5, equalize=e, correct=c))
        for e, c in ((False, False), (True, False), (True, True))
    )
    assert equalized < 0.5 * plain and corrected < 0.9 * equalized, (plain, equalized, corrected)
    with_data = error(model, packed(model, PICTURES, bits=5))
    assert with_data < equalized
    per_channel = error(model, packed(model, bits=5, per_channel=True, equalize=False))
    assert per_channel < 0.5 * plain


def test_clipped_activations_are_not_scaled_across() -> None:
    model = network(nn.ReLU6)
    result = packed(model)
    assert "folded, 0 pairs" in result.notes[0] and error(model, result) < 0.1
    rows = error(model, packed(model, bits=5, per_channel=True))
    assert rows < error(model, packed(model, bits=5))


@pytest.mark.parametrize("options", [{}, {"per_channel": True, "absorb": True}])
def test_a_size_is_met(options: dict[str, Any]) -> None:
    result = packed(network(), ratio=3, **options)
    assert 3 <= result.ratio <= 3 * 1.0051


def test_bits_a_weight() -> None:
    result = l2fmt.pack(network(), bits=4.0, method="dfq")
    rows = [row for row in l2fmt.inspect(result.data).tensors if row.kind == "weights"]
    assert 3.5 < 8 * sum(row.bytes for row in rows) / sum(int(np.prod(row.shape)) for row in rows) <= 4.0


def test_with_data_a_size_is_met_too_and_recorded_with_the_settings() -> None:
    model = network()
    result, again = (packed(model, PICTURES, ratio=3, symmetric=True) for _ in range(2))
    assert 3 <= result.ratio <= 3 * 1.0051 and result.data == again.data
    settings = json.loads(l2fmt.inspect(result.data).metadata["l2fmt.settings"])
    assert settings["options"]["symmetric"] is True and settings["calibration"]["samples"] == 200


def test_what_is_kept_stays() -> None:
    model = network()
    result: Any = l2fmt.pack(model, method="dfq", keep=["1.*", "3.weight"])
    tensors, own = l2fmt.load(result.data), model.state_dict()
    assert all(torch.equal(tensors[name], own[name]) for name in own if name.startswith("1.") or name == "3.weight")
    assert error(model, result) < 1e-3


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


def test_what_is_not_possible_is_said() -> None:
    with pytest.raises(InputError, match="graph of the Branching cannot be traced"):
        packed(Branching())
    with pytest.raises(InputError, match=r"no layer to work on in the Sequential: '0' cannot"):
        packed(nn.Sequential(Branching()))
    with pytest.raises(InputError, match="cannot run on the calibration data"):
        packed(network(), drawn(10, 4))
    with pytest.raises(InputError, match="changes weights before it rounds them"):
        l2fmt.pack(network(), method="dfq", max_error=0.01)
    with pytest.raises(InputError, match="give the module"):
        l2fmt.pack(network().state_dict(), method="dfq")
    with pytest.raises(InputError, match=r"bits must lie in \[2, 12\], not 1"):
        packed(network(), bits=1)
    with pytest.raises(InputError, match="at least 1"):
        packed(network(), batch_size=0)
