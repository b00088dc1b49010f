"""Calibration data of every kind: the same batches whatever they come in, and clear refusals."""

import io
import itertools
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from l2fmt.errors import InputError, MissingDependencyError, MissingFileError
from l2fmt.inputs import calibration
from l2fmt.inputs.calibration import IMAGENET_MEAN, IMAGENET_STD, Batch, CalibrationSet, read_calibration

N = 23
X = torch.arange(N * 6, dtype=torch.float32).reshape(N, 2, 3)
Y = torch.arange(N)


def whole(data: CalibrationSet) -> Batch:
    """Return all samples of a set of one shape."""
    (batch,) = data.in_order(data.count)
    return batch


def first_of(batches: Iterator[Batch], count: int) -> list[Tensor]:
    return [batch.args[0] for batch in itertools.islice(batches, count)]


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((4,), float(i)) for i in itertools.count())


class Texts(Dataset):
    """Samples of different lengths, with the length as label."""

    lengths = (3, 5, 3, 4, 5, 3, 3)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        length = self.lengths[index]
        return {"ids": torch.full((length,), index), "mask": torch.ones(length)}, length


def reused_buffer() -> Iterator[np.ndarray]:
    buffer = np.empty((1, 2, 3), np.float32)
    for sample in X:
        buffer[0] = sample.numpy()
        yield buffer


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.numpy(),
        X.double().numpy()[::-1][::-1],
        X.numpy().astype(">f4"),
        X.clone().requires_grad_(),
        TensorDataset(X),
        DataLoader(TensorDataset(X), batch_size=5),
        [X[:5], X[5:].numpy()],
        X.split(4),
        (batch for batch in X.split(7)),
        reused_buffer,
        lambda: iter(X.split(7)),
        lambda: X,
        CalibrationSet.of(X),
    ],
    ids=str,
)
def test_every_kind_of_inputs_is_the_same_set(data: Any):
    found = CalibrationSet.of(data)
    batch = whole(found)
    assert torch.equal(batch.args[0], X) and len(batch.args) == 1
    assert (batch.kwargs, batch.labels, found.count, found.has_labels, found.notes) == ({}, None, N, False, [])
    assert found.digest == CalibrationSet.of(X).digest


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.tolist()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=6),
        [(X[:9], Y[:9]), [X[9:], Y[9:].numpy()]],
    ],
    ids=str,
)
def test_every_kind_of_pair_has_labels(data: Any):
    found = CalibrationSet.of(data)
    batch = whole(found)
    assert found.has_labels and batch.labels is not None and torch.equal(batch.labels, Y)
    assert torch.equal(batch.args[0], X)
    assert found.digest == CalibrationSet.of((X, Y)).digest != CalibrationSet.of(X).digest


def test_mappings_are_keyword_arguments():
    for name in calibration.LABELS:
        batch = whole(CalibrationSet.of({"left": X, "right": Y, name: Y + 1}))
        assert batch.args == () and list(batch.kwargs) == ["left", "right"]
        assert batch.labels is not None and torch.equal(batch.labels, Y + 1)
    batch = whole(CalibrationSet.of([({"left": X}, Y)]))
    assert torch.equal(batch.kwargs["left"], X) and batch.labels is not None
    assert whole(CalibrationSet.of({"left": X, "y": None})).labels is None


def test_several_positional_arguments():
    batch = whole(CalibrationSet.of(((X, Y), Y + 1)))
    assert torch.equal(batch.args[0], X) and torch.equal(batch.args[1], Y) and batch.labels is not None


@pytest.mark.parametrize(
    ("given", "handed_out"),
    [
        (torch.float64, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.uint8, torch.uint8),
        (torch.int32, torch.int32),
        (torch.int64, torch.int64),
        (torch.bool, torch.bool),
    ],
)
def test_floats_are_float32_and_the_rest_is_as_given(given: torch.dtype, handed_out: torch.dtype):
    batch = whole(CalibrationSet.of(torch.ones(3, 2).to(given)))
    assert batch.args[0].dtype == handed_out and (batch.args[0] == 1).all()


def test_shuffled_is_endless_and_deterministic():
    data = CalibrationSet.of((X, Y))
    batches = list(itertools.islice(data.shuffled(5, torch.Generator().manual_seed(3)), 12))
    again = list(itertools.islice(data.shuffled(5, torch.Generator().manual_seed(3)), 12))
    other = first_of(data.shuffled(5, torch.Generator().manual_seed(4)), 12)
    assert all(torch.equal(a.args[0], b.args[0]) for a, b in zip(batches, again, strict=True))
    assert not all(torch.equal(a.args[0], b) for a, b in zip(batches, other, strict=True))
    orders = []
    for epoch in range(3):  # 4 batches of 5, and 3 samples left out
        labels = [batch.labels for batch in batches[4 * epoch : 4 * epoch + 4]]
        order = torch.cat([label for label in labels if label is not None])
        assert len(order) == 20 == len(set(order.tolist()))
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2]
    for batch in batches:
        assert batch.labels is not None and torch.equal(batch.args[0], X[batch.labels])


def test_a_batch_larger_than_the_set_is_the_set():
    sizes = [len(tensor) for tensor in first_of(CalibrationSet.of(X).shuffled(100, torch.Generator()), 3)]
    assert sizes == [N] * 3


def test_in_order_is_one_pass():
    batches = list(CalibrationSet.of((X, Y)).in_order(10))
    assert [len(batch.args[0]) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.args[0] for batch in batches]), X)


def test_samples_of_different_shapes_never_share_a_batch():
    data = CalibrationSet.of(Texts())
    assert data.count == 7 and data.has_labels
    found = [(batch.kwargs["ids"][:, 0].tolist(), batch.kwargs["ids"].shape[1]) for batch in data.in_order(3)]
    assert found == [([0, 2, 5], 3), ([6], 3), ([1, 4], 5), ([3], 4)]
    epoch = list(itertools.islice(data.shuffled(3, torch.Generator()), 3))
    assert sorted(batch.kwargs["ids"].shape[1] for batch in epoch) == [3, 4, 5]
    assert all(batch.labels is not None and (batch.labels == batch.kwargs["ids"].shape[1]).all() for batch in epoch)
    padded = [torch.zeros(4, 7), torch.ones(4, 9), torch.full((4, 8), 2.0)]
    shapes = [tuple(tensor.shape) for tensor in first_of(CalibrationSet.of(padded).shuffled(4, torch.Generator()), 3)]
    assert sorted(shapes) == [(4, 7), (4, 8), (4, 9)]


def test_a_loader_without_end_ends_at_the_limit():
    assert CalibrationSet.of(DataLoader(Endless(), batch_size=3), 10).count == 10
    data = CalibrationSet.of(Endless())
    assert data.count == calibration.DRAWN == 4096
    assert data.notes == ["of the calibration data the first 4,096 samples are used"]
    assert whole(CalibrationSet.of((X for _ in itertools.count()), 30)).args[0].shape == (30, 2, 3)


def test_a_limit_takes_samples_at_even_distances():
    for data in ((X, Y), TensorDataset(X, Y)):
        found = CalibrationSet.of(data, 4)
        labels = whole(found).labels
        assert labels is not None and labels.tolist() == [0, 5, 11, 17]
        assert found.notes == ["4 of 23 calibration samples are used, at even distances"]
        assert CalibrationSet.of(data, N).notes == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "MAX_BYTES", 5 * X[0].nbytes + 1)
    for data in (X, TensorDataset(X), X.split(3), X.split(1)):
        found = CalibrationSet.of(data)
        assert found.count == 5 and len(found.notes) == 1
    monkeypatch.setattr(calibration, "MAX_BYTES", 8)
    for data in (X, TensorDataset(X), X.split(3)):
        with pytest.raises(InputError, match="bytes"):
            CalibrationSet.of(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no sample"),
        (torch.empty(0, 3), "no samples"),
        ([torch.empty(0, 3)], "batch 0 has no samples"),
        (TensorDataset(torch.empty(0, 3)), "no sample"),
        ({}, "no inputs"),
        ({"labels": Y}, "no inputs"),
        (torch.tensor(3.0), r"input 0 no dimension"),
        ((X, Y[:-1]), r"differing lengths \(input 0 23, labels 22\)"),
        ({"a": X, "b": X[1:]}, r"differing lengths \('a' 23, 'b' 22\)"),
        ({"a": X, "y": Y, "label": Y}, "2 sets of labels"),
        ([(X, Y, Y)], "batch 0 has 3 parts"),
        ([X, (X, Y)], "batch 1 has input 0, labels, those before it input 0"),
        ([{"a": X}, {"b": X}], "batch 1 has 'b', those before it 'a'"),
        (["text"], "batch 0: input 0 is a str"),
        ({"a": 5}, "'a' is a int"),
        ((X, ["cat"] * N), "labels are no numbers"),
        ((X, "cat"), "labels is a str"),
        (np.array(["a", "b"]), "array of <U1"),
        (np.array([object()]), "array of object"),
        (X.to_sparse(), "without dense elements"),
        (X.to("meta"), "without dense elements"),
        (torch.tensor([1.0, float("nan"), 2.0]), "input 0 holds values that are not finite"),
        ([X, X / 0], "batch 1: input 0 holds values that are not finite"),
        (torch.tensor([1e300], dtype=torch.float64), "not finite numbers of float32"),
        (5, "a int is no calibration data"),
        ("folder", "a str is no calibration data"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_said(data: Any, words: str):
    with pytest.raises(InputError, match=words):
        CalibrationSet.of(data)


def test_a_limit_is_positive():
    with pytest.raises(InputError, match="at least one"):
        CalibrationSet.of(X, 0)


def test_the_digest_is_of_the_content():
    digests = [CalibrationSet.of(data).digest for data in (X, X + 1, X.reshape(N, 3, 2), X.int(), {"x": X}, X[1:])]
    assert len(set(digests)) == len(digests) and all(len(digest) == 64 for digest in digests)


# Files of arrays


def test_files_of_arrays(tmp_path: Path):
    np.save(tmp_path / "x.npy", X.numpy())
    np.save(tmp_path / "x64.npy", X.double().numpy())
    np.savez(tmp_path / "x.npz", anything=X.numpy())
    torch.save(X, tmp_path / "x.pt")
    torch.save({"images": X}, tmp_path / "x.pth")
    torch.save(X, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(list(X.split(5)), tmp_path / "batches.pt")
    safetensors.torch.save_file({"x": X}, tmp_path / "x.safetensors")
    for path in sorted(tmp_path.iterdir()):
        data = read_calibration(str(path))
        assert torch.equal(whole(data).args[0], X), path
        assert data.digest == CalibrationSet.of(X).digest
    assert read_calibration(str(tmp_path / "x.npy"), limit=4).count == 4


def test_files_of_several_arrays(tmp_path: Path):
    np.savez_compressed(tmp_path / "a.npz", x=X.numpy(), label=Y.numpy())
    safetensors.torch.save_file({"x": X, "labels": Y}, tmp_path / "a.safetensors")
    torch.save((X, Y), tmp_path / "a.pt")
    torch.save({"y": Y, "x": X}, tmp_path / "b.pt")
    for path in sorted(tmp_path.iterdir()):
        batch = whole(read_calibration(str(path)))
        assert batch.labels is not None and torch.equal(batch.labels, Y) and torch.equal(batch.args[0], X), path
    np.savez(tmp_path / "two.npz", ids=Y.numpy(), mask=X.numpy())
    batch = whole(read_calibration(str(tmp_path / "two.npz")))
    assert batch.args == () and set(batch.kwargs) == {"ids", "mask"}
    np.savez(tmp_path / "two.npz", ids=Y.numpy(), mask=X.numpy()[1:])
    with pytest.raises(InputError, match=r"two.npz: .*differing lengths \('ids' 23, 'mask' 22\)"):
        read_calibration(str(tmp_path / "two.npz"))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_nothing_is_unpickled(tmp_path: Path):
    sprung = tmp_path / "sprung"
    torch.save(Trap(sprung), tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.array([Trap(sprung)]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([Trap(sprung)]))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("a.pt", "a.npy", "a.npz", "b.npy"):
        with pytest.raises(InputError, match=name):
            read_calibration(str(tmp_path / name))
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt", "x.safetensors", "x.zip"])
def test_damaged_files(tmp_path: Path, name: str):
    for content in (b"", b"nonsense" * 20, b"PK\x03\x04" + b"\0" * 50, b"\x93NUMPY\x01\x00v\x00{'descr'"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_calibration(str(tmp_path / name))


def test_an_archive_that_inflates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 100)))
    monkeypatch.setattr(calibration, "MAX_BYTES", 500_000)
    with pytest.raises(InputError, match=r"bomb.npz: 800,128 bytes of arrays"):
        read_calibration(str(tmp_path / "bomb.npz"))


def test_paths_that_are_nothing(tmp_path: Path):
    with pytest.raises(MissingFileError, match="no such file"):
        read_calibration(str(tmp_path / "absent.npy"))
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"end in \.npy.*not in \.csv"):
        read_calibration(str(tmp_path / "x.csv"))
    np.save(tmp_path / "x.npy", X.numpy())
    with pytest.raises(InputError, match=r"are for a folder or .zip"):
        read_calibration(str(tmp_path / "x.npy"), image_size=3)


# Code of the user


def test_a_loader_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "import torch\nx = torch.ones(3, 2)\ndef load():\n    yield x\n    yield x\n"
    code += "def fail():\n    yield x\n    raise OSError('the disk is gone')\n"
    (tmp_path / "user_data.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        assert read_calibration("user_data:load").count == 6
        assert read_calibration("user_data:x").count == 3
        with pytest.raises(InputError, match="user_data:fail failed with OSError: the disk is gone"):
            read_calibration("user_data:fail")
        with pytest.raises(InputError, match="has no absent"):
            read_calibration("user_data:absent")
        with pytest.raises(InputError, match="no module no_such_data"):
            read_calibration("no_such_data:load")
        if os.name == "posix":  # an existing path goes before code of the same name
            Path("user_data:load").mkdir()
            with pytest.raises(InputError, match="holds no pictures"):
                read_calibration("user_data:load")
    finally:
        sys.modules.pop("user_data", None)


# Pictures


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
    inputs = whole(data).args[0]
    assert inputs.shape == (10, 3, 8, 12) and inputs.dtype == torch.float32 and not data.has_labels
    pixels = inputs[:, :, 4, 4] * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    expected = torch.tensor([[10 * i / 255, 0, 1] for i in range(10)])
    assert torch.allclose(pixels, expected, atol=1e-6)


def test_pictures_are_scaled_as_asked(folder: Path):
    inputs = whole(read_calibration(str(folder), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0), limit=3)).args[0]
    assert torch.allclose(inputs[:, :, 0, 0], torch.tensor([[-1, -2, 0.5], [-39 / 51, -2, 0.5], [-9 / 17, -2, 0.5]]))


def test_a_limit_of_pictures_is_spread(folder: Path):
    data = read_calibration(str(folder), mean=(0, 0, 0), std=(1, 1, 1), limit=4)
    assert (whole(data).args[0][:, 0, 0, 0] * 25.5).round().tolist() == [0, 2, 5, 7]
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
    inputs = whole(read_calibration(str(tmp_path), image_size=20, mean=(0, 0, 0), std=(1, 1, 1))).args[0]
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
        patch.setattr(calibration, "_MAX_ENTRY_BYTES", 100)
        with pytest.raises(InputError, match="10 pictures, the largest of"):
            read_calibration(archive)
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "MAX_BYTES", 12 * 8 * 3 * 4 * 6)
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
