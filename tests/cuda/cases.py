"""Streams of every kind, for the host code of l2codec.cuda, each with what the codec of the CPU makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import l2codec
from l2codec import ClassMap, Values
from l2codec.cuda.decoding import Decoding, DeviceStream, Failure, Points
from l2codec.cuda.device import Device
from tests.codec.conftest import Case, build

LANES = (1, 2, 4, 8, 16, 32)


@dataclass
class Check:
    """A stream and its values, whose memory must hold `expected` after it held `before`."""

    about: str
    stream: DeviceStream
    values: Values
    expected: bytes
    points: Points | None = None
    before: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.values.out.copy()


def decode(device: Device, checks: Sequence[Check]) -> list[Failure]:
    """Decode streams together, return what is found wrong, and put what the device has written into their values."""
    decoding = Decoding(device)
    memory = [device.allocate(check.before.nbytes) for check in checks]
    for check, words in zip(checks, memory, strict=True):
        device.upload(words.address, check.before)
        decoding.add(check.stream, check.values, words.address, points=check.points)
    decoding.prepare()
    decoding.launch()
    failures = decoding.failures()
    for check, words in zip(checks, memory, strict=True):
        device.download(words.address, check.values.out)
    device.wait()
    return failures


def case(coder: str, seed: int) -> tuple[Case, np.random.Generator]:
    """Return a case of any alphabet, tables, classes, probability bits, lanes and blocks."""
    rng = np.random.default_rng([seed, len(coder)])
    alphabet = int(rng.choice([1, 2, 31, 256, 257, 3000]))
    lanes, count = int(rng.choice(LANES)), int(rng.choice([rng.integers(1, 40), rng.integers(1, 1500)]))
    n_tables = int(rng.choice([1, 2, 5]))
    return build(coder, alphabet, int(rng.integers(8, 15)), n_tables, lanes, 8 + seed % 3, count, seed), rng


def stream_of(made: Case, data: bytes | None = None) -> DeviceStream:
    """Return the stream of a case, or another one in its place."""
    data = made.encode() if data is None else data
    return DeviceStream(made.coder, data, made.symbols.size, made.tables, made.classes, **made.layout)


def garbage(count: int, dtype: np.dtype | type) -> np.ndarray:
    return np.full(count, 0xA5, np.uint8).astype(dtype)


def symbols(coder: str, seed: int) -> Check:
    """Decoding to symbols."""
    made, _ = case(coder, seed)
    values = Values(garbage(made.symbols.size, made.symbols.dtype), 0)
    return Check(f"{coder} {seed}", stream_of(made), values, made.symbols.tobytes())


def raw_symbols(seed: int) -> Check:
    rng = np.random.default_rng(seed)
    width, count = seed % 17, int(rng.integers(1, 3000 if seed % 5 else 20000))
    given = rng.integers(0, 1 << width, count).astype(np.uint8 if width <= 8 else np.uint16)
    stream = DeviceStream("raw", l2codec.encode("raw", given, width=width), count, width=width)
    return Check(f"raw {seed}", stream, Values(garbage(count, given.dtype), 0), given.tobytes())


def floats(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return finite float32 of every magnitude, the ends of float16 and zeros of both signs among them."""
    special = np.array(
        [0.0, -0.0, 65504, 65519.996, 65520, 2**-14, 2**-24, 2**-25, 1.5 * 2**-25, 1e-45, 3e38], np.float32
    )
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = (rng.standard_normal(count) * 2.0 ** rng.integers(-30, 20, count)).astype(np.float32)
    result = np.where(
        rng.random(count) < 0.3, rng.choice(special, count), np.where(rng.random(count) < 0.5, bits, near)
    )
    return np.where(np.isfinite(result), result, np.float32(1)).astype(np.float32)


def words(coder: str, seed: int) -> Check:
    """Decoding to what symbols stand for: every sink."""
    made, rng = case(coder, seed)
    count, alphabet, classes = made.symbols.size, made.tables.alphabet, made.classes
    word = np.dtype(rng.choice(["u1", "u2", "u4", "u8"]))
    shape = classes.shape if isinstance(classes, ClassMap) and classes.shape[1] else (1, count, 1)
    kind = int(rng.integers(3))
    arguments: dict[str, Any]
    if kind == 0 or (kind == 2 and word.itemsize == 1):
        shift = int(rng.integers(8 * word.itemsize - min(alphabet.bit_length(), 8 * word.itemsize) + 1))
        shift = shift if (alphabet - 1) << shift < 1 << 8 * word.itemsize else 0
        word = word if alphabet <= 1 << 8 * word.itemsize else np.dtype("u2")
        arguments = {"codebook": min(shift, 8 * word.itemsize - 1), "join": bool(rng.integers(2))}
    elif kind == 1:
        arguments = {"codebook": rng.integers(0, 1 << 8 * word.itemsize, alphabet, dtype=word)}
    else:
        # Rows of unequal lengths have no scales.
        scaled = rng.integers(2, size=2) * (not isinstance(classes, ClassMap) or classes.shape[1] > 0)
        least = np.float32(1e-40)
        scales = [np.maximum(np.abs(floats(rng, n)), least) if s else None for n, s in zip(shape, scaled, strict=False)]
        arguments = {"codebook": floats(rng, alphabet), "row_scale": scales[0], "column_scale": scales[1]}
        arguments |= {"shape": shape, "bfloat16": bool(rng.integers(2))}
    before = rng.integers(0, 1 << 8 * word.itemsize, count, dtype=word)
    expected = Values(before.copy(), **arguments)
    data = made.encode()
    l2codec.decode_values(coder, data, expected, made.tables, classes, **made.layout)
    values = Values(before.copy(), **arguments)
    return Check(f"{coder} to words {seed}", stream_of(made, data), values, expected.out.tobytes())


def points_of(made: Case, interval: int) -> Points:
    model = made.symbols.size, made.tables, made.classes
    return Points(interval, l2codec.resume_points(made.encode(), *model, **made.layout, interval=interval))


def segments(seed: int) -> Check:
    """Decoding of `rans` from resume points."""
    made, rng = case("rans", seed)
    points = points_of(made, made.layout["lanes"] * int(rng.integers(1, 20)))
    values = Values(garbage(made.symbols.size, made.symbols.dtype), 0)
    return Check(f"resume {seed}", stream_of(made), values, made.symbols.tobytes(), points)
