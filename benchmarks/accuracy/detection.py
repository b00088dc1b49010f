"""What turns a detector's raw boxes into a score: letterboxing, non-maximum suppression and average precision.

Boxes are float32 or float64 [..., 4] as x_min, y_min, x_max, y_max in pixels, unless a name says otherwise.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_GRID = np.linspace(0, 1, 101)


class Letterbox(NamedTuple):
    """A picture scaled and padded for a network: uint8 [H, W, 3], with what takes boxes back to the original."""

    image: np.ndarray
    scale: float
    left: int
    top: int


class Detections(NamedTuple):
    """Boxes [N, 4] of one picture with scores [N] and classes int64 [N], the highest score first."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def letterbox(image: np.ndarray, size: int, multiple: int) -> Letterbox:
    """Scale the long side of uint8 [H, W, 3] to `size` and pad both sides with grey to a multiple of `multiple`."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale != 1:
        width, height = round(width * scale), round(height * scale)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    padded = [-(-side // multiple) * multiple for side in (height, width)]
    top, left = (padded[0] - height) // 2, (padded[1] - width) // 2
    canvas = np.full((*padded, 3), 114, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = image
    return Letterbox(canvas, scale, left, top)


def undo_letterbox(boxes: np.ndarray, box: Letterbox, height: int, width: int) -> np.ndarray:
    """Return the boxes in pixels of the original picture of `height` x `width`, cut at its edges."""
    original = (boxes - np.array([box.left, box.top] * 2)) / box.scale
    return original.clip(0, np.array([width, height] * 2))


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """Return the boxes of a picture `width` pixels wide in its mirror image."""
    return np.stack((width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]), -1)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of every pair, [N, M], of boxes a [N, 4] and b [M, 4]."""
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = overlap.clip(0).prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    return intersection / (area_a[:, None] + area_b[None, :] - intersection + 1e-9)


def suppress(found: Detections, iou: float, most: int) -> Detections:
    """Keep, from the highest score down, boxes that overlap no kept box of their class by more than `iou`.

    At most `most` are kept. `found` need not be sorted.
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes = found.boxes[order].astype(np.float32)
    classes = found.classes[order]
    # Shifting each class to a place of its own lets one pass serve all classes.
    apart = boxes + (classes * 8192.0).astype(np.float32)[:, None]
    x0, y0, x1, y1 = np.ascontiguousarray(apart.T)
    area = (x1 - x0) * (y1 - y0)
    left, kept = np.arange(len(order)), []
    while len(left) and len(kept) < most:
        i, rest = left[0], left[1:]
        kept.append(i)
        w = np.minimum(x1[i], x1[rest]) - np.maximum(x0[i], x0[rest])
        h = np.minimum(y1[i], y1[rest]) - np.maximum(y0[i], y0[rest])
        overlap = w.clip(0) * h.clip(0)
        left = rest[overlap <= iou * (area[i] + area[rest] - overlap)]
    return Detections(boxes[kept], found.scores[order][kept], classes[kept])


def matches(found: Detections, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Say which detections are right at each IoU threshold, bool [N, 10], given the true boxes [M, 4] and classes [M].

    From the highest score down, a detection takes the free true box of its class that it overlaps most (as COCO does).
    """
    right = np.zeros((len(found.boxes), len(IOU_THRESHOLDS)), dtype=bool)
    if not len(boxes) or not len(found.boxes):
        return right
    iou = box_iou(found.boxes.astype(np.float64), boxes) * (found.classes[:, None] == classes[None, :])
    for k, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(len(boxes), dtype=bool)
        for i in np.flatnonzero(iou.max(1) >= threshold):
            overlap = np.where(free, iou[i], -1)
            best = overlap.argmax()
            if overlap[best] >= threshold:
                free[best] = False
                right[i, k] = True
    return right


def average_precision(
    right: np.ndarray, scores: np.ndarray, classes: np.ndarray, true_classes: np.ndarray
) -> np.ndarray:
    """Return the mean over the classes present of the average precision at each IoU threshold, float64 [10].

    Args:
        right, scores, classes: the detections of all pictures, [N, 10], [N] and [N].
        true_classes: the classes of all true boxes, [M].

    The average is COCO's: the precision envelope at 101 recalls, zero beyond the last recall reached.
    """
    order = np.argsort(-scores, kind="stable")
    right, classes = right[order], classes[order]
    present, counts = np.unique(true_classes, return_counts=True)
    result = np.zeros((len(present), right.shape[1]))
    for row, (c, count) in enumerate(zip(present, counts, strict=True)):
        hits = right[classes == c].cumsum(0)
        if not len(hits):
            continue
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        for k in range(right.shape[1]):
            reached = np.searchsorted(hits[:, k] / count, RECALL_GRID)
            result[row, k] = envelope[reached[reached < len(hits)], k].sum() / len(RECALL_GRID)
    return result.mean(0)
