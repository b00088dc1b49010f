"""`pack` with a module and calibration data: what reaches the library, what the user is told, and the bar."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from torch import nn

from l2fmt import api
from l2fmt.cli import main
from l2fmt.errors import InputError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize import method_names

CODE = """
from torch import nn
import torch

def build():
    print("building")
    return nn.Linear(4, 3)

def load():
    print("loading")
    yield torch.ones(5, 4)

def fail():
    raise RuntimeError("out of coffee")
"""
RESULT = api.PackResult(100, 10, 2, 1, 0.5, {"method": "rd"}, data=b"not for JSON")


class Recorder:
    """Stands for `api.pack`: keeps what it is called with."""

    def __init__(self) -> None:
        self.source: Any = None
        self.target: Any = None
        self.options: dict[str, Any] = {}

    def __call__(self, source: Any, target: Any, **options: Any) -> api.PackResult:
        self.source, self.target, self.options = source, target, options
        print("a module that prints")
        if hasattr(target, "write"):
            target.write(b"the file")
        return RESULT


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What `api.pack` was called with."""
    recorder = Recorder()
    monkeypatch.setattr(api, "pack", recorder)
    return recorder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The function that runs `l2fmt pack net.pt` with more arguments in a folder with a network, its code and data."""
    (tmp_path / "user_code.py").write_text(CODE)
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "net.pt")
    np.save(tmp_path / "x.npy", np.ones((6, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["pack", "net.pt", *map(str, arguments)])

    yield call
    sys.modules.pop("user_code", None)


def test_without_them_nothing_is_passed(run, called: Recorder):
    assert run().exit_code == 0
    assert called.source == "net.pt" and called.target == Path("net.l2c")
    assert called.options["module"] is None and called.options.get("calibration") is None
    assert called.options["options"] == {} and called.options["checkpoint"] is None
    assert called.options["method"] is None


def test_all_of_it_reaches_the_library(run, called: Recorder):
    result = run(
        *("--model", "user_code:build", "--calibration", "x.npy", "--calibration-limit", 4, "--checkpoint", "state.pt"),
        *("--preset", "fast", "--seed", 7, "--set", "rounds=3", "--set", "transform=joint", "--set", "rate=1e-3"),
        *("--set", "taps=[1, 2]", "--set", "folding=false", "--set", "x=NaN", "--set", "name=a=b"),
    )
    assert result.exit_code == 0, result.output
    assert isinstance(called.options["module"], nn.Linear)
    data = called.options["calibration"]
    assert isinstance(data, CalibrationSet) and data.count == 4
    assert called.options["checkpoint"] == "state.pt"
    assert called.options["options"] == {
        **{"preset": "fast", "seed": 7, "rounds": 3, "transform": "joint", "rate": 0.001},
        **{"taps": [1, 2], "folding": False, "x": "NaN", "name": "a=b"},
    }
    expected = {"options", "module", "calibration", "checkpoint", "overwrite", "progress", "max_shard_bytes"}
    assert expected <= set(called.options)
    assert not {"model", "preset", "seed", "pairs", "image_size", "calibration_limit"} & set(called.options)


def test_pictures_are_read_as_asked(run, called: Recorder, tmp_path: Path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    (tmp_path / "pictures").mkdir()
    image.new("RGB", (9, 7), (255, 0, 51)).save(tmp_path / "pictures" / "a.png")
    options = ["--model", "user_code:build", "--calibration", "pictures", "--image-size", 5]
    assert run(*options, "--image-mean", 0, 0, 0.2, "--image-std", 1, 1, 0.5).exit_code == 0
    (batch,) = called.options["calibration"].in_order(1)
    assert torch.allclose(batch.args[0], torch.tensor([1.0, 0, 0]).reshape(3, 1, 1).expand(1, 3, 5, 5), atol=1e-6)


def test_what_the_code_prints_is_no_part_of_the_result(run, called: Recorder):
    options = ["--model", "user_code:build", "--calibration", "user_code:load"]
    result = run(*options, "-o", "-")
    assert result.exit_code == 0 and result.stdout_bytes == b"the file"
    assert all(text in result.stderr for text in ("building", "loading", "a module that prints"))
    result = run(*options, "--json")
    assert json.loads(result.stdout)["ratio"] == 10 and "data" not in json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--calibration", "x.npy"], "--calibration needs --model"),
        (["--model", "user_code:build", "--image-size", "32"], "need --calibration"),
        (["--calibration-limit", "32"], "need --calibration"),
        (["--model", "user_code:build", "--calibration", "x.npy", "--calibration-limit", "0"], "0 is not in the range"),
        (["--set", "rounds"], "'rounds' is no setting"),
        (["--set", "=3"], "'=3' is no setting"),
        (["--seed", "1", "--set", "seed=2"], "the setting seed is given twice"),
        (["--set", "rounds=1", "--set", "rounds=2"], "the setting rounds is given twice"),
        (["--seed", "often"], "not a valid integer"),
        (["--image-mean", "0.5"], "requires 3 arguments"),
    ],
)
def test_usage_errors(run, called: Recorder, arguments: list[str], words: str):
    result = run(*arguments)
    assert result.exit_code == 2 and words in " ".join(result.stderr.split()), result.output
    assert called.options == {} and "building" not in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "user_code:fail"], "user_code:fail() failed with RuntimeError: out of coffee"),
        (["--model", "absent_code:build"], "there is no module absent_code"),
        (["--model", "user_code:build", "--calibration", "absent.npy"], "absent.npy: no such file"),
        (["--model", "user_code:build", "--calibration", "user_code.py"], "user_code.py: calibration files end in"),
        (["--model", "user_code:build", "--calibration", "x.npy", "--image-size", "8"], "are for a folder or .zip"),
    ],
)
def test_errors_are_one_line(run, called: Recorder, arguments: list[str], words: str):
    result = run(*arguments)
    assert result.exit_code == 1 and called.options == {}
    (line,) = [line for line in result.stderr.splitlines() if line != "building"]
    assert line.startswith("error: ") and words in line


def test_an_error_of_the_method_is_passed_on(run, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("method l2 needs a module")

    monkeypatch.setattr(api, "pack", refuse)
    result = run("--target-ratio", 4)
    assert (result.exit_code, result.stderr) == (1, "error: method l2 needs a module\n")


def test_an_interrupt_is_one_line(run, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "pack", interrupt)
    result = run("--model", "user_code:build", "--calibration", "user_code:load", "--checkpoint", "state.pt")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines() == ["building", "loading", "interrupted"]


def test_help_loads_no_torch():
    code = "import sys\nfrom l2fmt.cli import main\ntry: main(['pack', '--help'])\n"
    code += "finally: print(sorted({'torch', 'numba', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "--calibration DATA" in done.stdout
    assert done.stderr == "[]\n"


PROGRESS = """
import time
from l2fmt.cli._progress import Progress
with Progress() as progress:
    progress("reading", 0.5)
    for i in range(300):
        progress(f"l2 round {i // 100 + 1}/3 weights: loss {1 / (i + 1):.4f}, ratio 12.1", i / 300)
        time.sleep(0.002)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [100, 60])
def test_the_bar_stays_on_one_line(columns: int):
    import os
    import pty
    import termios

    manager, worker = pty.openpty()
    termios.tcsetwinsize(worker, (24, columns))
    shown = io.BytesIO()

    def collect() -> None:
        try:
            while chunk := os.read(manager, 1 << 16):
                shown.write(chunk)
        except OSError:  # how Linux tells that the other end is closed
            pass

    reader = threading.Thread(target=collect)
    reader.start()
    command = [sys.executable, "-c", PROGRESS]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=worker, timeout=60, check=False)
    os.close(worker)
    reader.join()
    os.close(manager)
    assert (done.returncode, done.stdout) == (0, b"")
    text = shown.getvalue().decode()
    frames = text.split("\r")
    assert "\n" not in text and max(map(len, frames)) <= columns
    assert len(frames) < 60  # of 300 calls: only new stages are shown at once
    assert all(f"l2 round {number}/3 weights " in text for number in (1, 2, 3))
    assert frames[-1] == "" and frames[-2].strip() == ""  # the bar is gone at the end
    if columns == 100:
        assert ", loss 0.0" in text and ", ratio 12.1" in text


def test_no_terminal_no_bar():
    done = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif("l2" not in method_names(), reason="the method l2 is not built in")
def test_a_trained_network_end_to_end(run, tmp_path: Path):
    pytest.importorskip("sklearn", reason="needs the digits of scikit-learn")
    from l2fmt.demo import digits
    from l2fmt.torch import load_file

    safetensors.torch.save_file(digits.load_state(), tmp_path / "digits.safetensors")
    np.save(tmp_path / "images.npy", digits.split()[0][0].numpy()[:256])
    command = ["pack", "digits.safetensors", "-o", "digits.l2c", "--method", "l2", "--target-ratio", "10", "--json"]
    command += ["--model", "l2fmt.demo.digits:DigitsNet", "--calibration", "images.npy", "--preset", "fast"]
    for setting in ("rounds=1", "transform_iterations=3", "weight_iterations=3", "batch_size=8"):
        command += ["--set", setting]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["ratio"] >= 10 and summary["file_bytes"] == (tmp_path / "digits.l2c").stat().st_size
    assert summary["settings"]["calibration"]["samples"] == 256
    assert digits.accuracy(load_file(tmp_path / "digits.l2c")) > 0.9


def test_effort_and_the_method_that_has_it(run, tmp_path: Path):
    pytest.importorskip("sklearn", reason="needs the digits of scikit-learn")
    from l2fmt.demo import digits

    safetensors.torch.save_file(digits.load_state(), tmp_path / "digits.safetensors")
    np.save(tmp_path / "images.npy", digits.split()[0][0].numpy()[:64])
    command = ["pack", "digits.safetensors", "-o", "digits.l2c", "--target-ratio", "10", "--json", "--effort", "1"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1 and "method rd has no setting 'effort'" in refused.stderr
    command += ["--model", "l2fmt.demo.digits:DigitsNet", "--calibration", "images.npy"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout)["settings"]
    assert (settings["method"], settings["options"]["effort"]) == ("best", 1)
