"""A device whose kernels run on the CPU: what `l2codec.cuda` calls a device, its memory being the host's."""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from weakref import WeakSet

import numpy as np

from l2codec import cuda
from l2codec.cuda.device import Launch
from tests.cuda import shim

LARGE, SMALL = 227 << 10, 20 << 10  # of shared memory: the most that a GPU has, and less than many tables take up
_ALIGNMENT = 256


class ShimMemory:
    """Memory of the host that begins at a multiple of 256 bytes, filled with garbage."""

    def __init__(self, nbytes: int):
        self._array = np.full(nbytes + _ALIGNMENT, 0xA5, np.uint8)
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        return self._array.ctypes.data + -self._array.ctypes.data % _ALIGNMENT


class ShimDevice:
    """Does what it is asked for when `wait` is called, in order, as late as a GPU might.

    `flags` are for the compiler; `patch`, a text and what replaces it, changes the source of a module. `schedule` is
    the order in which threads take turns (`shim.Library.launch`).
    """

    threads = 64
    multiprocessors = 2  # fewer than there is work for: blocks take several segments

    def __init__(self, flags: Sequence[str] = (), patch: tuple[str, str] = ("", "")):
        self._flags, self._patch = flags, patch
        self._libraries: dict[tuple[str, str], shim.Library] = {}
        self._queue: list[Callable[[], object]] = []
        self.live: WeakSet[ShimMemory] = WeakSet()
        self.shared_bytes, self.schedule = LARGE, 0
        self.log: list[Launch] = []  # of everything that was launched
        self.allowed_bytes = 1 << 40
        self.peak_bytes = 0

    def prepare(self, kernels: Iterable[tuple[str, str]]) -> None:
        """Compile kernels, each given by its module and name, at once: one by one would take much longer."""
        missing: dict[str, set[str]] = {}
        for module, kernel in kernels:
            if (module, kernel) not in self._libraries:
                missing.setdefault(module, set()).add(kernel)
        for module, names in missing.items():
            source = cuda.read_source(module)
            if self._patch[0]:
                source = source.replace(*self._patch)
            library = shim.build(source, sorted(names), self._flags)
            self._libraries |= {(module, name): library for name in names}

    def resident_blocks(self, module: str, kernel: str, threads: int, shared_bytes: int) -> int:
        assert shared_bytes <= self.shared_bytes and threads <= self.threads
        return 2

    def allocate(self, nbytes: int) -> ShimMemory:
        if nbytes + self.used_bytes > self.allowed_bytes:
            raise MemoryError(f"{nbytes} bytes")
        memory = ShimMemory(nbytes)
        self.live.add(memory)
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return memory

    @property
    def used_bytes(self) -> int:
        """Bytes of all memory that is allocated."""
        return sum(memory.nbytes for memory in self.live)

    def staging(self, nbytes: int) -> np.ndarray:
        return np.full(nbytes, 0x5A, np.uint8)

    def upload(self, address: int, data: np.ndarray) -> None:
        self._queue.append(partial(ctypes.memmove, address, data.ctypes.data, data.nbytes))

    def download(self, address: int, out: np.ndarray) -> None:
        self._queue.append(partial(ctypes.memmove, out.ctypes.data, address, out.nbytes))

    def launch(self, launch: Launch) -> None:
        self.log.append(launch)
        self._queue.append(partial(self._run, launch))

    def _run(self, launch: Launch) -> None:
        key = launch.module, launch.kernel
        if key not in self._libraries:
            self.prepare({(one.module, one.kernel) for one in self.log})
        arguments = launch.arguments, launch.shared_bytes, self.schedule
        self._libraries[key].launch(launch.kernel, launch.blocks, launch.threads, *arguments)

    def wait(self) -> None:
        queue, self._queue = self._queue, []
        for work in queue:
            work()


class Recorder(ShimDevice):
    """Does nothing but remember which kernels are asked for; whoever looks finds zeros, as if all were well."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: set[tuple[str, str]] = set()

    def upload(self, address: int, data: np.ndarray) -> None:
        pass

    def download(self, address: int, out: np.ndarray) -> None:
        out.view(np.uint8)[...] = 0

    def launch(self, launch: Launch) -> None:
        self.kernels.add((launch.module, launch.kernel))
