"""Which blocks are found in models of all kinds, and what is recorded of them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if (root := str(Path(__file__).resolve().parents[3])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks.accuracy.resnet_cifar import ResNet
from l2fmt.demo.digits import DigitsNet
from l2fmt.errors import InputError
from l2fmt.optimize.learning.taps import find_blocks, find_heads, float_tensors, record


class Flat(nn.Module):
    """Convolutions and norms, without any sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.head(F.relu(self.norm2(self.conv2(x))).mean((2, 3)))


def test_the_blocks_of_residual_networks():
    assert find_blocks(ResNet(3)) == [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)]
    many = find_blocks(ResNet(9))
    assert len(many) == len(set(many)) == 16 and many[-1] == "layer3.8"
    order = [name for name, _ in ResNet(9).named_modules()]
    assert [order.index(name) for name in many] == sorted(order.index(name) for name in many)


def test_the_blocks_of_other_models():
    assert find_blocks(DigitsNet()) == ["features.0", "features.1", "features.3"]
    assert find_blocks(Flat()) == ["norm1", "norm2"]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3)
    assert find_blocks(encoder) == ["layers.0", "layers.1", "layers.2"]
    assert find_blocks(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))) == ["0", "2"]
    assert find_blocks(nn.ModuleDict({"a": Flat(), "b": Flat()})) == ["a", "b"]
    assert find_blocks(nn.Linear(4, 4)) == []
    assert find_blocks(nn.ReLU()) == []


def test_no_more_than_sixteen():
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    blocks = find_blocks(deep)
    assert len(blocks) == 16 and blocks[-1] == "49" and blocks[0] == "2"


@dataclass
class Answer:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    name: str = "answer"


OUTPUTS = {
    "tensor": (lambda a, b: a, 1),
    "tuple": (lambda a, b: (a, None, b), 2),
    "list": (lambda a, b: [a, [b, a]], 3),
    "dict": (lambda a, b: {"x": a, "y": {"z": b}, "n": 3}, 2),
    "dataclass": (lambda a, b: Answer(a, (b, b)), 3),
    "object": (lambda a, b: SimpleNamespace(a=a, more={"b": b}), 2),
    "integers beside floats": (lambda a, b: (a.long(), a, torch.zeros(0)), 1),
    "nothing": (lambda a, b: (a.long(), "text", None), 0),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_all_kinds(kind):
    make, count = OUTPUTS[kind]
    a, b = torch.rand(2, 3), torch.rand(2, 4)
    found = list(float_tensors(make(a, b)))
    assert len(found) == count
    assert all(any(t is given for given in (a, b)) for t in found)

    class Block(nn.Module):
        def forward(self, a: Tensor, b: Tensor):
            return make(a, b)

    model = nn.ModuleDict({"block": Block()})
    with record(model, ["block"]) as outputs:
        model["block"](a, b)
    assert len(outputs["block"]) == count


def test_the_last_call_is_kept_and_no_hook_stays():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    first, second = torch.rand(1, 2), torch.rand(1, 2)
    with record(model, ["0", "1"]) as outputs:
        model(first)
        model(second)
    assert torch.equal(outputs["0"][0], model[0](second))
    model(first)
    assert torch.equal(outputs["0"][0], model[0](second))
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(RuntimeError), record(model, ["0"]):
        model(torch.rand(1, 3))
    assert not any(m._forward_hooks for m in model.modules())


def test_an_unknown_name():
    with pytest.raises(InputError, match="no module 'layer9' whose output"), record(nn.Linear(2, 2), ["layer9"]):
        pass


class Detector(nn.Module):
    """Two heads, of which one decodes its output to boxes, and a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.unused = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.body(x))
        self.unused(x)
        return 640 * self.boxes(x).sigmoid(), self.scores(x)


def test_heads_are_the_last_layers_that_something_follows():
    model = Detector().requires_grad_(False)
    assert find_heads(model, lambda: model(torch.randn(5, 6))) == ["boxes"]
    assert not any(p.requires_grad for p in model.parameters())
    classifier = Flat().requires_grad_(False)
    assert find_heads(classifier, lambda: classifier(torch.randn(2, 3, 8, 8))) == []
    normalized = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(1))
    assert find_heads(normalized, lambda: normalized(torch.randn(2, 4))) == ["1"]
    with torch.no_grad():
        assert find_heads(model, lambda: model(torch.randn(5, 6))) == ["boxes"]
    detached = nn.Sequential(nn.Linear(4, 4))
    assert find_heads(detached, lambda: detached(torch.randn(2, 4)).detach() * 1) == []
