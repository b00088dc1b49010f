"""Runs the kernels on damaged streams in a build that the sanitizers watch: python -m tests.cuda.sanitized FIRST LAST.

A process of its own, as the address sanitizer must be loaded before everything else. Prints how many streams were
damaged and how many of them were refused.
"""

import ctypes
import sys

import numpy as np

from l2codec import CorruptStreamError, Values
from l2codec.cuda import decoding
from l2codec.cuda.device import Device, Memory
from l2codec.cuda.staging import Staging
from tests.codec.conftest import Case, build
from tests.cuda import shim
from tests.cuda.cases import Check, Points, points_of, stream_of
from tests.cuda.device import ShimDevice

_REFUSED = "refused"
_GAP = 32
_sanitizer = ctypes.CDLL(None)


class Guarded(Staging):
    """Leaves gaps between arrays on the device, which kernels must not touch."""

    guarded: list[tuple[int, int]]

    def __init__(self) -> None:
        super().__init__()
        self.guarded = []

    def add(self, array: np.ndarray | None) -> int:
        place = super().add(array)
        if array is not None:
            self.size += _GAP
            self.guarded.append((place + array.nbytes, self.size))
        return place

    def upload(self, device: Device, memory: Memory) -> np.ndarray:
        host = super().upload(device, memory)
        device.wait()
        for start, stop in self.guarded:
            poison(memory.address + start, stop - start)
        return host


def poison(address: int, nbytes: int) -> None:
    _sanitizer.__asan_poison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with flipped bits, cut off, made longer, or noise."""
    kind = int(rng.integers(5))
    if kind == 0 or not data:
        return rng.bytes(int(rng.integers(0, 200)))
    if kind == 1:
        return data[: int(rng.integers(len(data)))]
    if kind == 2:
        return data + rng.bytes(int(rng.integers(1, 9)))
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        bit = int(rng.integers(8 * len(result)))
        result[bit // 8] ^= 1 << bit % 8
    return bytes(result)


def attempts(seed: int) -> list[tuple[Check, object]]:
    """Return damaged streams, and what the reference of the codec makes of each."""
    rng = np.random.default_rng(seed)
    coder = ("rans", "rans", "range", "huffman")[seed % 4]
    lanes = int(rng.choice([1, 4, 32]))
    case = build(
        coder, int(rng.choice([1, 12, 31])), 8 + seed % 3, 1 + seed % 3, lanes, 8, int(rng.integers(1, 500)), seed
    )
    result = []
    for _ in range(6):
        bad = damaged(case.encode(), rng)
        try:
            stream = stream_of(case, bad)
        except CorruptStreamError:
            continue  # a host has found out before any kernel runs
        try:
            expected: object = case.decode(bad, backend="reference").tolist()
        except CorruptStreamError:
            expected = _REFUSED
        result.append((Check(coder, stream, values(case), b""), expected))
    if coder == "rans":
        result += wrong_points(case, rng)
    return result


def values(case: Case) -> Values:
    return Values(np.zeros(case.symbols.size, case.symbols.dtype), 0)


def wrong_points(case: Case, rng: np.random.Generator) -> list[tuple[Check, object]]:
    """Return streams with damaged resume points."""
    points = points_of(case, 2 * case.layout["lanes"])
    result = []
    for _ in range(2 if points.points.size else 0):
        bad = points.points.copy()
        bad[int(rng.integers(len(bad))), int(rng.integers(bad.shape[1]))] ^= 1 << int(rng.integers(32))
        check = Check("points", stream_of(case), values(case), b"", Points(points.interval, bad))
        result.append((check, _REFUSED))
    return result


def main(first: int, last: int) -> None:
    """Run all attempts with these seeds and compare verdicts."""
    decoding.Staging = Guarded  # pyright: ignore[reportPrivateImportUsage]
    everything = [attempt for seed in range(first, last) for attempt in attempts(seed)]
    device = ShimDevice(shim.SANITIZERS)
    refused = 0
    for device.schedule in range(4):
        part = everything[device.schedule :: 4]
        work = decoding.Decoding(device)
        for check, _ in part:
            work.add(check.stream, check.values, check.values.out.ctypes.data, points=check.points)
        work.prepare()
        work.launch()
        memory = list(device.live)
        bad = {failure.stream for failure in work.failures()}
        for one in memory:
            _sanitizer.__asan_unpoison_memory_region(ctypes.c_void_p(one.address), ctypes.c_size_t(one.nbytes))
        for number, (check, expected) in enumerate(part):
            found = _REFUSED if number in bad else check.values.out.tolist()
            assert found == expected, f"attempt {number}: {check.about}"
        refused += len(bad)
    print(len(everything), refused)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
