"""MobileNetV1 at width 0.75 (Howard et al., 2017) with Keras conventions, and its accuracy on ImageNet pictures.

Thirteen pairs of a depthwise 3x3 and a pointwise 1x1 convolution, each with batch norm and ReLU6. Where the stride is 2
the picture is padded on the right and the bottom only, as "same" padding in TensorFlow does for even sizes.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data
from .common import fold, load_strict, map_parallel, percent, slices, top_k_hits

CHANNELS = (24, 48, 96, 96, 192, 192, 384, 384, 384, 384, 384, 384, 768, 768)
HALVING = (2, 4, 6, 12)
BN_EPSILON = 1e-3
BATCH = 4  # activations of a batch then fit in the processor's cache
OPTIONAL_KEYS = ("num_batches_tracked",)


class MobileNetV1(nn.Module):
    """The network; input float32 [B, 3, 224, 224] in [-1, 1], output logits [B, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, 2, 0, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0], BN_EPSILON)
        for i, (inputs, outputs) in enumerate(pairwise(CHANNELS), 1):
            stride, padding = (2, 0) if i in HALVING else (1, 1)
            setattr(self, f"dw{i}", nn.Conv2d(inputs, inputs, 3, stride, padding, groups=inputs, bias=False))
            setattr(self, f"bn_dw{i}", nn.BatchNorm2d(inputs, BN_EPSILON))
            setattr(self, f"pw{i}", nn.Conv2d(inputs, outputs, 1, bias=False))
            setattr(self, f"bn_pw{i}", nn.BatchNorm2d(outputs, BN_EPSILON))
        self.fc = nn.Linear(CHANNELS[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv1(F.pad(x, (0, 1, 0, 1)))))
        for i in range(1, len(CHANNELS)):
            if i in HALVING:
                x = F.pad(x, (0, 1, 0, 1))
            x = F.relu6(getattr(self, f"bn_dw{i}")(getattr(self, f"dw{i}")(x)))
            x = F.relu6(getattr(self, f"bn_pw{i}")(getattr(self, f"pw{i}")(x)))
        return self.fc(x.mean((2, 3)))


def build(tensors: Mapping[str, Tensor]) -> MobileNetV1:
    """Return the network with these tensors, float32 and in eval mode; tensors of fp16 and bf16 are widened."""
    return load_strict(MobileNetV1(), tensors, OPTIONAL_KEYS)  # type: ignore[return-value]


def folded(network: MobileNetV1) -> MobileNetV1:
    """Fold every batch norm of an eval-mode network into its convolution, in place, and return the network."""
    pairs = [("conv1", "bn1")]
    pairs += [(f"{kind}{i}", f"bn_{kind}{i}") for i in range(1, len(CHANNELS)) for kind in ("dw", "pw")]
    for conv, norm in pairs:
        setattr(network, conv, fold(getattr(network, conv), getattr(network, norm)))
        setattr(network, norm, nn.Identity())
    return network


def preprocess(images: np.ndarray) -> Tensor:
    """Turn uint8 pictures [B, H, W, 3] into float32 [B, 3, H, W] in [-1, 1] (channels last in memory)."""
    return torch.from_numpy(np.array(images)).float().div_(127.5).sub_(1).permute(0, 3, 1, 2)


def evaluate(tensors: Mapping[str, Tensor], limit: int | None = None) -> dict[str, float]:
    """Return {"top1": percent, "top5": percent} over the 1,000 pictures, or over the first `limit` in spread order."""
    network = folded(build(tensors))
    images, labels = data.imagenet()
    images, labels = images[:limit], labels[:limit]

    def hits(part: slice) -> list[int]:
        return top_k_hits(network(preprocess(images[part])), labels[part], (1, 5))

    counts = np.sum(map_parallel(hits, slices(len(images), BATCH), "imagenet"), axis=0)
    return {"top1": percent(int(counts[0]), len(images)), "top5": percent(int(counts[1]), len(images))}
