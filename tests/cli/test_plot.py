"""`l2fmt plot`: where the figure goes, and what is said when there is none."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from l2fmt.cli import main
from l2fmt.torch import save_file

PNG = b"\x89PNG\r\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The function that runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def needs_matplotlib():
    """Skips a test that draws where there is nothing to draw with."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def test_a_figure_beside_the_file_or_where_it_is_asked_for(run, model_path, tmp_path, needs_matplotlib):
    result = run("plot", model_path)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    size = (tmp_path / "model.png").stat().st_size
    assert f"model.png: {size:,} bytes" in result.stderr
    assert run("plot", model_path, "-o", "layers.svg", "-q").output == ""
    assert b"<svg" in (tmp_path / "layers.svg").read_bytes()


def test_stdout(run, model_path, needs_matplotlib):
    result = run("plot", model_path, "-o", "-")
    assert result.exit_code == 0 and result.stdout_bytes.startswith(PNG) and result.stderr == ""


def test_from_stdin_to_stdout(model, needs_matplotlib):
    command = [sys.executable, "-c", "from l2fmt.cli import main; main(prog_name='l2fmt')", "plot", "-"]
    done = subprocess.run(command, input=model, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.startswith(PNG)


def test_nothing_is_overwritten_without_force(run, model_path, tmp_path, needs_matplotlib):
    (tmp_path / "model.png").write_bytes(b"precious")
    result = run("plot", model_path)
    assert result.exit_code == 1 and "model.png exists" in result.stderr
    assert (tmp_path / "model.png").read_bytes() == b"precious"
    assert run("plot", model_path, "--force").exit_code == 0
    assert (tmp_path / "model.png").read_bytes().startswith(PNG)


def test_errors_are_one_sentence(run, model_path, tmp_path, needs_matplotlib):
    result = run("plot", model_path, "-o", "x.jpg")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: x.jpg: the ending of a figure must be one of .png, .svg, .pdf\n"
    result = run("plot", "nothing.l2c")
    assert result.exit_code == 1 and result.stderr == "error: nothing.l2c does not exist\n"
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "exact.l2c")
    result = run("plot", "exact.l2c")
    assert result.exit_code == 1
    assert result.stderr == "error: exact.l2c has no quantized weights to plot; it holds 2 other tensors\n"
    assert not list(tmp_path.glob("*.png"))
    assert run("plot").exit_code == 2


def test_without_matplotlib(run, model_path, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("plot", model_path)
    assert result.exit_code == 1
    assert result.stderr == "error: plotting needs matplotlib: pip install 'l2fmt[plot]'\n"
    assert not (tmp_path / "model.png").exists()
