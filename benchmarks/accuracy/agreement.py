"""How far compressed models say what the full one says, on the inputs of the test, whose answers are not used.

    python -m benchmarks.accuracy.agreement yolov5n FILE.l2c [MORE.l2c ...]

A thousand pictures move an accuracy by a point by chance, since most answers that change were as likely right as wrong.
What is counted here changes with every error of the weights, so that it tells two files of one size apart:

* classifiers: pictures in percent with the same first class, and the mean divergence KL(full || compressed) in nats;
* MiniLM: the mean squared distance of embeddings, which have length 1, x1000;
* YOLOv5n: mAP@.5:.95 x100 when the boxes that the full model finds, at a score of 0.25 or more, are taken as the truth;
* classifiers and YOLOv5n: what is missed of the outputs, the squared error of logits, or of boxes and scores as methods
  compare them, over their variance, x1000. Chance has the least part in it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import l2fmt
from l2fmt.errors import L2Error
from l2fmt.optimize.learning.distillation import distance

from . import data, minilm, mobilenet, resnet_cifar, yolov5
from .common import map_parallel, percent, read_tensors, slices
from .data import DataNotFoundError
from .detection import Detections, Letterbox, average_precision, matches
from .models import MODELS

Tensors = Mapping[str, Tensor]
Agreement = dict[str, float]

SURE = 0.25  # the score from which on a box of the full model counts as true


def agreement(name: str, full: Tensors, others: Sequence[Tensors], limit: int | None = None) -> list[Agreement]:
    """Return what each of `others` has in common with the full model, on the first `limit` test inputs.

    Raises RuntimeError for tensors that do not fit the model, DataNotFoundError.
    """
    outputs, compare = _COMPARISONS[name]
    truth = outputs(full, limit)
    return [{key: round(value, 4) for key, value in compare(truth, outputs(t, limit)).items()} for t in others]


def logits(network: Any, inputs: Callable[[slice], Tensor], count: int, batch: int) -> Tensor:
    """Return what a network puts out for `count` inputs, of which `inputs` returns a part."""
    return torch.cat(map_parallel(lambda part: network(inputs(part)), slices(count, batch), "outputs"))


def _cifar10(tensors: Tensors, limit: int | None) -> Tensor:
    network, images = resnet_cifar.folded(resnet_cifar.build(tensors)), data.cifar10("test")[0][:limit]
    return logits(network, lambda part: resnet_cifar.preprocess(images[part]), len(images), resnet_cifar.BATCH)


def _imagenet(tensors: Tensors, limit: int | None) -> Tensor:
    network, images = mobilenet.folded(mobilenet.build(tensors)), data.imagenet()[0][:limit]
    return logits(network, lambda part: mobilenet.preprocess(images[part]), len(images), mobilenet.BATCH)


def _classes(full: Tensor, found: Tensor) -> Agreement:
    same = int((full.argmax(1) == found.argmax(1)).sum())
    divergence = F.kl_div(found.log_softmax(1), full.log_softmax(1), log_target=True, reduction="batchmean")
    missed = 1000 * float(distance([found], [full]))
    return {"same_class": percent(same, len(full)), "divergence": float(divergence), "missed_x1000": missed}


def _embeddings(tensors: Tensors, limit: int | None) -> Tensor:
    return minilm.embed(minilm.build(tensors), minilm.tokens("test")[0][:limit])


def _distance(full: Tensor, found: Tensor) -> Agreement:
    return {"distance_x1000": 1000 * float((full - found).square().sum(1).mean())}


@dataclass(frozen=True, eq=False)
class _Picture:
    """What YOLOv5n says of a picture; `compared`, of all 25,200 places, in half precision to save memory."""

    detections: Detections
    compared: list[Tensor]


def _pictures(tensors: Tensors, limit: int | None) -> list[_Picture]:
    network = yolov5.folded(yolov5.build(tensors))

    def look(letterbox: Letterbox) -> _Picture:
        picture = yolov5.preprocess(letterbox.image[None])
        output = network(picture)
        compared = yolov5.compared(network, output, picture.shape)
        return _Picture(yolov5.detections(output[0]), [part.half() for part in compared])

    return map_parallel(look, yolov5.letterboxed("val")[:limit], "outputs")


def _boxes(full: list[_Picture], found: list[_Picture]) -> Agreement:
    ours = [picture.detections for picture in found]
    sure = [Detections(*(part[d.scores >= SURE] for part in d)) for d in (picture.detections for picture in full)]
    right = [matches(our, their.boxes, their.classes) for our, their in zip(ours, sure, strict=True)]
    scores, classes, true = (
        np.concatenate(column)
        for column in ([d.scores for d in ours], [d.classes for d in ours], [d.classes for d in sure])
    )
    missed = [float(distance(a.compared, b.compared)) for a, b in zip(found, full, strict=True)]
    precision = average_precision(np.concatenate(right), scores, classes, true)
    return {"map50_95": 100 * float(precision.mean()), "missed_x1000": 1000 * float(np.mean(missed))}


_COMPARISONS: dict[str, tuple[Callable[[Tensors, int | None], Any], Callable[[Any, Any], Agreement]]] = {
    **dict.fromkeys(("resnet20", "resnet32", "resnet56"), (_cifar10, _classes)),
    "mobilenetv1_075": (_imagenet, _classes),
    "minilm": (_embeddings, _distance),
    "yolov5n": (_pictures, _boxes),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object a file; return 1 where files or data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=_COMPARISONS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--limit", type=int, metavar="N", help="compare on N of the test inputs")
    given = parser.parse_args(arguments)
    try:
        full = read_tensors(MODELS[given.model].checkpoint())
        found = agreement(given.model, full, [l2fmt.load_file(path) for path in given.files], given.limit)
    except (DataNotFoundError, L2Error, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, values in zip(given.files, found, strict=True):
        print(json.dumps({"file": path.name, "bytes": path.stat().st_size, **values}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
