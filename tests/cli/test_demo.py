"""`l2fmt demo`: what it prints is measured, each file is as small as it says, and nothing is left behind."""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from l2fmt.cli import main

module = import_module("l2fmt.cli.demo")  # as an attribute of the package this is the command
NAMES = ("as trained", "lossless", "default", "rd, ratio 40", "l2, ratio 40")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn", reason="needs the digits of scikit-learn")
    monkeypatch.setattr(module, "_RATIOS", (40,))
    monkeypatch.setattr(module, "_L2_OPTIONS", {**module._L2_OPTIONS, "weight_iterations": 60})
    threads = torch.get_num_threads()
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert torch.get_num_threads() == threads and not list(folder.glob("l2fmt-*"))
    lines = result.stdout.splitlines()
    (top,) = [i for i, line in enumerate(lines) if line.startswith("weights  ")]
    table = lines[top : lines.index("", top)]
    assert max(map(len, lines)) <= 80
    width = len(NAMES[-1])
    rows = {line[:width].rstrip(): line[width:].split() for line in table[2:]}
    assert tuple(rows) == NAMES
    size, ratio, correct = ([float(row[i].strip("%").replace(",", "")) for row in rows.values()] for i in range(3))
    assert ratio == pytest.approx([size[0] / bytes_ for bytes_ in size], abs=0.005)
    assert all(39.995 <= value <= 41.5 for value in ratio[3:])
    assert [" ".join(row[3:-4]) for row in list(rows.values())[1:]] == ["none", "none", "none", "1,297 images"]
    assert correct[1] == correct[0] <= correct[2] + 0.5
    assert correct[4] > correct[3] + 5
    assert "20 of 20 tensors came back bit for bit" in result.stdout


def test_without_scikit_learn_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1 and not list(folder.glob("l2fmt-*"))
    assert result.stderr == 'error: the demo needs scikit-learn: pip install "l2fmt[demo]"\n'
