"""Use that goes on for long or is large: nothing leaks, and a file larger than memory is read a tensor at a time."""

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import l2fmt.numpy
from l2fmt._registry import BITS, RAW
from l2fmt.container import Reader, Stream, Writer
from l2fmt.dtypes import DTYPES
from l2fmt.errors import L2Error
from tools.fault_injection.injection import check
from tools.fault_injection.models import make_model

_TENSOR_BYTES = 64 << 20
_LARGE_TENSORS = 64  # 4 GiB
_LARGE_MEMORY = 300_000_000
_VALUE = 7
_LEAK = 4 << 20  # what may be added to the memory of a process by all cycles together
_READ = """
import sys, l2fmt.numpy
with l2fmt.numpy.safe_open(sys.argv[1]) as file:
    for name in file.keys():
        tensor = file.get_tensor(name)
        assert (tensor == 7).all(), name
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def open_read_close(folder: Path, count: int, seed: int) -> Counter[str]:
    """Open, read and close a file, and open a damaged one, again and again: no memory or descriptor stays taken."""
    model, path, damaged = make_model(seed, "rans"), folder / "model.l2c", folder / "damaged.l2c"
    path.write_bytes(model.data)
    damaged.write_bytes(model.data[:-1] + bytes([model.data[-1] ^ 1]))

    def cycle() -> None:
        with l2fmt.numpy.safe_open(path) as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
        try:
            l2fmt.numpy.load_file(damaged)
        except L2Error:
            return
        check(False, "the damage is seen", "opening")

    for _ in range(20):  # what is made once is made
        cycle()
    memory, files = _resident(), _descriptors()
    for _ in range(count):
        cycle()
    gc.collect()
    check(_descriptors() == files, f"{files} descriptors became {_descriptors()}", f"{count} cycles")
    check(_resident() - memory < _LEAK, f"{memory} bytes became {_resident()}", f"{count} cycles")
    return Counter({"read right": 2 * count, "bytes more": max(_resident() - memory, 0)})


def larger_than_memory(folder: Path, count: int, seed: int) -> Counter[str]:
    """Read 4 GiB tensor by tensor in 300 MB, from a file of 4 GiB and from one that is all constants."""
    outcomes, path = Counter(), folder / "large.l2c"
    words = np.full(_TENSOR_BYTES // 2, _VALUE, np.uint16)
    tensors = [(str(number), DTYPES["U16"], words.shape) for number in range(_LARGE_TENSORS)]
    with Writer(path) as writer:
        for tensor in tensors:
            writer.add_group([tensor], BITS, [0, 16], (None, None), [(Stream(RAW, width=16), words)])
    outcomes["MiB for 4 GiB"] = _read_alone(path)
    with Reader(l2fmt.numpy.save({"one": words})) as one, Writer(path, overwrite=True) as writer:
        for entry in one.index.table_sets:
            writer.add_table_set(entry)
        (group,) = one.index.groups
        streams = list(zip(group.streams, one.read_group(0).streams, strict=True))
        for tensor in tensors:
            writer.add_group([tensor], group.transform, group.parameters, group.scales, streams)
    outcomes["bytes of constants"] = path.stat().st_size
    outcomes["MiB for constants"] = _read_alone(path)
    return outcomes


def _read_alone(path: Path) -> int:
    """Read a file in a process of its own and return the MiB of memory that it took."""
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=False)
    check(not done.returncode, f"it is read: {done.stderr}", "writing a large file")
    memory = int(done.stdout) << 10
    check(memory < _LARGE_MEMORY, f"reading takes {memory} bytes", "writing a large file")
    return memory >> 20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
