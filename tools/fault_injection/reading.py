"""Faults while a model is read: what is returned is right to the bit, everything else is a typed error."""

import errno
import os
import random
import resource
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import l2fmt.numpy
from l2fmt.container import Reader, atomic_write
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError, FileAccessError, L2Error
from l2fmt.pipeline import Encoding, PlainTensor, write_files
from tools.fault_injection.injection import REFUSED, WRITTEN, Read, check, in_child, reading_calls
from tools.fault_injection.models import Model, found_at, make_model, same

_OLD, _NEW = make_model(1, "rans"), make_model(2, "rans")
_MODELS = {"old": _OLD, "new": _NEW}
_F32 = DTYPES["F32"]
_MOST_THREADS = 64


def _model_in(folder: Path) -> Path:
    path = folder / "model.l2c"
    path.write_bytes(_OLD.data)
    return path


def _replace(path: Path, model: Model) -> None:
    with atomic_write(path, overwrite=True) as file:
        file.write(model.data)


def read_errors(folder: Path, count: int, seed: int) -> Counter[str]:
    """Let each read fail (EIO), end early, return a flipped bit, or be short, and all of them be short."""
    path, outcomes, generator = _model_in(folder), Counter(), random.Random(seed)
    with reading_calls(lambda number, buffer, read: read(buffer)) as offsets:
        check(found_at(path, _MODELS) == "old", "the model is read", "no fault")
    for number in range(count):
        at, kind = number // 4 % len(offsets), ("EIO", "an early end", "a flipped bit", "short reads")[number % 4]

        def reading(call: int, buffer: memoryview, read: Read, at: int = at, kind: str = kind) -> int:
            if kind == "short reads":
                return read(buffer[: generator.randint(1, len(buffer))])
            if call != at:
                return read(buffer)
            if kind == "EIO":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if kind == "an early end":
                return 0
            found = read(buffer)
            buffer[generator.randrange(found)] ^= 1 << generator.randrange(8)
            return found

        with reading_calls(reading):
            _load(lambda: l2fmt.numpy.load_file(path, threads=1), {"EIO": FileAccessError}.get(kind), kind, outcomes)
    return outcomes


def _load(
    load: Callable[[], dict[str, np.ndarray]], error: type[L2Error] | None, after: str, outcomes: Counter
) -> None:
    """Load what must be the old model, or refused with a CorruptFileError or the given error instead."""
    try:
        arrays = load()
    except L2Error as found:
        check(type(found) is (error or CorruptFileError), f"the error is {found!r}", after)
        outcomes["typed errors"] += 1
    else:
        check(same(arrays, _OLD.arrays), "what was read is right", after)
        outcomes["read right"] += 1


def changes_while_open(folder: Path, count: int, seed: int) -> Counter[str]:
    """Truncate the file of a lazy reader, write another model into it, or replace it, between two tensors."""
    path, outcomes, generator = folder / "model.l2c", Counter(), random.Random(seed)
    names = list(_OLD.arrays)
    for number in range(count):
        path.write_bytes(_OLD.data)
        kind, at = ("truncated", "overwritten", "replaced")[number % 3], generator.randrange(len(_OLD.data) + 1)
        with l2fmt.numpy.safe_open(path) as file:
            before = file.get_tensor(names[0])
            if kind == "truncated":
                os.truncate(path, at)
            elif kind == "overwritten":
                with path.open("r+b") as target:
                    target.seek(at)
                    target.write(_NEW.data[at:])
            else:
                _replace(path, _NEW)
            for name in names:
                try:
                    found = file.get_tensor(name)
                except CorruptFileError:
                    check(kind != "replaced", "a replaced file stays readable", kind)
                    outcomes["typed errors"] += 1
                else:
                    check(found.tobytes() == _OLD.arrays[name].tobytes(), f"{name} is right", kind)
                    outcomes["read right"] += 1
            check(before.tobytes() == _OLD.arrays[names[0]].tobytes(), "what was read before stays", kind)
    return outcomes


def signals(folder: Path, count: int, seed: int) -> Counter[str]:
    """Interrupt reads from a file and from a pipe, and writes, by a signal every 200 microseconds (EINTR)."""
    path, pipe, outcomes = _model_in(folder), folder / "pipe", Counter()
    os.mkfifo(pipe)
    caught = 0

    def catch(number: int, frame: object) -> None:
        nonlocal caught
        caught += 1

    before = signal.signal(signal.SIGALRM, catch)
    signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
    try:
        for _ in range(count):
            _replace(path, _NEW)
            check(found_at(path, _MODELS) == "new", "the file is right", "signals")
            writer = threading.Thread(target=pipe.write_bytes, args=(_OLD.data,))
            writer.start()
            check(found_at(pipe, _MODELS) == "old", "the pipe is read right", "signals")
            writer.join()
            outcomes["read right"] += 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    check(caught > 0, "signals came", "signals")
    outcomes["signals"] = caught
    return outcomes


def replacing(folder: Path, count: int, seed: int) -> Counter[str]:
    """Read a path in threads and processes while another process replaces what is there all the time."""
    path, outcomes = _model_in(folder), Counter()

    def replace() -> None:
        while True:
            _replace(path, _NEW)
            _replace(path, _OLD)

    def read(loads: int) -> Counter[str]:
        found = Counter(found_at(path, _MODELS) for _ in range(loads))
        check(set(found) <= {"old", "new"}, f"found {found}", "replacing")
        return found

    def watch(writer: int) -> None:
        readers = max(1, count // 4)
        endings = [in_child(lambda: read(readers)) for _ in range(2)]
        check(endings == [WRITTEN] * 2, f"processes ended with {endings}", "replacing")
        outcomes["read right"] += 2 * readers
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(read, [1 + readers // 4] * 8):
                outcomes.update(found)
        os.kill(writer, signal.SIGKILL)

    check(in_child(replace, watch) == -signal.SIGKILL, "the writer was at work", "replacing")
    outcomes["read right"] += outcomes["old"] + outcomes["new"]
    return outcomes


def threads_on_one_file(folder: Path, count: int, seed: int) -> Counter[str]:
    """Share one open file among 64 threads, each reading tensors in an order of its own."""
    path, names = _model_in(folder), list(_OLD.arrays)
    with l2fmt.numpy.safe_open(path) as file, ThreadPoolExecutor(_MOST_THREADS) as pool:

        def read(number: int) -> int:
            order = random.Random(seed + number).sample(names, len(names))
            return sum(file.get_tensor(name).tobytes() == _OLD.arrays[name].tobytes() for name in order)

        found = sum(pool.map(read, range(max(count, _MOST_THREADS))))
    total = max(count, _MOST_THREADS) * len(names)
    check(found == total, f"{found} of {total} tensors were right", "64 threads")
    return Counter({"read right": found})


def little_memory(folder: Path, count: int, seed: int) -> Counter[str]:
    """Load 128 MiB with less and less address space left (RLIMIT_AS, `ulimit -v`)."""
    path, outcomes = folder / "large.l2c", Counter()
    parts = [PlainTensor(f"part.{n}", _F32, (1 << 24,), partial(np.full, 1 << 24, n, np.float32)) for n in range(2)]
    write_files(path, parts, {}, {}, Encoding("raw"))

    def load(left: int) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + left, used + left))
        arrays = l2fmt.numpy.load_file(path, threads=2)
        check(all((arrays[f"part.{n}"] == n).all() for n in range(2)), "what was read is right", "little memory")

    for number in range(count):
        left = (number + 1) * (256 << 20) // count
        ending = in_child(lambda left=left: load(left))
        check(ending in (WRITTEN, REFUSED), f"the reader ended with {ending}", f"{left} bytes of address space")
        outcomes["read right" if ending == WRITTEN else "typed errors"] += 1
    return outcomes


def maps_nothing(folder: Path, count: int, seed: int) -> Counter[str]:
    """Read a file by its path without mapping it, so that no change of it can raise SIGBUS."""
    path = _model_in(folder)
    with l2fmt.numpy.safe_open(path) as file, Reader(path):
        for name in file.keys():  # noqa: SIM118
            file.get_tensor(name)
        check(str(path) not in Path("/proc/self/maps").read_text(), "the file is not mapped", "opening")
    return Counter({"read right": 1})
