"""After `l2fmt warmup` no command and no load compiles, or imports what compiles."""

import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from l2codec import machine_code, processor
from l2fmt._registry import CODERS
from l2fmt.cli import main
from l2fmt.pipeline import Encoding, write_files

COMMAND = "from l2fmt.cli import main; main(prog_name='l2fmt')"
LOADED = "import sys\nfrom l2codec import machine_code\nprint(*machine_code._code._entries, file=sys.stderr)"
WARM = f"from l2fmt.cli import main\nmain(['warmup', '--json'], standalone_mode=False)\n{LOADED}"

# Packing and loading as users do: every coder and kind of tensor, many lanes and few, class maps and one table.
USE = f"""
import sys
import numpy as np
import torch
import l2fmt
from l2fmt._registry import CODERS
from l2fmt.cli import main
from l2fmt.dtypes import DTYPES
from l2fmt.pipeline import Encoding, QuantizedTensor, write_files
from l2fmt.transforms import Uniform

path, rng = sys.argv[1], np.random.default_rng(0)

def use():
    for threads in (1, 2):
        l2fmt.load_file(path, threads=threads)
    points = ["index", path, "--interval", "512", "-q"]
    for command in (points, ["verify", path], ["inspect", path], ["bench", path, "-r", "1"]):
        main(command, standalone_mode=False)

def quantized(spread, dtype, *shape):
    codes = np.rint(rng.laplace(size=shape) * np.geomspace(spread / 9, spread, shape[0])[:, None]).clip(-3999, 3999)
    scale = np.ones(shape[0], np.float32)
    return QuantizedTensor(f"{{spread}}.{{dtype}}", DTYPES[dtype], shape, codes.astype(np.int16), Uniform(0.1), scale)

def tensor(*shape):
    return torch.from_numpy(rng.standard_normal(shape, np.float32))

few = {{"conv.weight": tensor(16, 8, 3, 3), "bias": tensor(16), "count": torch.tensor(3), "half": tensor(60, 5).half()}}
for coder in CODERS:
    l2fmt.pack(few, path, coder=coder, lossless=True, overwrite=True)
    use()
    for tables in (16, 1):
        tensors = [quantized(spread, dtype, 60, 50) for spread in (3, 300) for dtype in ("F32", "BF16")]
        encoding = Encoding(coder, tables, 256 if coder == "rans" else None, threads=2)
        write_files(path, tensors, {{}}, {{}}, encoding, overwrite=True)
        use()
write_files(path, [quantized(spread, "F32", 400, 420) for spread in (9, 300)], {{}}, {{}}, overwrite=True)
use()
l2fmt.pack(few, path, bits=4, overwrite=True)
use()
{LOADED}
"""


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture(scope="module", autouse=True)
def warm() -> set[str]:
    """The kernels that the command has seen to."""
    done = python(WARM)
    found = json.loads(done.stdout)
    assert found.pop("seconds") > 0 and found.pop("compiled") >= 0
    assert found == {"schema": 1, "folder": str(machine_code.cache_folder())}
    assert done.stderr.count("\n") == 1
    return set(done.stderr.split())


def test_a_second_time_nothing_is_left():
    done = python(COMMAND, "warmup")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"nothing was left to compile; the kernels are in {machine_code.cache_folder()}\n"


def test_packing_and_loading_need_nothing_else(warm, tmp_path):
    done = python(USE, tmp_path / "model.l2c")
    assert done.returncode == 0, done.stderr
    used = set(done.stderr.splitlines()[-1].split())
    assert used <= warm
    if processor.chosen_kernel() == "avx512":
        assert any("rans_encode_avx512.u1" in name for name in used)
        assert any("rans_encode_avx512.u2" in name for name in used)


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
