"""What a method that calibrates may see of each model: the module with its weights, and samples of no test file.

| model | samples |
|---|---|
| resnet20, resnet32, resnet56 | training pictures of CIFAR-10 with their classes |
| mobilenetv1_075 | random crops of COCO's 128 calibration pictures, as the only ImageNet pictures are the test's |
| yolov5n | these 128 pictures, whole, then random windows of them, enlarged to up to twice that |
| minilm | sentences of the training file of STS-B that neither its test nor its dev file has |

Samples are prepared as the evaluators do. The first N of a longer draw with the same seed are those of a draw of N.
"""

from collections import defaultdict
from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from l2fmt.errors import InputError

from . import data, minilm, mobilenet, resnet_cifar, yolov5
from .common import read_tensors
from .detection import letterbox
from .models import MODELS

MOBILENET_SIDE = 224
SENTENCES_A_BATCH = 32


def build(name: str) -> nn.Module:
    """Return the float32 module of a model with its checkpoint loaded, in eval mode, its parameters trainable.

    Every tensor of the checkpoint is in its state dict, those that nothing reads included.
    Raises DataNotFoundError where the checkpoint is absent.
    """
    model = MODELS[name]
    tensors = read_tensors(model.checkpoint())
    module = model.build(tensors)
    for missing in tensors.keys() - module.state_dict().keys():
        _attach(module, missing, tensors[missing])
    return module.requires_grad_(True)


def _attach(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module a tensor that it does not read, such as MiniLM's pooler; files have it, so it is compressed."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if tensor.is_floating_point():
        module.register_parameter(leaf, nn.Parameter(tensor.float()))
    else:
        module.register_buffer(leaf, tensor)


def calibration(name: str, count: int = 1000, seed: int = 0) -> Any:
    """Return `count` calibration samples of a model, as `CalibrationSet.of` takes them; the same for the same seed.

    A pair (float32 inputs [count, 3, 32, 32], int64 classes [count]) for the ResNets; float32 [count, 3, 224, 224] for
    MobileNet and [count, 3, 640, 640] for YOLO; for MiniLM a list of int64 [B, T], B up to 32 sentences of T tokens.
    Raises InputError for a model without calibration data or more samples than there are, DataNotFoundError.
    """
    if name not in _SOURCES:
        raise InputError(f"there are no calibration data for {name!r}; there are for {', '.join(_SOURCES)}")
    if count < 1:
        raise InputError(f"at least one calibration sample is needed, not {count}")
    return _SOURCES[name](count, seed)


def _cifar10(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return training pictures, the ten classes taking turns, so that they come in equal numbers."""
    images, labels = data.cifar10("train")
    _check_count(count, len(images), "training pictures")
    classes = len(data.CIFAR10_CLASSES)
    ranks = np.random.default_rng(seed).permutation(len(images) // classes)
    chosen = (ranks[:, None] * classes + np.arange(classes)).reshape(-1)[:count]
    return resnet_cifar.preprocess(images[chosen]), torch.from_numpy(labels[chosen])


def _coco_crops(count: int, seed: int) -> Tensor:
    """Return crops as such networks are trained on (Szegedy et al. 2015), the pictures taking turns.

    A crop has 0.08 to 1 of the area and sides of 3:4 to 4:3; half of them are mirrored.
    """
    pictures = data.coco("calib")
    crops = np.empty((count, MOBILENET_SIDE, MOBILENET_SIDE, 3), np.uint8)
    for i in range(count):
        random = np.random.default_rng((seed, i))
        image = pictures[i % len(pictures)].image
        area = image.shape[0] * image.shape[1] * random.uniform(0.08, 1.0)
        ratio = exp(random.uniform(log(3 / 4), log(4 / 3)))
        height, width = min(round(sqrt(area / ratio)), image.shape[0]), min(round(sqrt(area * ratio)), image.shape[1])
        crop = Image.fromarray(_window(image, height, width, random))
        resized = np.asarray(crop.resize((MOBILENET_SIDE, MOBILENET_SIDE), Image.Resampling.BILINEAR))
        crops[i] = resized[:, ::-1] if random.random() < 0.5 else resized
    return mobilenet.preprocess(crops)


def _coco_pictures(count: int, seed: int) -> Tensor:
    """Return whole pictures as the evaluator scales them; after all of them, windows of larger ones, taking turns.

    Boxes of objects must be as large as in the test: calibrated on windows of 320 pixels, compressed models get large
    ones wrong.
    """
    pictures = data.coco("calib")
    canvases = np.empty((count, yolov5.SIZE, yolov5.SIZE, 3), np.uint8)
    for i in range(count):
        random = np.random.default_rng((seed, i))
        scaled = yolov5.SIZE if i < len(pictures) else int(random.integers(yolov5.SIZE, 2 * yolov5.SIZE + 1))
        picture = letterbox(pictures[i % len(pictures)].image, scaled, 1).image
        window = _window(picture, yolov5.SIZE, yolov5.SIZE, random)
        canvases[i] = letterbox(window, yolov5.SIZE, yolov5.SIZE).image
    return yolov5.preprocess(canvases)


def _window(image: np.ndarray, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Return a random part of a picture of that size; where the picture is smaller, all of that side."""
    sizes = (height, width)
    top, left = (int(random.integers(max(n - size, 0) + 1)) for n, size in zip(image.shape[:2], sizes, strict=True))
    return image[top : top + height, left : left + width]


def _sentences(count: int, seed: int) -> list[Tensor]:
    """Return distinct sentences as token ids; those of one length share batches, so that there is no padding."""
    tested = {ids for split in ("test", "dev") for ids in minilm.tokens(split)[0]}
    sentences = [ids for ids in minilm.tokens("train")[0] if ids not in tested]
    _check_count(count, len(sentences), "training sentences")
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(len(sentences))[:count]:
        by_length[len(sentences[i])].append(sentences[i])
    return [
        torch.tensor(members[i : i + SENTENCES_A_BATCH])
        for _, members in sorted(by_length.items())
        for i in range(0, len(members), SENTENCES_A_BATCH)
    ]


def _check_count(count: int, available: int, what: str) -> None:
    if count > available:
        raise InputError(f"{count} calibration samples were asked for; there are {available} {what}")


_SOURCES: dict[str, Callable[[int, int], Any]] = {
    "resnet20": _cifar10,
    "resnet32": _cifar10,
    "resnet56": _cifar10,
    "mobilenetv1_075": _coco_crops,
    "yolov5n": _coco_pictures,
    "minilm": _sentences,
}
