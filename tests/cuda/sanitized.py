"""Runs the kernels on damaged streams in a build that the sanitizers watch: python -m tests.cuda.sanitized FIRST LAST.

A process of its own, as the address sanitizer must be loaded before everything else. Prints how many streams were
damaged and how many of them were refused.
"""

import sys
from typing import Any

import numpy as np

import l2codec
from l2codec import CorruptStreamError, Values
from l2codec.cuda import Form, Status
from tests.codec.conftest import build
from tests.cuda import shim
from tests.cuda.device import Device, Launch, decoding

REFUSED = "refused"


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


def attempts(seed: int) -> list[tuple[Launch, np.ndarray, object]]:
    """Return launches on damaged streams, what they write to, and what the reference of the codec makes of each."""
    rng = np.random.default_rng(seed)
    coder = ("rans", "rans", "range", "huffman")[seed % 4]
    lanes = int(rng.choice([1, 4, 32]))
    case = build(
        coder, int(rng.choice([1, 12, 31])), 8 + seed % 3, 1 + seed % 3, lanes, 8, int(rng.integers(1, 500)), seed
    )
    options: dict[str, Any] = {"form": Form.WIDE8} if coder == "rans" else {}
    data, result = case.encode(), []
    for _ in range(6):
        bad = damaged(data, rng)
        out = np.zeros(case.symbols.size, case.symbols.dtype)
        arguments = Values(out, 0), case.tables, case.classes
        try:
            launch = decoding(coder, bad, *arguments, case.layout, **options)
        except CorruptStreamError:
            continue  # a host has found out before any kernel runs
        try:
            expected: object = case.decode(bad, backend="reference").tolist()
        except CorruptStreamError:
            expected = REFUSED
        result.append((launch, out, expected))
    if coder == "rans":
        result += wrong_points(case, data, rng)
    return result


def wrong_points(case, data: bytes, rng: np.random.Generator) -> list[tuple[Launch, np.ndarray, object]]:
    """Return launches that start from damaged resume points."""
    interval = 2 * case.layout["lanes"]
    model = case.symbols.size, case.tables, case.classes
    points = l2codec.resume_points(data, *model, **case.layout, interval=interval)
    result = []
    for _ in range(2 if points.size else 0):
        bad = points.copy()
        bad[int(rng.integers(len(bad))), int(rng.integers(bad.shape[1]))] ^= 1 << int(rng.integers(32))
        out = np.zeros(case.symbols.size, case.symbols.dtype)
        values, resume = Values(out, 0), {"interval": interval, "points": bad}
        launch = decoding("rans", data, values, case.tables, case.classes, case.layout, **resume, form=Form.WIDE8)
        result.append((launch, out, REFUSED))
    return result


def main(first: int, last: int) -> None:
    """Run all attempts with these seeds and compare verdicts."""
    everything = [attempt for seed in range(first, last) for attempt in attempts(seed)]
    device = Device(shim.SANITIZERS)
    device.prepare(launch for launch, _, _ in everything)
    refused = 0
    for number, (launch, out, expected) in enumerate(everything):
        good = all(status is Status.GOOD for status in device.run(launch, number % 4))
        assert (out.tolist() if good else REFUSED) == expected, f"attempt {number}: {launch.kernel}"
        refused += not good
    print(len(everything), refused)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
