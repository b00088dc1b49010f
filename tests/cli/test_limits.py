"""The option --limit of every command that reads a file."""

from dataclasses import fields

import numpy as np
import pytest
from click.testing import CliRunner

import l2fmt
from l2fmt.cli import main
from l2fmt.numpy import save_file

READING = {
    "inspect": (),
    "verify": (),
    "unpack": ("-f",),
    "diff": (),
    "index": (),
    "bench": ("-r", "1"),
    "plot": ("-f",),
}
NAMES = [field.name for field in fields(l2fmt.Limits)]


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(params=READING)
def read(request, model_path):
    """The function that runs a command on the small model with limits."""
    sources = [model_path] * (2 if request.param == "diff" else 1)

    def call(*limits: str):
        return run(request.param, *sources, *READING[request.param], *(f"--limit={limit}" for limit in limits))

    return call


def test_a_limit_refuses_and_the_way_out_is_said(read):
    result = read("max_tensors=1")
    assert (result.exit_code, result.stdout) == (3, "")
    error, hint = result.stderr.splitlines()[-2:]
    assert error.startswith("error: ") and ": number of " in error
    assert error.endswith("is above the limit max_tensors = 1")
    assert hint == ("--limit max_tensors=VALUE allows more, and --limit none everything, for a file that you trust")


def test_limits_that_allow_the_file(read):
    assert read("max_tensors=100", "max_tensor_bytes=1MiB", "max_decoded_bytes=0.5GB").exit_code == 0


def test_none_lifts_all_but_those_that_are_named(read):
    assert read("none").exit_code == 0
    for limits in (("none", "max_decoded_bytes=1kB"), ("max_decoded_bytes=1kB", "none")):
        result = read(*limits)
        assert result.exit_code == 3 and "above the limit max_decoded_bytes = 1000\n" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_can_be_set(model_path, name):
    result = run("inspect", model_path, "--limit", f"{name}=1")
    assert result.exit_code == 3 and f"the limit {name} = 1\n--limit {name}=VALUE allows more" in result.stderr


def test_help_names_every_limit_and_its_default():
    for command in READING:
        text = " ".join(run(command, "--help").stdout.split())
        assert all(f"{name} (" in text for name in NAMES)
        assert "max_index_bytes (16MiB)" in text and "max_tensors (131072)" in text
        assert "max_decoded_bytes (the memory of the machine); none lifts them all." in text


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        (["max_tensor=1"], f"'max_tensor=1' is no limit; give none, or NAME=VALUE with one of {', '.join(NAMES)}"),
        (["max_tensors"], "'max_tensors' is no limit; give none, or"),
        (["max_tensors=none"], "max_tensors: 'none' is not a valid integer"),
        (["max_tensors=0"], "max_tensors: 0 is not in the range x>=1"),
        (["max_index_bytes=lots"], "max_index_bytes: 'lots' is not a size; examples: 5GB, 500MiB, 1000000"),
        (["max_index_bytes=0"], "max_index_bytes: a size must be positive"),
        (["max_tensors=2", "max_tensors=2"], "max_tensors is given twice"),
        ([""], "'' is no limit"),
    ],
)
def test_wrong_limits_are_usage_errors(model_path, limits, found):
    result = run("verify", model_path, *(f"--limit={limit}" for limit in limits))
    assert result.exit_code == 2 and result.stdout == ""
    assert found in " ".join(result.stderr.split())


def test_what_writes_a_file_takes_no_limits():
    assert all("--limit" not in run(command, "--help").stdout.split() for command in ("pack", "demo", "warmup"))


def test_shards_have_the_limits_of_files(tmp_path):
    tensors = {f"part.{number}": np.arange(500, dtype=np.float32) for number in range(4)}
    save_file(tensors, tmp_path / "model.l2c", max_shard_bytes=4096)
    assert len(list(tmp_path.glob("*.l2c"))) > 1
    for limit in ("none", "max_index_bytes=1TiB"):
        assert run("verify", tmp_path, "--limit", limit).exit_code == 0
    result = run("verify", tmp_path, "--limit", "max_index_bytes=10")
    assert result.exit_code == 3 and "--limit max_index_bytes=VALUE" in result.stderr


def test_standard_input_is_read_whole_within_a_limit(model):
    arguments = ["verify", "-", "--limit", "max_decoded_bytes=1kB"]
    result = CliRunner().invoke(main, arguments, input=model)
    assert result.exit_code == 3 and "cannot seek" in result.stderr
    assert "--limit max_decoded_bytes=VALUE" in result.stderr
