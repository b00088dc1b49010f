"""The ResNets of He et al. (2016, section 4.2) for CIFAR-10, and their top-1 accuracy on its test set.

Depth 6n+2: a 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, global average, one linear layer.
The shortcut between stages has no weights: every second pixel, zero channels added on both sides (option A).
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data
from .common import fold, load_strict, map_parallel, percent, slices, top_k_hits

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BATCH = 50  # activations of a batch then fit in the processor's cache
OPTIONAL_KEYS = ("num_batches_tracked",)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(y + x)


class ResNet(nn.Module):
    """The network; input float32 [B, 3, 32, 32], output logits [B, 10]."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def build(tensors: Mapping[str, Tensor]) -> ResNet:
    """Return the network of the tensors' own depth, float32 and in eval mode; tensors of fp16 and bf16 are widened."""
    blocks = len({key.split(".")[1] for key in tensors if key.startswith("layer1.")})
    return load_strict(ResNet(blocks), tensors, OPTIONAL_KEYS)  # type: ignore[return-value]


def folded(network: ResNet) -> ResNet:
    """Fold every batch norm of an eval-mode network into its convolution, in place, and return the network."""
    for module in [network, *(m for m in network.modules() if isinstance(m, Block))]:
        for index in ("1", "2"):
            if hasattr(module, f"conv{index}"):
                conv, norm = getattr(module, f"conv{index}"), getattr(module, f"bn{index}")
                setattr(module, f"conv{index}", fold(conv, norm))
                setattr(module, f"bn{index}", nn.Identity())
    return network


def preprocess(images: np.ndarray) -> Tensor:
    """Turn uint8 pictures [B, 32, 32, 3] into the network's input, float32 [B, 3, 32, 32] (channels last in memory)."""
    x = torch.from_numpy(np.array(images)).float().div_(255)
    return x.sub_(torch.tensor(MEAN)).div_(torch.tensor(STD)).permute(0, 3, 1, 2)


def evaluate(tensors: Mapping[str, Tensor], limit: int | None = None) -> dict[str, float]:
    """Return {"top1": percent} over the test set, or over its first `limit` pictures (the classes take turns)."""
    network = folded(build(tensors))
    images, labels = data.cifar10("test")
    images, labels = images[:limit], labels[:limit]

    def hits(part: slice) -> int:
        return top_k_hits(network(preprocess(images[part])), labels[part], (1,))[0]

    return {"top1": percent(sum(map_parallel(hits, slices(len(images), BATCH), "cifar10 test")), len(images))}
