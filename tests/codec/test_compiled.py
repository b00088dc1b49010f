"""Calls of compiled kernels, and the cache of machine code, which is only ever run if it is sound."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from l2codec import machine_code
from l2codec.compiled import Kernel

CALL = """
import sys
import numpy as np
from l2codec.compiled import Kernel
histogram, none = Kernel("fit", "histogram"), np.zeros(0, np.int64)
counts = np.zeros((1, 4), np.int64)
def call(symbols=np.array([3, 1, 3], np.uint8)):
    histogram(symbols, np.array([0, 3]), 1, np.zeros(1, np.int64), none, none, counts)
"""


@pytest.fixture
def kernels(monkeypatch, tmp_path):
    """The function that makes kernels of functions, with an empty cache and no memory of other kernels."""
    pytest.importorskip("numba")
    from l2codec.kernels._compiler import kernel

    monkeypatch.setenv("L2FMT_CACHE_DIR", str(tmp_path / "cache"))
    module = ModuleType("l2codec.kernels.of_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(machine_code, "announcing", True)

    def make(function):
        monkeypatch.setattr(machine_code, "_code", machine_code._Code())
        monkeypatch.setattr(machine_code, "compiled", [])
        setattr(module, function.__name__, kernel(function))
        return Kernel("of_test", function.__name__)

    return make


def add(numbers, table, integer, real, out):
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            out[0] += table[i, j]
    out[1] = out[0] * real
    return numbers[0] + numbers.size * integer


def fill(out, value):
    for i in range(out.size):
        out[i] = value


def first_beyond(numbers, index):
    return numbers[index]


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code after `CALL` in a new process that keeps machine code in a folder."""
    env = {**os.environ, "L2FMT_CACHE_DIR": str(folder), **environment}
    command = [sys.executable, "-c", CALL + code]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_types_of_arguments(kernels):
    call = kernels(add)
    for dtype in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"):
        out = np.zeros(2)
        table = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert call(np.array([5, 0, 0], dtype), table, 7, 0.5, out) == 26
        assert out.tolist() == [15, 7.5]
    assert len(machine_code.compiled) == 8
    fixed = np.array([5, 0, 0], "i8")
    fixed.flags.writeable = False  # no type of its own
    out = np.zeros(2)
    assert call(fixed, np.ones((3, 2), np.float32), np.uint8(1), np.float64(2), out) == 8 and out.tolist() == [6, 12]
    assert len(machine_code.compiled) == 8


def test_results(kernels, tmp_path):
    call, out = kernels(fill), np.zeros(3, np.uint16)
    assert call(out, 7) is None and out.tolist() == [7, 7, 7]
    call(np.zeros(0, np.uint16), 7)
    mapped = np.memmap(tmp_path / "mapped", np.uint16, "w+", shape=5)
    call(mapped, 9)
    assert mapped.tolist() == [9] * 5
    highest = np.array([-(2**63), 2**63 - 1])
    call = kernels(first_beyond)
    assert [call(highest, i) for i in (0, 1)] == highest.tolist()


def test_other_arguments_are_refused(kernels):
    call = kernels(fill)
    for bad, why in [
        (np.zeros(3, ">u2"), ">u2"),
        (np.zeros(3, bool), "b1"),
        (np.zeros(3, np.complex64), "c8"),
        (np.zeros((1, 1, 1), np.uint8), "3-D"),
        (np.zeros(9, np.uint8)[1:].view(np.uint64), "aligned"),
        (np.zeros(6, np.uint8)[::2], "contiguous"),
        (np.zeros((2, 3), np.uint8).T, "contiguous"),
        ([1, 2], "list"),
        (None, "NoneType"),
    ]:
        with pytest.raises(TypeError, match=f"kernel fill cannot take argument 0, which is .*{why}"):
            call(bad, 1)
    with pytest.raises(TypeError, match="fill cannot take argument 1, which is a str"):
        call(np.zeros(3, np.uint8), "1")
    assert machine_code.compiled == []
    with pytest.raises(OverflowError, match="fill"):
        call(np.zeros(3, np.uint8), 1 << 63)


def test_threads_share_one_compilation(kernels):
    call, outs = kernels(fill), [np.zeros(100, np.uint8) for _ in range(8)]
    start = threading.Barrier(len(outs))

    def work(number):
        start.wait()
        for _ in range(50):
            call(outs[number], number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(outs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(out.tolist()) for out in outs] == [{number} for number in range(len(outs))]
    assert len(machine_code.compiled) == 1


def test_later_processes_import_no_numba(tmp_path):
    code = "call()\ncall()\nprint(counts.tolist(), 'numba' in sys.modules)"
    first = run(code, tmp_path)
    assert first.stdout == "[[0, 2, 0, 4]] True\n"
    assert first.stderr.count("\n") == 1 and "l2fmt: compiling its kernels" in first.stderr
    assert [path.suffix for path in files(tmp_path)] == [".o"]
    second = run(code, tmp_path)
    assert (second.stdout, second.stderr) == ("[[0, 2, 0, 4]] False\n", "")
    if hasattr(os, "fork"):
        anew = "call()\npid = os.fork()\nif pid: os.waitpid(pid, 0)\ncall()\nhistogram = Kernel('fit', 'histogram')\n"
        done = run(f"import os\n{anew}call()\nprint(counts.tolist())", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[[0, 3, 0, 6]]\n" * 2, "")


def test_nothing_is_said_when_told_so_or_without_stderr(tmp_path):
    quiet = run("from l2codec import machine_code\nmachine_code.announcing = False\ncall()", tmp_path / "a")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert run("sys.stderr = None\ncall()", tmp_path / "b").returncode == 0


def test_numba_that_may_not_compile(tmp_path):
    done = run("call()", tmp_path, NUMBA_DISABLE_JIT="1")
    assert "KernelError: NUMBA_DISABLE_JIT is set, and the kernels have not been compiled before" in done.stderr
    assert files(tmp_path) == []


def test_processes_compile_at_once(tmp_path):
    env = {**os.environ, "L2FMT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", CALL + "call()\nprint(counts.tolist())"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["[[0, 1, 0, 2]]\n"] * 2
    assert [path.suffix for path in files(tmp_path)] == [".o"]


def test_checked_code_is_kept_apart(tmp_path):
    bad = "call(np.array([3, 9, 3], np.uint8))"
    done = run(bad, tmp_path, NUMBA_BOUNDSCHECK="1")
    assert "RuntimeError: kernel histogram failed" in done.stderr
    assert run("call()", tmp_path, NUMBA_BOUNDSCHECK="0").returncode == 0
    assert len({path.parent for path in files(tmp_path)}) == 2
    again = run(bad, tmp_path, NUMBA_BOUNDSCHECK="1")
    assert "RuntimeError: kernel histogram failed" in again.stderr and "compiling" not in again.stderr


@pytest.mark.parametrize("damage", ["truncated", "empty", "bit", "of another kernel", "of another key", "a folder"])
def test_damaged_files_are_compiled_anew(kernels, tmp_path, damage):
    kernels(fill)(np.zeros(3, np.uint8), 1)
    kernels(first_beyond)(np.zeros(3, np.uint8), 1)
    other, path = sorted(files(tmp_path), key=lambda path: "fill" in path.name)
    whole = path.read_bytes()
    content = bytearray(whole)
    content[200] ^= 1
    key = struct.pack("32x") + whole[32:]
    damaged = {"truncated": whole[:-1], "empty": b"", "bit": bytes(content), "of another key": key}
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damaged.get(damage, other.read_bytes()))
    call, out = kernels(fill), np.zeros(3, np.uint8)
    call(out, 5)
    assert out.tolist() == [5, 5, 5] and len(machine_code.compiled) == 1
    if damage != "a folder":
        kernels(fill)(out, 6)
        assert machine_code.compiled == [] and out.tolist() == [6, 6, 6]
    assert not [path for path in files(tmp_path) if path.suffix != ".o"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_what_others_can_write_is_not_trusted(kernels, tmp_path, capsys):
    out = np.zeros(3, np.uint8)
    kernels(fill)(out, 1)
    (path,) = files(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o620)
    kernels(fill)(out, 2)
    assert len(machine_code.compiled) == 1 and path.stat().st_mode & 0o777 == 0o600
    path.parent.chmod(0o770)
    capsys.readouterr()
    kernels(fill)(out, 3)
    assert len(machine_code.compiled) == 1 and out.tolist() == [3, 3, 3]
    assert "cannot be kept: others can write to" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no owners of files")
def test_folders_that_nothing_uses_are_removed(kernels, tmp_path):
    kernels(fill)(np.zeros(3, np.uint8), 1)
    (path,) = files(tmp_path)
    used, others = path.parent, path.parent.parent
    elsewhere = tmp_path / "elsewhere"
    for folder in (others / "0123456789abcdef", others / "fedcba9876543210", others / "of the user", elsewhere):
        folder.mkdir()
        (folder / "fill.o").touch()
    (others / "1111111111111111").symlink_to(elsewhere)
    long_ago = time.time() - 91 * 24 * 3600
    for folder in (others / "0123456789abcdef", others / "of the user", elsewhere):
        os.utime(folder, (long_ago, long_ago))
    os.utime(others / "1111111111111111", (long_ago, long_ago), follow_symlinks=False)
    os.utime(used, (long_ago, long_ago))
    kernels(fill)(np.zeros(3, np.uint8), 1)  # uses the folder, and makes none
    assert time.time() - used.stat().st_mtime < 3600 and machine_code.compiled == []
    assert (others / "0123456789abcdef").exists()
    shutil.rmtree(used)
    kernels(fill)(np.zeros(3, np.uint8), 1)
    names = {folder.name for folder in others.iterdir()}
    assert names == {used.name, "fedcba9876543210", "of the user", "1111111111111111"}
    assert files(elsewhere)


def test_a_full_disk_keeps_nothing(kernels, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    call, out = kernels(fill), np.zeros(3, np.uint8)
    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(machine_code, "not_kept", [])
    call(out, 4)
    assert out.tolist() == [4, 4, 4] and files(tmp_path) == []
    assert machine_code.not_kept == ["[Errno 28] No space left on device"]


def test_without_a_folder_it_compiles_in_memory(kernels, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    call, out = kernels(fill), np.zeros(3, np.uint8)
    monkeypatch.setenv("L2FMT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    call(out, 4)
    assert out.tolist() == [4, 4, 4] and "cannot be kept: " in capsys.readouterr().err
    assert machine_code.cache_problem() is not None


def test_the_folder(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("L2FMT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert machine_code.cache_folder() == Path("/somewhere/l2fmt")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert machine_code.cache_folder() == Path("/home/me/.cache/l2fmt")
    monkeypatch.setenv("L2FMT_CACHE_DIR", "/here")
    assert machine_code.cache_folder() == Path("/here")


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_machine_code_needs_nothing_but_the_c_library():
    paths = [path for path in files(machine_code.cache_folder()) if path.suffix == ".o"]
    found = {name for path in paths for name in undefined(path.read_bytes()[32:])}
    assert found <= {"memcpy", "memmove", "memset", "memcmp"}


def undefined(code: bytes) -> set[str]:
    """Return the names that a 64-bit object file uses and does not define."""
    (sections,) = struct.unpack_from("<Q", code, 40)
    (count,) = struct.unpack_from("<H", code, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", code, sections + 64 * i) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, size, link, *_ in headers:
        if kind == 2:  # the symbol table, which names its table of strings
            for at in range(offset + 24, offset + size, 24):
                name, _, _, section = struct.unpack_from("<IBBH", code, at)
                start = headers[link][4] + name
                names |= set() if section else {code[start : code.index(b"\0", start)].decode()}
    return names
