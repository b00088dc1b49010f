"""`l2fmt index`: what it writes, what it says of it, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from l2fmt.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The function that runs a command line in the folder of the model."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(main, list(arguments), **options)


def size(data: bytes) -> str:
    return f"{len(data):,} bytes"


def test_in_place_and_back(run, model, model_path):
    result = run("index", "model.l2c", "--strip")
    bare = model_path.read_bytes()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"model.l2c: {size(bare)}, {len(model) - len(bare)} less than before; 0 resume points\n"
    assert "optional sections" not in run("inspect", "model.l2c").stdout
    result = run("index", "model.l2c", "--interval", "256")
    assert model_path.read_bytes() == model
    points = f"{len(model) - len(bare)} more than before; 4 resume points"
    assert result.stderr == f"model.l2c: {size(model)}, {points}\n"
    assert "optional sections" in run("inspect", "model.l2c").stdout
    assert "4 resume points" in run("verify", "model.l2c").stdout
    assert run("index", "model.l2c", "-q").output == ""


def test_json_and_another_file(run, model, model_path, tmp_path):
    result = run("index", "model.l2c", "-o", "bare.l2c", "--strip", "--json")
    bare = (tmp_path / "bare.l2c").read_bytes()
    sizes = {"file_bytes": len(bare), "added_bytes": len(bare) - len(model)}
    assert json.loads(result.stdout) == {"schema": 1, **sizes, "points": 0} and result.stderr == ""
    assert model_path.read_bytes() == model
    result = run("index", "model.l2c", "-o", "bare.l2c", "--strip")
    assert result.exit_code == 1 and "bare.l2c exists" in result.stderr
    assert run("index", "model.l2c", "-o", "bare.l2c", "-f", "--interval", "256").exit_code == 0
    assert (tmp_path / "bare.l2c").read_bytes() == model


def test_pipes(run, model, model_path):
    result = run("index", "-", "--interval", "256", input=model)
    assert result.exit_code == 0 and result.stdout_bytes == model and "stdout: " in result.stderr
    assert run("index", "model.l2c", "-o", "-", "--interval", "256").stdout_bytes == model
    assert "--json" in run("index", "-", "--json", input=model).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("index",), 2, "Missing argument"),
        (("index", "model.l2c", "--strip", "--interval", "512"), 2, "--interval means nothing"),
        (("index", "model.l2c", "--interval", "many"), 2, "many"),
        (
            ("index", "model.l2c", "--interval", "7"),
            1,
            "error: the resume interval is at least 8 symbols of a lane, not 7",
        ),
        (("index", "nothing.l2c"), 1, "error: nothing.l2c does not exist"),
        (("index", "broken.l2c"), 3, "is damaged"),
        (("index", "model.l2c", "-o", "no/folder.l2c"), 1, "there is no folder"),
        (("index", "model.l2c", "--limit", "max_tensors=1"), 3, "--limit max_tensors=VALUE allows more"),
    ],
)
def test_refusals(run, model, model_path, flipped, tmp_path, arguments, code, said):
    (tmp_path / "broken.l2c").write_bytes(flipped(model, 8 * len(model) - 8 * 700))
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "") and said in result.stderr
    assert "Traceback" not in result.stderr and model_path.read_bytes() == model
