"""Pictures in folders of classes as inputs of a network, for `benchmarks.imagenet`.

They are prepared as torchvision does it with Pillow pictures: bilinear with antialiasing; for scores the short side to
256 pixels, the other one rounded down, and the central 224 x 224, half pixels rounded to even; for calibration one
random crop of 8 to 100 % of the area and 3:4 to 4:3, scaled to 224 x 224 and mirrored with probability 1/2.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from l2fmt.errors import InputError, MissingFileError

SHORT_SIDE, SIDE = 256, 224
AREA, ASPECT, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
SUFFIXES = (".jpeg", ".jpg", ".png")
_AHEAD = 2  # batches read while one is used

Picture = tuple[Path, int]
View = Callable[[Image.Image, np.random.Generator], Image.Image]


def list_pictures(folder: Path) -> list[Picture]:
    """Return the pictures of folders of classes with the numbers of their classes, both in the order of their names.

    Raises MissingFileError without the folder, InputError where it holds none.
    """
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder}; expected train and val with a folder for each class")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, label) for label, inner in enumerate(classes) for path in sorted(inner.iterdir())]
    if not (pictures := [(path, label) for path, label in files if path.suffix.lower() in SUFFIXES]):
        raise InputError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}) in folders of classes")
    return pictures


def choose(pictures: Sequence[Picture], count: int, seed: int) -> list[Picture]:
    """Return `count` random pictures, the classes taking turns; a longer draw with the same seed begins with them."""
    if not 1 <= count <= len(pictures):
        raise InputError(f"{count} calibration pictures were asked for; there are {len(pictures)}")
    random = np.random.default_rng(seed)
    labels = np.array([label for _, label in pictures])
    turns = np.empty(len(pictures), dtype=np.int64)
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        turns[members] = random.permutation(len(members))
    places = random.permutation(labels.max() + 1)[labels]
    return [pictures[i] for i in np.lexsort((places, turns))[:count]]


def spread(pictures: Sequence[Picture], count: int | None) -> list[Picture]:
    """Return `count` pictures at even distances, so that small counts have many classes; all for None."""
    count = min(count or len(pictures), len(pictures))
    return [pictures[i * len(pictures) // count] for i in range(count)]


def central_view(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Scale the short side to 256 pixels and cut the central 224 x 224; draws no numbers."""
    width, height = (int(SHORT_SIDE * length / min(image.size)) for length in image.size)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + SIDE, top + SIDE))


def random_view(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut a random part, scale it to 224 x 224, and mirror it every other time."""
    left, top, width, height = random_box(*image.size, random)
    image = image.crop((left, top, left + width, top + height)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def random_box(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a part; where no attempt fits, the largest central one of a legal shape."""
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(*AREA)
        aspect = exp(random.uniform(log(ASPECT[0]), log(ASPECT[1])))
        w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(width - w + 1)), int(random.integers(height - h + 1)), w, h
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def to_input(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return a picture as float32 [3, H, W]: values in [0, 1], less the mean, over the deviation of each channel."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
    offset, scale = (torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))
    return pixels.sub_(offset).div_(scale)


def batches(
    pictures: Sequence[Picture],
    view: View,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int = 0,
    size: int = 64,
    workers: int = 2,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs float32 [B, 3, 224, 224] and classes int64 [B] in order, read by threads a little ahead.

    The random numbers of a picture are those of the seed and its place. Raises InputError naming a file that cannot be
    decoded.
    """

    def read(place: int) -> Tensor:
        path = pictures[place][0]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise InputError(f"{path} cannot be read as a picture: {error}") from error
        return to_input(view(image, np.random.default_rng((seed, place))), mean, std)

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[list[Future[Tensor]], Tensor]] = deque()
        try:
            for start in range(0, len(pictures), size):
                places = range(start, min(start + size, len(pictures)))
                labels = torch.tensor([pictures[place][1] for place in places])
                waiting.append(([pool.submit(read, place) for place in places], labels))
                if len(waiting) > _AHEAD:
                    yield _collected(*waiting.popleft())
            while waiting:
                yield _collected(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _collected(read: list[Future[Tensor]], labels: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([future.result() for future in read]), labels
