"""The commands in this process: what they print, where, and with which exit code."""

import io
import json
import sys

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from l2fmt.cli import main
from l2fmt.torch import load_file


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The function that runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, **options):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)

    return call


@pytest.fixture
def checkpoint(tmp_path):
    """A small model as safetensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "conv.weight": torch.randn(24, 16, 3, 3, generator=generator),
        "conv.bias": torch.randn(24, generator=generator),
        "fc.weight": torch.randn(40, 96, generator=generator),
        "steps": torch.tensor(7),
    }
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(tensors, path, {"format": "pt", "who": "me"})
    return path


def test_help_and_version(run):
    for arguments in ((), ("--help",), ("-h",)):
        result = run(*arguments)
        assert result.exit_code == 0 and "inspect" in result.stdout and result.stderr == ""
    assert "0.1" in run("--version").stdout
    for command in ("pack", "unpack", "inspect", "verify", "diff", "index", "plot", "bench", "warmup", "demo"):
        assert "--verbose" in run(command, "--help").stdout


def test_pack_inspect_verify_unpack_diff(run, checkpoint, tmp_path):
    result = run("pack", checkpoint, "-o", "net.l2c", "--target-ratio", 6)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert "net.l2c: ratio 6.0" in result.stderr and "2 of 4 tensors quantized" in result.stderr
    assert "no target" not in result.stderr
    original = sum(t.nbytes for t in safetensors.torch.load_file(checkpoint).values())
    assert original / (tmp_path / "net.l2c").stat().st_size >= 6

    result = run("inspect", "net.l2c")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        *("tensor", "shape", "dtype", "transform", "coder", "bits/weight", "sparsity", "bytes", "share")
    ]
    assert len({len(line) for line in lines[1:6]}) == 1
    row = next(line for line in lines if line.startswith("conv.weight"))
    assert row.split()[1:5] == ["24x16x3x3", "F32", "uniform", "rans"]
    assert f"{original:,} bytes of tensors" in result.stdout

    result = run("verify", "net.l2c")
    assert result.exit_code == 0 and "net.l2c: ok, 4 tensors" in result.stdout and result.stderr == ""
    assert "full decode" not in run("verify", "net.l2c", "--structure-only").stdout

    assert run("unpack", "net.l2c", "-o", "out.safetensors").exit_code == 0
    found = safetensors.torch.load_file("out.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in load_file("net.l2c").items())

    result = run("diff", checkpoint, "net.l2c")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 identical" in result.stdout and "3 different" in result.stdout
    assert run("diff", "net.l2c", "out.safetensors").stdout.count("identical") == 5


def test_json_is_all_that_goes_to_stdout(run, checkpoint):
    packed = json.loads(run("pack", checkpoint, "--json", "--bits", 4).stdout)
    assert packed["ratio"] > 1 and packed["quantized"] == 2 and "data" not in packed
    assert json.loads(run("inspect", "net.l2c", "--json").stdout)["tensors"][0]["dtype"]
    assert json.loads(run("inspect", "net.l2c", "--json", "--no-sparsity").stdout)["tensors"][0]["sparsity"] is None
    assert json.loads(run("verify", "net.l2c", "--json").stdout)["ok"] is True
    assert len(json.loads(run("diff", checkpoint, "net.l2c", "--json").stdout)["tensors"]) == 4


def test_the_default_is_said(run, checkpoint):
    result = run("pack", checkpoint)
    assert "no target was given" in result.stderr and "net.l2c: ratio" in result.stderr
    assert run("pack", checkpoint, "-f", "-q").output == ""


def test_lossless(run, checkpoint):
    assert run("pack", checkpoint, "--lossless").exit_code == 0
    assert "4 identical" in run("diff", checkpoint, "net.l2c").stdout


def test_selection(run, checkpoint):
    run("pack", checkpoint, "--keep", "conv.*", "--exclude", "fc.*", "--target-ratio", 2)
    result = run("pack", checkpoint, "-f", "--keep", "conv.*", "--keep", "nothing*")
    assert "no tensor matches 'nothing*'" in result.stderr and "1 of 4 tensors quantized" in result.stderr
    assert "3 identical" in run("diff", checkpoint, "net.l2c").stdout


def test_shards(run, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    assert run("pack", checkpoint, "-o", "out/net.l2c", "--lossless", "--max-shard-size", "14KB").exit_code == 0
    assert (tmp_path / "out" / "net.l2c.index.json").exists()
    for source in ("out", "out/net.l2c.index.json", "out/net.l2c"):
        assert "all 3 files" in run("inspect", source).stdout or "all 2 files" in run("inspect", source).stdout
    assert run("verify", "out").exit_code == 0
    assert run("unpack", "out", "-o", "back.safetensors").exit_code == 0
    assert "4 identical" in run("diff", "back.safetensors", checkpoint).stdout


def test_nothing_is_overwritten_without_force(run, checkpoint, tmp_path):
    (tmp_path / "net.l2c").write_bytes(b"precious")
    result = run("pack", checkpoint)
    assert result.exit_code == 1 and "net.l2c exists" in result.stderr and result.stdout == ""
    assert (tmp_path / "net.l2c").read_bytes() == b"precious"
    assert run("pack", checkpoint, "--force").exit_code == 0
    result = run("unpack", "net.l2c")
    assert result.exit_code == 1 and "net.safetensors exists" in result.stderr
    assert run("unpack", "net.l2c", "--format", "pt").exit_code == 0
    assert (tmp_path / "net.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pack",), "Missing argument"),
        (("pack", "x", "--bits", "2", "--lossless"), "at most one"),
        (("pack", "x", "--method", "magic"), "magic"),
        (("pack", "x", "--max-shard-size", "5 parsecs"), "examples: 5GB"),
        (("pack", "x", "--max-shard-size", "-1"), "positive"),
        (("pack", "-", "-o", "-", "--json"), "--json"),
        (("inspect", "a", "b"), "unexpected extra argument"),
        (("explode",), "No such command"),
        (("--nonsense",), "No such option"),
    ],
)
def test_usage_errors(run, arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2 and said in result.stderr and result.stdout == ""


def test_errors_are_one_sentence(run, checkpoint, model, flipped, tmp_path):
    result = run("inspect", "nothing.l2c")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: nothing.l2c does not exist\n"
    assert run("pack", checkpoint, "-o", "no/folder/x.l2c").exit_code == 1

    (tmp_path / "bad.l2c").write_bytes(flipped(model, 8 * len(model) - 8 * 700))
    for command in ("verify", "unpack"):
        result = run(command, "bad.l2c")
        assert result.exit_code == 3 and "damaged" in result.stderr and "Traceback" not in result.stderr
        assert result.stdout == ""
    assert not (tmp_path / "bad.safetensors").exists()
    failed = run("verify", "bad.l2c", "--json")
    assert failed.exit_code == 3
    assert json.loads(failed.stdout)["ok"] is False and json.loads(failed.stdout)["code"] == "corrupt"

    for place in ("before", "after"):
        arguments = ("-v", "verify", "bad.l2c") if place == "before" else ("verify", "bad.l2c", "-v")
        result = run(*arguments)
        assert result.exit_code == 3 and "Traceback" in result.stderr


def test_unsupported_is_a_code_of_its_own(run, model, tmp_path):
    import struct
    import zlib

    head = bytearray(model[:44])
    struct.pack_into("<H", head, 8, 9)
    (tmp_path / "future.l2c").write_bytes(head + struct.pack("<I", zlib.crc32(head)) + model[48:])
    for command in ("inspect", "verify", "unpack"):
        result = run(command, "future.l2c")
        assert result.exit_code == 4 and "format version 9" in result.stderr


def test_a_bug_is_no_traceback_either(run, model_path, monkeypatch):
    monkeypatch.setattr("l2fmt.report.inspect", lambda *a, **k: 1 // 0)
    result = run("inspect", model_path)
    assert result.exit_code == 1 and "ZeroDivisionError" in result.stderr and "Traceback" not in result.stderr


def test_interruption_leaves_nothing(run, checkpoint, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("l2fmt.container.writer.Writer._write", interrupted)
    before = sorted(tmp_path.iterdir())
    result = run("pack", checkpoint, "--lossless")
    assert result.exit_code == 130 and "interrupted" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_diff_of_models_that_do_not_match(run, checkpoint, tmp_path):
    safetensors.torch.save_file({"conv.bias": torch.ones(3), "other": torch.ones(1)}, tmp_path / "b.safetensors")
    result = run("diff", checkpoint, "b.safetensors")
    assert result.exit_code == 1
    for status in ("only in A", "only in B", "shape"):
        assert status in result.stdout


def test_names_cannot_command_the_terminal(run, tmp_path):
    from l2fmt.torch import save_file

    save_file({"a\u009b31mred\u202etxt": torch.ones(2)}, tmp_path / "x.l2c", {"k\x1b[2J": "v\x1b"})
    result = run("inspect", "x.l2c")
    assert result.exit_code == 0 and r"a\x9b31mred\u202etxt" in result.stdout
    assert "\x1b" not in result.stdout and "\u009b" not in result.stdout


def test_a_narrow_terminal_shortens_names(run, tmp_path, monkeypatch):
    from l2fmt.cli import _output

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    _output.table(("tensor", "bytes"), [("model." * 20 + "weight", "1"), ("b", "1,000")], "<>")
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) == 40
    assert lines[2].startswith("model.") and "..." in lines[2] and ".weight " in lines[2]


def test_sizes():
    from l2fmt.cli._options import ByteSize

    read = {text: ByteSize().convert(text, None, None) for text in ("5GB", "500MiB", "1000000", "1.5k", "2 TB", "7B")}
    assert read == {"5GB": 5 * 10**9, "500MiB": 500 << 20, "1000000": 10**6, "1.5k": 1500, "2 TB": 2 * 10**12, "7B": 7}
