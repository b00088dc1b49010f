"""Streams of every kind, each with the launches that code it and what the codec of the CPU makes of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import l2codec
from l2codec import ClassMap, Values
from l2codec.cuda import Form, Status
from l2codec.model import simplified
from l2fmt.container import Reader
from l2fmt.pipeline import decode_group
from l2fmt.pipeline.classes import class_maps
from l2fmt.pipeline.decode import _values
from tests.codec.conftest import Case, build
from tests.cuda.device import Device, Launch, decoding, encoded, encoding

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
CODERS = {number: name for name, number in l2codec.CODERS.items()}
LANES = (1, 2, 4, 8, 16, 32)


@dataclass
class Check:
    """Launches that, run in this order, must give `expected` as `result()`."""

    about: str
    launches: list[Launch]
    expected: bytes
    result: Callable[[], bytes]

    def failure(self, device: Device, schedule: int) -> str | None:
        """Run the launches and say what is wrong with the outcome, if anything is."""
        for launch in self.launches:
            found = device.run(launch, schedule)
            if any(status is not Status.GOOD for status in found):
                return f"{self.about}: {launch.kernel}: {found}"
        return None if self.result() == self.expected else f"{self.about}: another result"


def _case(coder: str, seed: int) -> tuple[Case, np.random.Generator]:
    """Return a case of any alphabet, tables, classes, probability bits, lanes and blocks."""
    rng = np.random.default_rng([seed, len(coder)])
    alphabet = int(rng.choice([1, 2, 31, 256, 257, 3000]))
    lanes, count = int(rng.choice(LANES)), int(rng.choice([rng.integers(1, 40), rng.integers(1, 1500)]))
    n_tables = int(rng.choice([1, 2, 5]))
    return build(coder, alphabet, int(rng.integers(8, 15)), n_tables, lanes, 8 + seed % 3, count, seed), rng


def _garbage(count: int, dtype: np.dtype | type) -> np.ndarray:
    return np.full(count, 0xA5, np.uint8).astype(dtype)


def symbols(coder: str, seed: int) -> Check:
    """Decoding to symbols; `rans` with every form of tables, in shared memory and outside."""
    case, rng = _case(coder, seed)
    out = _garbage(case.symbols.size, case.symbols.dtype)
    compact = case.tables.alphabet <= 256 and case.tables.probability_bits <= 12
    wide = Form.WIDE8 if case.tables.alphabet <= 256 else Form.WIDE16
    form, shared = Form.COMPACT if compact and rng.integers(2) else wide, bool(rng.integers(2))
    options: dict[str, Any] = {"form": form, "shared": shared or form is Form.COMPACT} if coder == "rans" else {}
    values = Values(out, 0)
    launch = decoding(coder, case.encode(), values, case.tables, case.classes, case.layout, **options)
    return Check(f"{coder} {seed}", [launch], case.symbols.tobytes(), out.tobytes)


def raw_symbols(seed: int) -> Check:
    rng = np.random.default_rng(seed)
    width = seed % 17
    given = rng.integers(0, 1 << width, int(rng.integers(1, 3000))).astype(np.uint8 if width <= 8 else np.uint16)
    out = _garbage(given.size, given.dtype)
    launch = decoding("raw", l2codec.encode("raw", given, width=width), Values(out, 0), None, 0, {"width": width})
    return Check(f"raw {seed}", [launch], given.tobytes(), out.tobytes)


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
    """Decoding to what symbols stand for: every sink, `rans` with the tables of a class model."""
    case, rng = _case(coder, seed)
    count, alphabet = case.symbols.size, case.tables.alphabet
    word = np.dtype(rng.choice(["u1", "u2", "u4", "u8"]))
    shape = case.classes.shape if isinstance(case.classes, ClassMap) and case.classes.shape[1] else (1, count, 1)
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
        scaled = rng.integers(2, size=2) * (not isinstance(case.classes, ClassMap) or case.classes.shape[1] > 0)
        least = np.float32(1e-40)
        scales = [np.maximum(np.abs(floats(rng, n)), least) if s else None for n, s in zip(shape, scaled, strict=False)]
        arguments = {"codebook": floats(rng, alphabet), "row_scale": scales[0], "column_scale": scales[1]}
        arguments |= {"shape": shape, "bfloat16": bool(rng.integers(2))}
    before = rng.integers(0, 1 << 8 * word.itemsize, count, dtype=word)
    out, expected = before.copy(), Values(before.copy(), **arguments)
    data = case.encode()
    l2codec.decode_values(coder, data, expected, case.tables, case.classes, **case.layout)
    options: dict[str, Any] = {"form": Form.WIDE16} if coder == "rans" else {}
    launch = decoding(coder, data, Values(out, **arguments), case.tables, case.classes, case.layout, **options)

    def result() -> bytes:
        found = out.tobytes()
        out[:] = before  # for the next schedule: what is joined must not be joined twice
        return found

    return Check(f"{coder} to {launch.kernel} {seed}", [launch], expected.out.tobytes(), result)


def segments(seed: int) -> Check:
    """Decoding of `rans` from resume points."""
    case, rng = _case("rans", seed)
    interval = case.layout["lanes"] * int(rng.integers(1, 20))
    model = case.symbols.size, case.tables, case.classes
    points = l2codec.resume_points(case.encode(), *model, **case.layout, interval=interval)
    out = _garbage(case.symbols.size, case.symbols.dtype)
    resume = {"interval": interval, "points": points if points.size else np.zeros(1, np.uint32)}
    launch = decoding("rans", case.encode(), Values(out, 0), case.tables, case.classes, case.layout, **resume)
    return Check(f"resume {seed}", [launch], case.symbols.tobytes(), out.tobytes)


def streams(coder: str, seed: int) -> Check:
    """Encoding."""
    case, _ = _case(coder, seed)
    launch = encoding(coder, case.symbols, case.tables, case.classes, case.layout)
    return Check(f"encoding {coder} {seed}", [launch], case.encode(), lambda: encoded(launch))


def vectors() -> list[Check]:
    """All groups of the valid vectors of the specification, to the words of their tensors."""
    manifest = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
    checks = []
    for entry in manifest["valid"]:
        with Reader(VECTORS / entry["file"]) as reader:
            checks += [_group(reader, number) for number, g in enumerate(reader.index.groups) if g.symbols]
    return checks


def _group(reader: Reader, number: int) -> Check:
    group, data = reader.index.groups[number], reader.read_group(number)
    out = _garbage(group.symbols, group.dtype.word)
    launches = []
    described = zip(
        group.streams, data.streams, class_maps(reader, group, data), _values(reader, group, data, out), strict=True
    )
    for stream, part, classes, values in described:
        name = CODERS[stream.coder]
        if name == "raw":
            launches.append(decoding(name, part, values, None, 0, {"width": stream.width}))
            continue
        tables = reader.table_sets[stream.table_set]
        layout = {"lanes": 1 << stream.lane_bits, "block_bits": stream.block_bits}
        launches.append(decoding(name, part, values, tables, simplified(classes), layout))
    expected = b"".join(array.tobytes() for array in decode_group(reader, number).values())
    return Check(f"{reader.name}: {group.label}", launches, expected, out.tobytes)
