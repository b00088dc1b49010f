"""Runs that are interrupted, and go on from their checkpoint."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import l2fmt
from l2fmt.errors import InputError
from tests.optimize.l2.models import (
    ROWS,
    SHORT,
    compressed,
    normed,
    perceptron,
)


@pytest.mark.parametrize(("together", "number"), [(True, 3), (False, 10)])
def test_an_interrupted_run_goes_on_to_the_same_file(together, number, nearest, tmp_path: Path):
    torch.manual_seed(0)
    module, path = normed(), tmp_path / "run.pt"
    options = {"together": together, "rounds": 2, "transform_iterations": 3, "weight_iterations": 4, "batch_size": 8}
    whole = compressed(module, ROWS, 4, options)
    calls = 0

    def interrupt(stage: str, done: float) -> None:
        nonlocal calls
        calls += stage.startswith("training")
        if calls == number and stage.startswith("training"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compressed(module, ROWS, 4, options, checkpoint=path, progress=interrupt)
    assert calls == number and [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert torch.load(path, weights_only=True)["state"]["done"] == number
    with pytest.raises(InputError, match="belongs to another run"):
        compressed(module, ROWS, 4, options | {"seed": 1}, checkpoint=path)
    seen: list[str] = []
    resumed = compressed(module, ROWS, 4, options, checkpoint=path, progress=lambda stage, _: seen.append(stage))
    assert sum(stage.startswith("training") for stage in seen) == 14 - number
    assert resumed.data == whole.data and resumed.estimated_bytes == whole.estimated_bytes
    # What is done is not done again.
    seen.clear()
    again = compressed(module, ROWS, 4, options, checkpoint=path, progress=lambda stage, _: seen.append(stage))
    assert again.data == whole.data and not any(stage.startswith("training") for stage in seen)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_an_error_of_the_progress_writes_nothing(nearest, tmp_path: Path):
    def stop(stage: str, done: float) -> None:
        if stage.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(perceptron(), ROWS, checkpoint=tmp_path / "run.pt", progress=stop)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        compressed(perceptron(), ROWS, target=tmp_path / "m.l2c", progress=stop)
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_of_another_run(nearest, tmp_path: Path):
    torch.manual_seed(0)
    module, path = perceptron(), tmp_path / "run.pt"
    arguments = {"calibration": ROWS, "target_ratio": 5, "method": "l2", "options": SHORT, "checkpoint": path}
    l2fmt.compress(module, **arguments)
    before = path.read_bytes()

    def refused(**changes: Any) -> None:
        with pytest.raises(InputError, match="belongs to another run"):
            l2fmt.compress(module, **(arguments | changes))
        assert path.read_bytes() == before

    refused(target_ratio=5.5)
    refused(options={**SHORT, "weight_lr": 0.01})
    refused(calibration=ROWS + 1)
    refused(keep=["*.bias"])
    module.get_parameter("0.bias").data.add_(3.0)
    refused()


def test_a_checkpoint_that_cannot_be_written_is_said_at_once(tmp_path: Path):
    seen: list[str] = []
    with pytest.raises(l2fmt.FileAccessError):
        compressed(perceptron(), ROWS, checkpoint=tmp_path / "no" / "run.pt", progress=lambda s, _: seen.append(s))
    assert not seen
