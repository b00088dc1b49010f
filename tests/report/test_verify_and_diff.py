"""`verify` on whole models, `diff` across formats."""

import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file as save_safetensors

from l2fmt.errors import CorruptFileError, FileAccessError, MissingFileError
from l2fmt.report import diff, inspect, verify
from l2fmt.torch import load, load_file, save_file


def test_squares_beyond_float64():
    first, second = ({"a": torch.tensor([x, 1.0], dtype=torch.float64)} for x in (1e300, 2e300))
    (found,) = diff(first, second)
    assert found.relative_mse == pytest.approx(1) and found.max_error == 1e300


def test_the_report(model, model_path):
    report = verify(model_path)
    assert (report.tensors, report.aliases, report.decoded) == (9, 1, True)
    assert report.file_bytes == len(model)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    assert not verify(model_path, structure_only=True).decoded


def test_verify_needs_no_torch(model_path):
    script = f"import sys; sys.modules['torch'] = None; import l2fmt; print(l2fmt.verify({str(model_path)!r}).tensors)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "9\n"), done.stderr


def test_shards_and_their_index(tmp_path):
    save_file({f"w{i}": torch.randn(50, 20) for i in range(3)}, tmp_path / "m.l2c", max_shard_bytes=5000)
    report = verify(tmp_path / "m.l2c.index.json")
    assert (len(report.files), report.tensors, report.decoded_bytes) == (3, 3, 12000)
    index = tmp_path / "m.l2c.index.json"
    index.write_text(index.read_text().replace("12000", "12004"))
    for read in (verify, load_file, inspect):
        with pytest.raises(CorruptFileError, match=r"total_size is 12004; .* 12000 bytes"):
            read(tmp_path)
    index.write_text(index.read_text().replace("w2", "w9"))
    with pytest.raises(CorruptFileError, match="'w9'"):
        verify(tmp_path)
    next(tmp_path.glob("*00002*")).unlink()
    with pytest.raises((MissingFileError, CorruptFileError)):
        verify(tmp_path)


def test_what_cannot_be_read_is_no_damage(tmp_path):
    with pytest.raises(FileAccessError):
        verify(tmp_path / "nothing.l2c")


def test_diff_of_a_model_and_itself(model_path):
    rows = diff(model_path, model_path)
    assert [row.name for row in rows] == list(load(model_path.read_bytes()))
    assert all(row.status == "identical" and row.comparable and row.max_error == 0 for row in rows)


def test_diff_across_formats(tmp_path):
    a = {"w": torch.randn(300, 40), "same": torch.arange(5), "gone": torch.ones(2), "shape": torch.ones(2, 3)}
    b = {"w": a["w"] + 0.25, "same": a["same"], "shape": torch.ones(3, 2), "new": torch.ones(1)}
    save_safetensors(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.bin")  # found by content, not by name
    torch.save(a, tmp_path / "a.pt")
    for source in (tmp_path / "a.safetensors", tmp_path / "a.pt", a):
        rows = {row.name: row for row in diff(source, tmp_path / "b.bin")}
        assert {name: row.status for name, row in rows.items()} == {
            "w": "different",
            "same": "identical",
            "gone": "only in A",
            "shape": "shape",
            "new": "only in B",
        }
        energy = (a["w"].double() ** 2).sum().item()
        error = ((b["w"].double() - a["w"].double()) ** 2).sum().item()
        assert rows["w"].relative_mse == pytest.approx(error / energy)
        assert rows["w"].max_error == pytest.approx(0.25, abs=1e-6)
        assert rows["gone"].shape_b is None and rows["new"].dtype_a is None
        assert not rows["shape"].comparable and rows["shape"].max_error is None


@pytest.mark.parametrize(
    ("a", "b", "relative", "largest"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.05, 0.5),
        ([0.0, 0.0], [0.0, 0.5], math.inf, 0.5),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0, 0.0),
        ([math.nan, 1.0], [2.0, 1.0], math.inf, math.inf),
        ([math.inf, 1.0], [math.inf, 2.0], 1.0, 1.0),
        ([1.0, 1.0], [-math.inf, 1.0], math.inf, math.inf),
        ([0.0, 1.0], [-0.0, 1.0], 0.0, 0.0),
        ([1j, 1.0], [1j, 1.0 + 1j], 0.5, 1.0),
    ],
)
def test_numbers_that_are_not_ordinary(a, b, relative, largest):
    dtype = torch.complex64 if isinstance(a[0], complex) else torch.float32
    (row,) = diff({"x": torch.tensor(a, dtype=dtype)}, {"x": torch.tensor(b, dtype=dtype)})
    assert (row.relative_mse, row.max_error) == (pytest.approx(relative), pytest.approx(largest))
    json.dumps(row.to_dict(), allow_nan=False)


def test_other_dtypes_are_compared_by_value():
    values = torch.tensor([1.0, -2.0, 0.5])
    for dtype in (torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64):
        (row,) = diff({"x": values}, {"x": values.to(dtype)})
        assert (row.status, row.max_error) == ("different", 0.0)
    (row,) = diff({"x": torch.tensor([True, False])}, {"x": torch.tensor([1, 2], dtype=torch.uint16)})
    assert row.max_error == 2.0


def test_bounded_slices_see_every_element(monkeypatch):
    monkeypatch.setattr("l2fmt.report.difference._SLICE", 7)
    a = torch.zeros(50, 3)
    b = a.clone()
    b[-1, -1] = 3
    (row,) = diff({"x": a + 1}, {"x": b + 1})
    assert row.max_error == 3.0 and row.relative_mse == pytest.approx(9 / 150)
