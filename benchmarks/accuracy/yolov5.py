"""YOLOv5n, release 6 (CSP backbone, path-aggregation neck, three anchor-based heads), and its mean average precision.

Boxes below 0.001 confidence are dropped, the rest suppressed at IoU 0.6 within their class, at most 300 a picture.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data
from .common import fold, load_strict, map_parallel
from .detection import (
    Detections,
    Letterbox,
    average_precision,
    letterbox,
    matches,
    mirror,
    suppress,
    undo_letterbox,
)

CLASSES = 80
STRIDES = (8, 16, 32)
SIZE = 640
CONFIDENCE, NMS_IOU, MOST_BOXES, MOST_CANDIDATES = 0.001, 0.6, 300, 30000
BN_EPSILON = 1e-3
OPTIONAL_KEYS = ("num_batches_tracked",)


class Conv(nn.Module):
    """A convolution with batch norm and SiLU; the padding keeps the size before the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, BN_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, added to their input in the backbone, not in the neck."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """A cross-stage-partial block: half of the channels pass the bottlenecks, half go around them."""

    def __init__(self, inputs: int, outputs: int, depth: int, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = Conv(inputs, half)
        self.cv2 = Conv(inputs, half)
        self.cv3 = Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Three 5x5 maximum pools in a row, all four stages joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(F.max_pool2d(stages[-1], 5, 1, 2))
        return self.cv2(torch.cat(stages, 1))


class Detect(nn.Module):
    """The three heads; output float32 [B, N, 85]: centre x, y, width, height in pixels, objectness, 80 class scores."""

    anchors: Tensor

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * (5 + CLASSES), 1) for c in channels)
        self.register_buffer("anchors", torch.zeros(len(channels), 3, 2))  # [level, anchor, (w, h)] in strides

    def forward(self, features: list[Tensor]) -> Tensor:
        levels = []
        for x, head, anchors, stride in zip(features, self.m, self.anchors, STRIDES, strict=True):
            batch, _, rows, columns = x.shape
            y = head(x).view(batch, 3, 5 + CLASSES, rows, columns).permute(0, 1, 3, 4, 2).sigmoid()
            grid = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1)
            centre = (y[..., :2] * 2 - 0.5 + grid) * stride
            size = (y[..., 2:4] * 2) ** 2 * anchors.view(1, 3, 1, 1, 2) * stride
            levels.append(torch.cat((centre, size, y[..., 4:]), -1).reshape(batch, -1, 5 + CLASSES))
        return torch.cat(levels, 1)

    def relative(self, output: Tensor, shape: torch.Size) -> Tensor:
        """Return centres from the corners of their cells and roots of sizes, over those of anchors: float32 [B, N, 4].

        `output` is that for pictures of a shape [B, 3, H, W]. Errors of these are errors in shares of a box.
        """
        corners, anchors = [], []
        for level, stride in enumerate(STRIDES):
            rows, columns = shape[2] // stride, shape[3] // stride
            grid = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1)
            corners.append(grid.reshape(1, -1, 2).expand(3, -1, 2).reshape(-1, 2) * stride)
            anchors.append(self.anchors[level][:, None].expand(3, rows * columns, 2).reshape(-1, 2) * stride)
        corner, anchor = torch.cat(corners), torch.cat(anchors)
        return torch.cat(((output[..., :2] - corner) / anchor, (output[..., 2:4] / anchor).sqrt()), -1)


class YOLOv5n(nn.Module):
    """The network; input float32 [B, 3, H, W] in [0, 1], H and W multiples of 32; output as `Detect`."""

    def __init__(self) -> None:
        super().__init__()
        # Positions without parameters (11, 12, ...) hold an Identity, as the keys count upsampling and joining too.
        none = nn.Identity
        self.model = nn.ModuleList(
            [
                *(Conv(3, 16, 6, 2, 2), Conv(16, 32, 3, 2), C3(32, 32, 1, True)),
                *(Conv(32, 64, 3, 2), C3(64, 64, 2, True)),
                *(Conv(64, 128, 3, 2), C3(128, 128, 3, True)),
                *(Conv(128, 256, 3, 2), C3(256, 256, 1, True), SPPF(256)),
                *(Conv(256, 128), none(), none(), C3(256, 128, 1, False)),
                *(Conv(128, 64), none(), none(), C3(128, 64, 1, False)),
                *(Conv(64, 64, 3, 2), none(), C3(128, 128, 1, False)),
                *(Conv(128, 128, 3, 2), none(), C3(256, 256, 1, False)),
                Detect((64, 128, 256)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        layer = self.model
        saved = {}  # only what is needed again, as passes may wait in here by the hundred
        for i in range(11):
            x = layer[i](x)
            if i in (4, 6, 10):
                saved[i] = x
        x = layer[13](torch.cat((F.interpolate(x, scale_factor=2.0), saved[6]), 1))
        lateral = layer[14](x)
        fine = layer[17](torch.cat((F.interpolate(lateral, scale_factor=2.0), saved[4]), 1))
        middle = layer[20](torch.cat((layer[18](fine), lateral), 1))
        coarse = layer[23](torch.cat((layer[21](middle), saved[10]), 1))
        return layer[24]([fine, middle, coarse])


class Compared(YOLOv5n):
    """The network for calibration; outputs are what detections depend on: boxes and scores, and not the background's.

    Returns boxes relative to their cells and anchors, float32 [B, N, 4], times the square root of their objectness,
    and the square roots of the scores, [B, N, 80]. Squared differences of these (Hellinger's distance) are as the
    divergence of probabilities; of the raw outputs, nearly all of 25,200 places say that there is nothing. A box counts
    by how much of it an error shifts, not by pixels of the picture.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return compared(self, super().forward(x), x.shape)


def compared(network: YOLOv5n, output: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return of the network's output for pictures of a shape [B, 3, H, W] what `Compared` returns."""
    objectness = output[..., 4:5]
    boxes = network.model[24].relative(output, shape)  # type: ignore[operator]
    return boxes * objectness.sqrt(), (output[..., 5:] * objectness).sqrt()


def build_compared(tensors: Mapping[str, Tensor]) -> Compared:
    """Return the network for calibration; otherwise as `build`."""
    return load_strict(Compared(), tensors, OPTIONAL_KEYS)  # type: ignore[return-value]


def build(tensors: Mapping[str, Tensor]) -> YOLOv5n:
    """Return the network with these tensors, float32 and in eval mode; tensors of fp16 and bf16 are widened."""
    return load_strict(YOLOv5n(), tensors, OPTIONAL_KEYS)  # type: ignore[return-value]


def folded(network: YOLOv5n) -> YOLOv5n:
    """Fold every batch norm of an eval-mode network into its convolution, in place, and return the network."""
    for module in network.modules():
        if isinstance(module, Conv):
            module.conv, module.bn = fold(module.conv, module.bn), nn.Identity()  # type: ignore[assignment]
    return network


def preprocess(images: np.ndarray) -> Tensor:
    """Turn uint8 pictures [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1] (channels last in memory)."""
    return torch.from_numpy(np.array(images)).float().div_(255).permute(0, 3, 1, 2)


@cache
def letterboxed(split: str, size: int = SIZE) -> list[Letterbox]:
    """Return the COCO pictures of `split` as the network takes them, with sides that are multiples of 32."""
    return [letterbox(picture.image, size, max(STRIDES)) for picture in data.coco(split)]


def detections(output: Tensor) -> Detections:
    """Return the boxes that one picture's raw output, [N, 85], leaves after thresholding and suppression."""
    output = output[output[:, 4] > CONFIDENCE]
    scores = output[:, 5:] * output[:, 4:5]
    row, column = (scores > CONFIDENCE).nonzero(as_tuple=True)
    score = scores[row, column]
    if len(score) > MOST_CANDIDATES:
        score, best = score.topk(MOST_CANDIDATES)
        row, column = row[best], column[best]
    centre, half = output[row, :2], output[row, 2:4] / 2
    boxes = torch.cat((centre - half, centre + half), 1)
    return suppress(Detections(boxes.numpy(), score.numpy(), column.numpy()), NMS_IOU, MOST_BOXES)


def evaluate(
    tensors: Mapping[str, Tensor],
    limit: int | None = None,
    split: str = "val",
    size: int = SIZE,
    mirrored: bool = False,
) -> dict[str, float]:
    """Return {"map50_95": x100, "map50": x100} over the 128 pictures of val2017, or over the first `limit` of them.

    Other splits, sizes of the long side, and `mirrored` pictures are for studies.
    """
    network = folded(build(tensors))
    pictures, boxed = data.coco(split)[:limit], letterboxed(split, size)[:limit]

    def score(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = boxed[i].image[:, ::-1] if mirrored else boxed[i].image
        found = detections(network(preprocess(image[None]))[0])
        if mirrored:
            found = found._replace(boxes=mirror(found.boxes, image.shape[1]))
        height, width = pictures[i].image.shape[:2]
        found = found._replace(boxes=undo_letterbox(found.boxes, boxed[i], height, width))
        corners = pictures[i].boxes[:, 1:3]
        true = np.hstack((corners, corners + pictures[i].boxes[:, 3:]))
        return matches(found, true, pictures[i].boxes[:, 0]), found.scores, found.classes

    scored = map_parallel(score, range(len(pictures)), f"coco {split}")
    right, scores, classes = (np.concatenate(column) for column in zip(*scored, strict=True))
    true_classes = np.concatenate([picture.boxes[:, 0] for picture in pictures])
    precision = average_precision(right, scores, classes, true_classes)
    return {"map50_95": 100 * float(precision.mean()), "map50": 100 * float(precision[0])}
