"""Calibration data that a user names: files of arrays, pictures, or code that loads it."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from l2fmt.errors import FileAccessError, InputError, MissingFileError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.inputs.columns import LABELS, MAX_BYTES
from l2fmt.inputs.module import import_object, run_user_code
from l2fmt.inputs.pictures import read_pictures

ARRAY_FILES = (".npy", ".npz", ".pt", ".pth", ".safetensors")


def read_calibration(
    spec: str,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> CalibrationSet:
    """Read calibration data that a user names.

    Args:
        spec: a folder or .zip of pictures, a file of arrays (.npy, .npz, .pt, .pth, .safetensors), or, where there is
            no such path, `package.module:loader`: code of the user, which is run, and gives what `CalibrationSet.of`
            takes. In a file of several arrays "labels", "label" or "y" are labels; of the others a single one is the
            input, several are the module's keyword arguments by name.
        image_size: pictures are scaled so that their short side has so many pixels, and cropped to their central
            square; without it they must be of one size.
        mean, std: of each channel, red first, for values 0..1: inputs are (x - mean) / std, float32 [N, 3, H, W]; by
            default those usual for ImageNet.
        limit: as in `CalibrationSet.of`; 4,096 pictures by default, in the order of their names at even distances.
        progress: called with "reading" and the share of the pictures done.

    Raises InputError for what cannot be read, MissingFileError and FileAccessError for paths, MissingDependencyError
    for pictures without Pillow. Files are never unpickled but for tensors and plain data.
    """
    path = Path(spec)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        inputs, notes = read_pictures(path, image_size, mean, std, limit, progress or (lambda stage, done: None))
        return CalibrationSet([{0: inputs}], notes)
    if not (image_size is None and mean is None and std is None):
        raise InputError(f"{spec}: image size, mean and std are for a folder or .zip of pictures")
    if path.exists():
        data = _read_arrays(path)
    elif ":" in spec:
        loader = import_object(spec)
        return run_user_code(lambda: CalibrationSet.of(loader, limit), f"loading calibration data with {spec}")
    else:
        raise MissingFileError(f"{spec}: no such file or folder, and code is named as package.module:loader")
    try:
        return CalibrationSet.of(data, limit)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from error


def _read_arrays(path: Path) -> Any:
    """Return what a file of arrays holds, in a form that `CalibrationSet.of` takes."""
    suffix = path.suffix.lower()
    if suffix not in ARRAY_FILES:
        allowed = ", ".join((*ARRAY_FILES, ".zip"))
        raise InputError(f"{path}: calibration files end in {allowed}, not in {suffix or 'nothing'}")
    try:
        if suffix in (".npy", ".npz"):
            _check_archive(path)
            content: Any = np.load(path, mmap_mode="c", allow_pickle=False)
            if not isinstance(content, np.ndarray):
                with content:
                    content = {name: content[name] for name in content.files}
        elif suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # these readers let any kind escape on damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: damaged, or it holds more than tensors and plain data ({reason})") from error
    if not isinstance(content, Mapping):
        return content
    labels = {name: value for name, value in content.items() if name in LABELS}
    inputs = [value for name, value in content.items() if name not in LABELS]
    return {0: inputs[0], **labels} if len(inputs) == 1 else dict(content)


def _check_archive(path: Path) -> None:
    """Raise InputError if a file is a zip that would inflate beyond bounds, BadZipFile if it is a damaged one."""
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            return
        with zipfile.ZipFile(stream) as archive:
            total = sum(info.file_size for info in archive.infolist())
    if total > MAX_BYTES:
        raise InputError(f"{path}: {total:,} bytes of arrays; at most {MAX_BYTES:,} are read from one .npz")
