"""`l2fmt bench`: everything in a file is measured once, and the sums are those of the file."""

import json

import pytest
from click.testing import CliRunner

from l2fmt import report
from l2fmt.cli import main
from l2fmt.errors import CorruptFileError, InputError


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_table(run, model_path):
    result = run("bench", model_path, "-r", 1)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["tensor", "coder", "symbols", "ms", "share", "Msymbols/s", "bytes", "MB/s"]
    assert any(line.startswith("conv.weight") for line in lines)
    assert any(line.startswith("all ") and "100.0%" in line for line in lines)
    assert any(line.startswith("loaded in ") and line.split()[4:6] == ["with", "1"] for line in lines)
    assert lines[-1].startswith("medians of 1, rans kernel ")


def test_only_the_slowest_by_name(run, model_path):
    lines = run("bench", model_path, "-r", 1, "-n", 1).stdout.splitlines()
    assert "other tensors" in lines[3] and lines[4] == ""
    lines = run("bench", model_path, "-r", 1, "-n", 0).stdout.splitlines()
    assert lines[2].split()[1] == "tensors" and lines[3] == ""


def test_sums_are_those_of_the_file(run, model_path):
    result = run("bench", model_path, "--json", "--repeat", 2)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    whole = report.inspect(model_path, sparsity=False)
    assert (found["schema"], found["repeat"], found["path"]) == (1, 2, str(model_path))
    assert sum(group["tensors"] for group in found["groups"]) == len(whole.tensors)
    assert sum(group["decoded_bytes"] for group in found["groups"]) == whole.decoded_bytes
    stored = sum(whole.parts[name] for name in ("class_vectors", "scales", "weights", "vectors", "lossless"))
    assert sum(group["bytes"] for group in found["groups"]) == stored
    assert "1" in found["load_seconds"] and all(seconds > 0 for seconds in found["load_seconds"].values())
    assert found["seconds"] == pytest.approx(sum(part["seconds"] for part in found["coders"].values()))
    for key in ("tensors", "symbols", "bytes", "decoded_bytes"):
        sums = (part[key] for part in found["coders"].values())
        assert sum(sums) == sum(group[key] for group in found["groups"])


def test_an_empty_model(run, tmp_path):
    from l2fmt.torch import save_file

    save_file({}, tmp_path / "empty.l2c")
    result = run("bench", tmp_path / "empty.l2c", "-r", 1)
    assert result.exit_code == 0 and "loaded in" in result.stdout, result.output


def test_errors(run, model_path, model, tmp_path, flipped):
    result = run("bench", tmp_path / "nothing.l2c")
    assert result.exit_code == 1 and "does not exist" in result.stderr and result.stdout == ""
    result = run("bench", "-")
    assert result.exit_code == 1 and "only a model on disk can be measured" in result.stderr
    assert run("bench", model_path, "-r", 0).exit_code == 2
    (tmp_path / "bad.l2c").write_bytes(flipped(model, 8 * len(model) - 8 * 700))
    assert run("bench", tmp_path / "bad.l2c").exit_code == 3
    with pytest.raises(CorruptFileError):
        report.bench(tmp_path / "bad.l2c")
    with pytest.raises(InputError):
        report.bench(model)
    with pytest.raises(InputError, match="at least one run"):
        report.bench(model_path, repeat=0)
