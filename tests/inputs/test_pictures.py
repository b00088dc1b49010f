"""Pictures as calibration data: the same from a folder and from a zip, scaled as asked, bombs refused."""

import io
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from l2fmt.errors import InputError, MissingDependencyError
from l2fmt.inputs import columns
from l2fmt.inputs import pictures as reader
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.inputs.calibration_files import read_calibration
from l2fmt.inputs.pictures import IMAGENET_MEAN, IMAGENET_STD


def inputs_of(data: CalibrationSet) -> Tensor:
    """Return all pictures of a set."""
    (batch,) = data.in_order(data.count)
    return batch.args[0]


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Encoded pictures by name, 12x8 pixels; the red of number i is 10 i everywhere."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    found = {}
    for i in range(10):
        stream = io.BytesIO()
        image.new("RGB", (12, 8), (10 * i, 0, 255)).save(stream, "PNG" if i % 2 else "BMP")
        found[f"class{i // 5}/{i}.{'PNG' if i % 2 else 'bmp'}"] = stream.getvalue()
    return found


@pytest.fixture
def folder(pictures: dict[str, bytes], tmp_path: Path) -> Path:
    """The pictures in folders, among what is none."""
    root = tmp_path / "pictures"
    for name, content in {**pictures, "notes.txt": b"", ".hidden/a.png": b"", "class0/._1.png": b""}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def test_pictures_of_a_folder_and_of_a_zip(folder: Path, pictures: dict[str, bytes], tmp_path: Path):
    archive = zipped(tmp_path / "a.ZIP", {"__MACOSX/0.png": b"", **dict(reversed(pictures.items()))})
    stages: list[tuple[str, float]] = []
    data = read_calibration(str(folder), progress=lambda stage, done: stages.append((stage, done)))
    assert data.digest == read_calibration(archive).digest and data.notes == []
    assert stages[-1] == ("reading", 1.0) and len(stages) == 10
    inputs = inputs_of(data)
    assert inputs.shape == (10, 3, 8, 12) and inputs.dtype == torch.float32 and not data.has_labels
    pixels = inputs[:, :, 4, 4] * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    expected = torch.tensor([[10 * i / 255, 0, 1] for i in range(10)])
    assert torch.allclose(pixels, expected, atol=1e-6)


def test_pictures_are_scaled_as_asked(folder: Path):
    inputs = inputs_of(read_calibration(str(folder), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0), limit=3))
    assert torch.allclose(inputs[:, :, 0, 0], torch.tensor([[-1, -2, 0.5], [-39 / 51, -2, 0.5], [-9 / 17, -2, 0.5]]))


def test_a_limit_of_pictures_is_spread(folder: Path):
    data = read_calibration(str(folder), mean=(0, 0, 0), std=(1, 1, 1), limit=4)
    assert (inputs_of(data)[:, 0, 0, 0] * 25.5).round().tolist() == [0, 2, 5, 7]
    assert data.notes == ["4 of 10 calibration samples are used, at even distances"]


def test_a_central_square_is_cut(tmp_path: Path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 28:72] = 200
    image.fromarray(pixels).save(tmp_path / "a.png")
    image.new("L", (9, 30), 200).save(tmp_path / "b.png")
    image.new("RGBA", (1, 3000), (200, 200, 200, 7)).save(tmp_path / "c.webp")
    with pytest.raises(InputError, match=r"a.png and b.png .*100x40 and 9x30; give an image size"):
        read_calibration(str(tmp_path))
    inputs = inputs_of(read_calibration(str(tmp_path), image_size=20, mean=(0, 0, 0), std=(1, 1, 1)))
    assert inputs.shape == (3, 3, 20, 20)
    assert torch.allclose(inputs, torch.tensor(200 / 255), atol=0.02)  # lossy webp


def test_a_damaged_picture_is_named(folder: Path, pictures: dict[str, bytes], tmp_path: Path):
    (folder / "class1" / "7.PNG").write_bytes(pictures["class1/7.PNG"][:50])
    with pytest.raises(InputError, match=r"class1/7.PNG cannot be decoded"):
        read_calibration(str(folder))
    archive = zipped(tmp_path / "a.zip", pictures)
    content = bytearray(Path(archive).read_bytes())
    content[content.index(b"class0/2.bmp") + 20] ^= 0xFF
    Path(archive).write_bytes(content)
    with pytest.raises(InputError, match=r"a.zip: class0/2.bmp cannot be decoded"):
        read_calibration(archive)
    with pytest.raises(InputError, match="holds no pictures"):
        read_calibration(zipped(tmp_path / "b.zip", {"a.txt": b""}))


def test_bombs_are_refused(folder: Path, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    archive = zipped(tmp_path / "a.zip", pictures)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_MAX_ENTRY_BYTES", 100)
        with pytest.raises(InputError, match="10 pictures, the largest of"):
            read_calibration(archive)
    with monkeypatch.context() as patch:
        patch.setattr(columns, "MAX_BYTES", 12 * 8 * 3 * 4 * 6)
        assert read_calibration(archive).count == 6
    for pixels in (90, 40):  # Pillow warns above its bound, and raises above twice that
        monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(InputError, match=r"class0/0.bmp cannot be decoded .*decompression bomb"):
            read_calibration(str(folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "at least one pixel"),
        ({"image_size": 100_000}, "a calibration sample has"),
        ({"mean": (0.5, 0.5)}, "mean must be three numbers"),
        ({"std": (0.5, 0.5, float("nan"))}, "std must be three numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"limit": 0}, "at least one"),
    ],
)
def test_options_of_pictures_are_checked(folder: Path, options: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        read_calibration(str(folder), **options)


def test_pillow_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        read_calibration(str(folder))


def test_reading_leaves_the_warning_filters_alone(folder: Path):
    before = list(warnings.filters)
    read_calibration(str(folder))
    assert list(warnings.filters) == before
