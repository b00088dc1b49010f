"""Files of arrays and code of the user as calibration data: nothing is unpickled, and damage is named."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from l2fmt.errors import InputError, MissingFileError
from l2fmt.inputs import calibration_files
from l2fmt.inputs.calibration import Batch, CalibrationSet
from l2fmt.inputs.calibration_files import read_calibration

N = 23
X = torch.arange(N * 6, dtype=torch.float32).reshape(N, 2, 3)
Y = torch.arange(N)


def whole(data: CalibrationSet) -> Batch:
    """Return all samples of a set of one shape."""
    (batch,) = data.in_order(data.count)
    return batch


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
    monkeypatch.setattr(calibration_files, "MAX_BYTES", 500_000)
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
