"""After `l2fmt warmup` no command and no load compiles, or imports what compiles."""

import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from l2codec import machine_code
from l2fmt._registry import CODERS
from l2fmt.cli import main
from l2fmt.pipeline import Encoding, write_files

COMMAND = "from l2fmt.cli import main; main(prog_name='l2fmt')"


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture(scope="module", autouse=True)
def warm():
    done = python(COMMAND, "warmup")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert str(machine_code.cache_folder()) in done.stdout


def test_a_second_time_nothing_is_left():
    done = python(COMMAND, "warmup")
    assert done.stdout == f"nothing was left to compile; the kernels are in {machine_code.cache_folder()}\n"
    found = json.loads(python(COMMAND, "warmup", "--json").stdout)
    assert found.pop("seconds") > 0
    assert found == {"schema": 1, "compiled": 0, "folder": str(machine_code.cache_folder())}


@pytest.mark.parametrize("module", ["torch", "numpy"])
def test_loading_imports_no_numba(tensors_of_model, tmp_path, module):
    for coder in CODERS:
        buffer = io.BytesIO()
        write_files(buffer, tensors_of_model(), {}, {}, Encoding(coder))
        (tmp_path / f"{coder}.l2c").write_bytes(buffer.getvalue())
    code = (
        f"import sys\nfrom l2fmt.{module} import load_file\n"
        "for path in sys.argv[1:]: print(len(load_file(path)))\n"
        "print('numba' in sys.modules)"
    )
    done = python(code, *(tmp_path / f"{coder}.l2c" for coder in CODERS))
    assert (done.stdout, done.stderr) == (f"{len(tensors_of_model())}\n" * len(CODERS) + "False\n", "")


def test_looking_at_a_file_loads_no_kernel(model_path, tmp_path):
    code = (
        "import sys\nfrom l2fmt.cli import main\nmain(sys.argv[1:], standalone_mode=False)\n"
        "print({'numba', 'llvmlite', 'torch'} & set(sys.modules), file=sys.stderr)"
    )
    for arguments in (("inspect", model_path, "--no-sparsity"), ("verify", model_path, "--structure-only")):
        done = python(code, *arguments)
        assert done.returncode == 0 and done.stderr == "set()\n"


def test_a_folder_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("L2FMT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    done = python(COMMAND, "warmup")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: what is compiled cannot be kept: ")


def test_quiet_commands_say_nothing_of_compiling(model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(machine_code, "announcing", True)
    for quiet in (["-q"], []):
        arguments = ["unpack", str(model_path), "-o", str(tmp_path / "model.safetensors"), "--force", *quiet]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        assert machine_code.announcing is not bool(quiet)


def test_version_says_what_it_runs_on():
    done = python(COMMAND, "--version", "-v")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.stdout.startswith("l2fmt, version ") and done.stderr == ""
    assert {"python", "numpy", "torch", "numba", "llvmlite", "kernel:"} <= lines.keys()
    assert lines["kernel:"].split()[0] in ("avx512", "avx2", "plain")
    assert lines["cache:"] == str(machine_code.cache_folder())
    assert python(COMMAND, "--version").stdout == done.stdout.splitlines()[0] + "\n"
