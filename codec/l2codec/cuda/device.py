"""What a host needs of a device: memory, copies and launches, all on one stream of work. Addresses are integers.

`_cupy.py` is this for a GPU; the tests have one that runs kernels on the CPU, in whose memory addresses then lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

WARP = 32


@dataclass(frozen=True)
class Launch:
    """A kernel, by its module and its name as C++ writes it, and how it is launched.

    `arguments` are numpy scalars: uint64 for addresses, uint32 for numbers. `shared_bytes` is the dynamic shared memory
    of a block.
    """

    module: str
    kernel: str
    blocks: int
    threads: int
    arguments: Sequence[np.generic]
    shared_bytes: int = 0


class Memory(Protocol):
    """Memory of a device, aligned to 256 bytes. It is free when nothing refers to the object any more, and the work
    that was asked for before is done.
    """

    @property
    def address(self) -> int: ...


class Device(Protocol):
    """A device and a stream of work on it: copies and launches are done in the order in which they are asked for."""

    @property
    def multiprocessors(self) -> int:
        """How many blocks can run without sharing anything."""
        ...

    @property
    def shared_bytes(self) -> int:
        """How much shared memory a block may have."""
        ...

    @property
    def threads(self) -> int:
        """How many threads a block should have at most: a multiple of 32, at most 256."""
        ...

    def resident_blocks(self, module: str, kernel: str, threads: int, shared_bytes: int) -> int:
        """Return how many blocks of a kernel a multiprocessor has room for at a time."""
        ...

    def allocate(self, nbytes: int) -> Memory:
        """Return memory with anything in it; raise MemoryError if there is not so much."""
        ...

    def staging(self, nbytes: int) -> np.ndarray:
        """Return uint8 memory of the host that copies to and from the device are fast with."""
        ...

    def upload(self, address: int, data: np.ndarray) -> None:
        """Copy a contiguous array to the device. It must be left as it is until `wait` returns."""
        ...

    def download(self, address: int, out: np.ndarray) -> None:
        """Copy to a contiguous array from the device. It is filled when `wait` returns."""
        ...

    def launch(self, launch: Launch) -> None:
        """Launch a kernel, which is compiled when it is first asked for."""
        ...

    def wait(self) -> None:
        """Wait for everything that was asked for; raise KernelError if a kernel has failed."""
        ...


def spread(
    segments: int, unit: int, device: Device, module: str, kernel: str, shared_bytes: int = 0
) -> tuple[int, int]:
    """Return (blocks, threads of each) of a launch in which `unit` threads take one segment after the other.

    Few segments are given to as many multiprocessors as there are. There are no more blocks than can run at once.
    """
    together = min(-(-segments // device.multiprocessors), device.threads // unit)
    threads = -(-together * unit // WARP) * WARP
    resident = device.multiprocessors * max(device.resident_blocks(module, kernel, threads, shared_bytes), 1)
    return min(-(-segments * unit // threads), resident), threads
