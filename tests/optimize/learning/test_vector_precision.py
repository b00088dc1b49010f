"""How far vectors may be rounded, as calibration data tell."""

import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.optimize.learning.distillation import distance
from l2fmt.optimize.learning.student import rounded_mantissa
from l2fmt.optimize.learning.vector_precision import TOLERABLE
from l2fmt.plan import VECTOR_MANTISSA_BITS

SAMPLES = torch.randn(80, 20, generator=torch.Generator().manual_seed(1))


def network(offset: float) -> nn.Sequential:
    """Return a network with one bias far from 0, which the next one takes back: rounding moves outputs much."""
    torch.manual_seed(0)
    middle, last = nn.Linear(40, 30), nn.Linear(30, 10)
    with torch.no_grad():
        added = offset * (1 + torch.rand(30))
        middle.bias.add_(added)
        last.bias.sub_(last.weight @ added)
    return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), middle, last)


def chosen(model: nn.Module) -> tuple[int, dict[str, Tensor]]:
    result = l2fmt.pack(model, target_ratio=4, method="obs", calibration=SAMPLES)
    return result.settings["vector_mantissa_bits"], l2fmt.load(result.data or b"")


@pytest.mark.parametrize(("offset", "least", "most"), [(0.0, 6, 6), (8.0, 7, 9), (3000.0, 10, 10)])
def test_as_many_bits_as_the_outputs_need(offset: float, least: int, most: int) -> None:
    model = network(offset)
    bits, tensors = chosen(model)
    assert least <= bits <= most
    vectors = {name: tensor for name, tensor in tensors.items() if tensor.dim() == 1}
    own = dict(model.named_parameters())
    assert all(torch.equal(tensor, rounded_mantissa(own[name].detach(), bits)) for name, tensor in vectors.items())
    with torch.no_grad():
        moved = distance([torch.func.functional_call(model, vectors, (SAMPLES,))], [model(SAMPLES)])
    assert bits == 10 or float(moved) < 2 * TOLERABLE


def test_without_data_the_number_is_fixed() -> None:
    result = l2fmt.pack(network(8.0), target_ratio=4)
    assert result.settings["vector_mantissa_bits"] == VECTOR_MANTISSA_BITS
