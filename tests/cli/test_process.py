"""The command line as its own process: pipes, exit codes, and what stderr gets."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import safetensors.torch
import torch

COMMAND = [sys.executable, "-c", "from l2fmt.cli import main; main(prog_name='l2fmt')"]
COMPILING = re.compile(rb"\Al2fmt: compiling its kernels [^\n]*\n")  # of the first process that needs them, if any


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    line = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(line, input=stdin, capture_output=True, timeout=300, check=False)
    done.stderr = COMPILING.sub(b"", done.stderr)
    return done


def test_pipes_both_ways():
    tensors = {"a.weight": torch.randn(30, 20), "b": torch.arange(4)}
    packed = run("pack", "-", "-o", "-", "--lossless", stdin=safetensors.torch.save(tensors))
    assert packed.returncode == 0 and packed.stdout.startswith(b"\x89L2C"), packed.stderr
    assert b"stdout: ratio" in packed.stderr
    assert json.loads(run("inspect", "-", "--json", stdin=packed.stdout).stdout)["file_bytes"] == len(packed.stdout)
    unpacked = run("unpack", "-", stdin=packed.stdout)
    assert unpacked.returncode == 0, unpacked.stderr
    found = safetensors.torch.load(unpacked.stdout)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert unpacked.stderr == b""


def test_exit_codes(model, flipped):
    assert run("verify", "-", stdin=model).returncode == 0
    damaged = run("verify", "-", stdin=flipped(model, 8 * 400))
    assert damaged.returncode == 3 and damaged.stdout == b"" and damaged.stderr.startswith(b"error: ")
    assert run("verify", "-", stdin=b"").returncode == 3
    assert run("verify").returncode == 2
    assert run("verify", "/nowhere/x.l2c").returncode == 1


@pytest.mark.parametrize("command", ["verify", "inspect", "unpack"])
def test_a_kernel_that_cannot_be_had_is_no_fault_of_the_file(model_path, tmp_path, monkeypatch, command):
    monkeypatch.setenv("L2FMT_KERNEL", "nonsense")
    done = run(command, model_path, *(["-o", tmp_path / "out.safetensors"] if command == "unpack" else []))
    assert done.returncode == 1 and done.stdout == b"" and not (tmp_path / "out.safetensors").exists()
    assert done.stderr.startswith(b"error: L2FMT_KERNEL is 'nonsense', which does not exist; allowed here: ")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_is_no_error_message(tmp_path):
    from l2fmt.torch import save_file

    save_file({f"layer.{i}.weight": torch.ones(1) for i in range(3000)}, tmp_path / "many.l2c")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in (["inspect", "--no-sparsity"], ["inspect", "--json", "--no-sparsity"], ["unpack", "-o", "-"]):
            command = [*COMMAND, arguments[0], str(tmp_path / "many.l2c"), *arguments[1:]]
            done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=300, check=False)
            assert (done.returncode, COMPILING.sub(b"", done.stderr)) == (1, b""), arguments
    finally:
        os.close(writing)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_standard_output_may_be_closed(model_path, tmp_path):
    line = shlex.join(COMMAND)
    target = tmp_path / "out.safetensors"

    def closed(command: str, stream: int) -> tuple[int, bytes]:
        closing = f"{line} {command} {stream}>&-"
        done = subprocess.run(closing, shell=True, capture_output=True, timeout=300, check=False)
        return done.returncode, COMPILING.sub(b"", done.stderr)

    assert closed(f"inspect {shlex.quote(str(model_path))}", 1) == (0, b"")
    code, said = closed(f"unpack {shlex.quote(str(model_path))} -o -", 1)
    assert code == 2 and b"standard output is closed" in said
    assert closed(f"unpack {shlex.quote(str(model_path))} -o {shlex.quote(str(target))}", 2) == (0, b"")
    assert safetensors.torch.load_file(target)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar_and_no_binary(model_path, tmp_path):
    import pty
    import termios

    safetensors.torch.save_file({"w": torch.randn(40, 30)}, tmp_path / "net.safetensors")
    manager, worker = pty.openpty()
    termios.tcsetwinsize(worker, (24, 80))
    command = [*COMMAND, "pack", str(tmp_path / "net.safetensors"), "-o", "-"]
    done = subprocess.run(command, stdout=worker, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 2 and b"refusing to write a binary file to the terminal" in done.stderr
    command = [*COMMAND, "pack", str(tmp_path / "net.safetensors")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=worker, timeout=120, check=False)
    os.close(worker)
    shown = os.read(manager, 1 << 16)
    os.close(manager)
    assert done.returncode == 0 and b"%|" in shown and b"net.l2c: ratio" in shown
    quiet = run("pack", tmp_path / "net.safetensors", "--force")
    assert b"%|" not in quiet.stderr
