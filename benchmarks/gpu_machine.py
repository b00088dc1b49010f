"""What `bench_gpu` measures with: a device, its clock, and how often something must be there."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

import l2fmt
import l2fmt.cuda
from l2codec.cuda.device import Device

CACHE_BYTES = 128 << 20  # more than any cache of a GPU holds
WARM_SECONDS = 0.2  # of work before anything is measured: an idle GPU has a slow clock
_HEAD_START = 2_000_000  # cycles that a GPU waits for the host to ask for all that is measured, some 1 ms


class Machine(Protocol):
    """What is measured: a device, memory of it as tensors, and a clock."""

    device: torch.device

    def open(self) -> Device: ...

    def milliseconds(self, function: Callable[[], object]) -> float:
        """Return how long the device takes for what a function asks of it."""
        ...

    def synchronize(self) -> None: ...

    def load(self, path: Path) -> dict[str, torch.Tensor]: ...


class Gpu:
    """The current CUDA device; raises UnsupportedError, MissingDependencyError."""

    def __init__(self) -> None:
        self._place = l2fmt.cuda.gpu(torch.device("cuda"))
        self.device, self.open = self._place.device, self._place.open
        self.name = torch.cuda.get_device_name(self.device)

    def milliseconds(self, function: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_HEAD_START)  # pyright: ignore[reportAttributeAccessIssue]
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def load(self, path: Path) -> dict[str, torch.Tensor]:
        return l2fmt.load_file(path, self.device)


def copies(nbytes: int, most: int = 16) -> int:
    """Return how many times something of so many bytes must be there for no cache to hold it when its turn comes."""
    return max(1, min(most, CACHE_BYTES // nbytes))


def copy_bandwidth(machine: Machine, nbytes: int, repeat: int) -> float:
    """Return bytes read and written in a second by a copy."""
    source, target = (torch.zeros(nbytes, dtype=torch.uint8, device=machine.device) for _ in range(2))
    return 2 * nbytes / (median(machine, [lambda: target.copy_(source)], repeat) / 1e3)


def median(machine: Machine, functions: Sequence[Callable[[], object]], repeat: int) -> float:
    """Return the median of milliseconds of functions that take turns, each called before, until the clock is up."""
    started = time.monotonic()
    while True:
        for function in functions:
            machine.milliseconds(function)
        if time.monotonic() - started >= WARM_SECONDS:
            break
    times = [machine.milliseconds(functions[i % len(functions)]) for i in range(max(repeat, len(functions)))]
    return statistics.median(times)
