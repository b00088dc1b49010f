"""What is found in the graph of a module."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2fmt.errors import InputError
from l2fmt.optimize.equalization.graph import Unit, find_units, trace


def units_of(module: nn.Module) -> dict[str, Unit]:
    module.eval()
    named = [*module.named_parameters(), *module.named_buffers()]
    weights = [name for name, t in named if t.dim() > 1]
    vectors = frozenset(name for name, t in named if t.dim() == 1)
    return {unit.path: unit for unit in find_units(module, trace(module), weights, vectors, {})}


def successors(module: nn.Module) -> dict[str, str]:
    return {path: unit.successor.path for path, unit in units_of(module).items() if unit.successor is not None}


def test_norms_activations_and_successors_of_a_sequence() -> None:
    convolutions = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.LeakyReLU()]
    net = nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 2))
    units = units_of(net)
    assert list(units) == ["0", "3", "7", "9"]
    assert [unit.norm_path for unit in units.values()] == ["1", "", "", ""]
    assert [unit.activation for unit in units.values()] == [net[2], net[4], net[8], None]
    assert successors(net) == {"0": "3", "3": "7"}
    assert units["3"].following == ("leaky", "largest", "flatten")


@pytest.mark.parametrize("between", [nn.ReLU6(), nn.SiLU(), nn.Softmax(1), nn.Flatten(2)])
def test_what_no_scale_passes_ends_a_chain(between: nn.Module) -> None:
    assert successors(nn.Sequential(nn.Conv2d(3, 8, 1), between, nn.Linear(8, 4))) == {}
    assert successors(nn.Sequential(nn.Linear(3, 8), between, nn.Linear(8, 4))) == {}


def test_layers_and_norms_with_hooks_are_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    net[0].register_forward_hook(lambda module, given, output: -output)
    net[4].register_forward_pre_hook(lambda module, given: None)
    units = units_of(net)
    assert list(units) == ["3"] and units["3"].norm is None


class Branches(nn.Module):
    """Outputs read twice, a layer called twice, a weight of two layers, and one that is read itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.twice = nn.Linear(8, 8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.read = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x + self.last(F.relu(self.inner(x)))
        x = self.twice(F.relu(self.twice(x)))
        x = self.other(F.relu(self.one(x)))
        return self.read(x) @ self.read.weight


def test_branches_and_shared_weights_are_left_alone() -> None:
    assert list(units_of(Branches())) == ["first", "inner", "last"]
    assert successors(Branches()) == {"inner": "last"}


class Pooled(nn.Module):
    def __init__(self, dims: tuple[int, ...], pad: tuple[int, ...]) -> None:
        super().__init__()
        self.conv, self.head, self.dims, self.pad = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), dims, pad

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.pad(torch.relu(self.conv(x)), self.pad).mean(self.dims))


@pytest.mark.parametrize(
    ("dims", "pad", "found"),
    [
        ((2, 3), (1, 1), True),
        ((-1, -2), (0, 1, 0, 1), True),
        ((1, 2), (1, 1), False),
        ((2, 3), (0, 0, 0, 0, 1, 1), False),
    ],
)
def test_means_over_places_and_zeros_around_them(dims: tuple[int, ...], pad: tuple[int, ...], found: bool) -> None:
    assert successors(Pooled(dims, pad)) == ({"conv": "head"} if found else {})


class Branching(nn.Module):
    """Its path depends on its input, which no graph can say."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_part_that_cannot_be_traced_is_one_node() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), Branching()), nn.Linear(4, 4), nn.Linear(4, 2))
    assert list(units_of(net)) == ["0", "2", "3"]
    assert successors(net) == {"2": "3"}


def test_a_model_that_cannot_be_traced_is_an_error() -> None:
    with pytest.raises(InputError, match=r"graph of the Branching cannot be traced \(torch.fx: TraceError: "):
        trace(Branching())


def test_only_what_may_change_is_a_unit() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    net.eval()
    graph, every = trace(net), {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.bias"}

    def found(weights: list[str], vectors: set[str], aliases: dict[str, str] | None = None) -> list[tuple[str, str]]:
        return [(u.path, u.norm_path) for u in find_units(net, graph, weights, frozenset(vectors), aliases or {})]

    assert found(["0.weight", "2.weight"], every) == [("0", "1"), ("2", "")]
    assert found(["0.weight", "2.weight"], every - {"1.running_var"}) == [("0", ""), ("2", "")]
    assert found(["0.weight", "2.weight"], every - {"2.bias"}) == [("0", "1")]
    assert found(["2.weight"], every) == [("2", "")]
    assert found(["0.weight", "2.weight"], every, {"elsewhere": "0.weight"}) == [("2", "")]
