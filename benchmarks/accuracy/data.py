"""Find, decode and cache the evaluation data: pictures from zip files and sentence pairs from tab-separated text.

The folder is named by the environment variable `L2FMT_DATA`; without it, `shared/data` beside the repository.
Decoded pictures are kept as .npy files under `L2FMT_BENCHMARK_CACHE` (default: the user's cache folder), because
decoding takes longer than evaluating a small network.
"""

import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataNotFoundError(FileNotFoundError):
    """The evaluation data, or the package that carries it, could not be found."""


class LabelledImages(NamedTuple):
    """Pictures of one size with one class each: `images` uint8 [N, H, W, 3] in RGB, `labels` int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


class CocoImage(NamedTuple):
    """One picture, uint8 [H, W, 3] in RGB, and its boxes, float64 [M, 5]: class, then x_min, y_min, width, height."""

    name: str
    image: np.ndarray
    boxes: np.ndarray


class SentencePair(NamedTuple):
    """Two sentences and the similarity that people gave them, 0 to 5."""

    first: str
    second: str
    score: float


def data_folder() -> Path:
    """Return the folder of the evaluation data; raise DataNotFoundError where there is none."""
    given = os.environ.get("L2FMT_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        source = "L2FMT_DATA names it" if given else "the default, as L2FMT_DATA is not set"
        raise DataNotFoundError(f"evaluation data: {folder} is not a folder ({source})")
    return folder


def data_file(relative: str) -> Path:
    """Return the path of one file of the evaluation data; raise DataNotFoundError where it is absent."""
    path = data_folder() / relative
    if not path.is_file():
        raise DataNotFoundError(f"evaluation data: {path} does not exist")
    return path


def spread_order(count: int) -> np.ndarray:
    """Return a fixed permutation of `range(count)`, int64, any prefix of which is spread over the whole range.

    The files are sorted by class or by genre, so a plain prefix of them would be no sample.
    """
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return np.arange(count, dtype=np.int64) * step % max(count, 1)


def _cache_folder() -> Path:
    given = os.environ.get("L2FMT_BENCHMARK_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "l2fmt-benchmarks"


def _decode_zip(archive: str, recipe: str, decode: Callable[[Image.Image], np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Return the names and the decoded pictures (memory-mapped where possible) of a zip file, in order of name."""
    with zipfile.ZipFile(data_file(archive)) as opened:
        entries = sorted((e for e in opened.infolist() if not e.is_dir()), key=lambda e: e.filename)
        names = [e.filename for e in entries]
        listing = "\n".join([recipe, *(f"{e.filename} {e.CRC:08x}" for e in entries)])
        digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        path = _cache_folder() / f"{archive.replace('/', '-').removesuffix('.zip')}-{digest}.npy"
        if path.is_file():
            return names, np.load(path, mmap_mode="r")
        pictures = np.stack([decode(Image.open(io.BytesIO(opened.read(e))).convert("RGB")) for e in entries])
    try:
        _write_atomically(path, pictures)
    except OSError:  # a read-only home costs time, not the result
        return names, pictures
    return names, np.load(path, mmap_mode="r")


def _write_atomically(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
        try:
            np.save(stream, array)
            stream.close()
            os.replace(stream.name, path)
        except BaseException:
            os.unlink(stream.name)
            raise


@cache
def cifar10(split: str) -> LabelledImages:
    """Return CIFAR-10 `split` ("test": 10,000 pictures, "train": 25,000) of 32 x 32, the classes taking turns."""
    names, images = _decode_zip(f"cifar10/{split}.zip", "as stored", np.asarray)
    labels = np.array([CIFAR10_CLASSES.index(name.split("/")[0]) for name in names], dtype=np.int64)
    rank_in_class = np.empty_like(labels)
    for c in range(len(CIFAR10_CLASSES)):
        members = labels == c
        rank_in_class[members] = np.arange(members.sum())
    order = np.lexsort((labels, rank_in_class))
    return LabelledImages(np.asarray(images)[order], labels[order])


def _crop_224(image: Image.Image) -> np.ndarray:
    """Scale the short side to 256 and cut the central 224 x 224."""
    width, height = image.size
    scale = 256 / min(width, height)
    size = (max(256, round(width * scale)), max(256, round(height * scale)))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


@cache
def imagenet() -> LabelledImages:
    """Return the 1,000 ImageNet pictures, one a class, cropped to 224 x 224, in spread order."""
    names, images = _decode_zip("imagenet/images.zip", "short side 256 bilinear, centre 224 rounded to even", _crop_224)
    labels = np.array([int(name[:4]) for name in names], dtype=np.int64)
    order = spread_order(len(names))
    return LabelledImages(np.asarray(images)[order], labels[order])


@cache
def coco(split: str = "val") -> list[CocoImage]:
    """Return the 128 COCO pictures of `split`, "val" (for scores) or "calib" (from train2017), in file order."""
    archive, labels = {"val": ("images.zip", "labels.json"), "calib": ("calib.zip", "calib-labels.json")}[split]
    described = json.loads(data_file(f"coco/{labels}").read_text(encoding="utf-8"))["images"]
    pictures = []
    with zipfile.ZipFile(data_file(f"coco/{archive}")) as opened:
        for entry in described:
            image = np.asarray(Image.open(io.BytesIO(opened.read(entry["file"]))).convert("RGB"))
            boxes = np.array(entry["boxes"], dtype=np.float64).reshape(-1, 5)
            pictures.append(CocoImage(entry["file"], image, boxes))
    return pictures


@cache
def stsb(split: str) -> list[SentencePair]:
    """Return the STS benchmark pairs of `split`, "test", "dev" or "train", in spread order."""
    lines = data_file(f"stsb/sts-{split}.tsv").read_text(encoding="utf-8").split("\n")
    # Quote marks in this file are text, so the csv module's default dialect would swallow lines.
    rows = [line.rstrip("\r").split("\t") for line in lines[1:] if line]
    pairs = [SentencePair(row[5], row[6], float(row[4])) for row in rows]
    return [pairs[i] for i in spread_order(len(pairs))]
