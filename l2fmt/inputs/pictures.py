"""Pictures of a folder or a .zip, as inputs of a network."""

import io
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from l2fmt.errors import InputError, MissingDependencyError
from l2fmt.inputs.columns import DRAWN, choose_samples

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DECODERS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # Pillow has others, some of which run programs
_MAX_ENTRIES = 1_000_000  # of a zip
_MAX_ENTRY_BYTES = 1 << 28


def read_pictures(
    path: Path,
    size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int | None,
    progress: Callable[[str, float], None],
) -> tuple[Tensor, list[str]]:
    """Return the pictures as float32 [N, 3, H, W] and notes on what was left out; `read_calibration` says more.

    Raises InputError for what cannot be read, MissingDependencyError without Pillow.
    """
    try:
        from PIL import Image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{path}: pictures are read with Pillow: pip install pillow") from error
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least one sample, not {limit}")
    if size is not None and size < 1:
        raise InputError(f"the image size must be at least one pixel, not {size}")
    center, spread = _channels(mean, IMAGENET_MEAN, "mean"), _channels(std, IMAGENET_STD, "std")
    if not (spread > 0).all():
        raise InputError(f"std must be positive, not {tuple(spread.tolist())}")
    notes: list[str] = []
    with ExitStack() as resources:
        openers = _in_folder(path) if path.is_dir() else _in_archive(path, resources)
        if not openers:
            raise InputError(f"{path}: holds no pictures; allowed are {', '.join(PICTURES)}")
        names = sorted(openers)
        # The size is known before anything is scaled to it, so that one beyond bounds is refused and not tried.
        shape = (size, size, 3) if size else _decode(openers[names[0]], f"{path}: {names[0]}", None).shape
        chosen = [names[i] for i in choose_samples(len(names), 4 * prod(shape), limit or DRAWN, notes)]
        inputs = torch.empty(len(chosen), 3, *shape[:2])
        for done, name in enumerate(chosen):
            picture = _decode(openers[name], f"{path}: {name}", size)
            if picture.shape != shape:
                sizes = " and ".join(f"{width}x{height}" for height, width, _ in (shape, picture.shape))
                raise InputError(f"{path}: {names[0]} and {name} are of different sizes, {sizes}; give an image size")
            inputs[done] = torch.from_numpy(((picture / np.float32(255) - center) / spread).transpose(2, 0, 1))
            progress("reading", (done + 1) / len(chosen))
    return inputs, notes


def _channels(values: Sequence[float] | None, default: Sequence[float], name: str) -> np.ndarray:
    channels = np.array(default if values is None else values, np.float32)
    if channels.shape != (3,) or not np.isfinite(channels).all():
        raise InputError(f"{name} must be three numbers, of red, green and blue, not {values}")
    return channels


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    return name.lower().endswith(PICTURES) and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _in_folder(folder: Path) -> dict[str, Callable[[], BinaryIO]]:
    """Return how to open each picture in a folder and those inside it, by name."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: lambda path=path: path.open("rb") for name, path in paths.items() if _is_picture(name)}


def _in_archive(path: Path, resources: ExitStack) -> dict[str, Callable[[], BinaryIO]]:
    """Return how to open each picture in a zip, by name; raises InputError for a damaged one or one beyond bounds."""
    try:
        archive = resources.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path}: a damaged or truncated zip archive ({error})") from error
    infos = [info for info in archive.infolist() if _is_picture(info.filename)]
    largest = max((info.file_size for info in infos), default=0)
    if len(infos) > _MAX_ENTRIES or largest > _MAX_ENTRY_BYTES:
        allowed = f"at most {_MAX_ENTRIES:,} of {_MAX_ENTRY_BYTES:,} bytes are read"
        raise InputError(f"{path}: {len(infos):,} pictures, the largest of {largest:,} bytes; {allowed}")
    return {info.filename: lambda info=info: io.BytesIO(archive.read(info)) for info in infos}


def _decode(open_picture: Callable[[], BinaryIO], name: str, size: int | None) -> np.ndarray:
    """Return a picture as uint8 [H, W, 3], scaled and cropped to a square if a size is given."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_picture() as stream, Image.open(stream, formats=_DECODERS) as opened:
                picture = opened.convert("RGB")
        if size is not None:
            # Only the central square is scaled: a long strip scaled whole could fill the memory.
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            square = (left, top, left + side, top + side)
            picture = picture.resize((size, size), Image.Resampling.BILINEAR, square)
        return np.asarray(picture)
    except MemoryError:
        raise
    except Exception as error:  # decoders let any kind escape on damaged bytes
        raise InputError(f"{name} cannot be decoded ({error or type(error).__name__})") from error
