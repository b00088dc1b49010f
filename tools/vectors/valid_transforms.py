"""Valid vectors of the quantizing transforms and scales (spec/transforms.md 1, 3 to 7)."""

from collections.abc import Callable, Sequence

import numpy as np

from l2fmt._registry import CODEBOOK, GEOMETRIC, JOINT, UNIFORM

from .building import Coded, FileBuilder, geometric_counts

FLOATS = ("F32", "F16", "BF16", "F64")
ORIGIN, ALPHABET = 9, 19
F32 = np.float32


def _quantized(
    builder: FileBuilder,
    transform: int,
    parameters: Sequence[np.floating],
    value: Callable[[int], np.float32],
    label: str,
) -> None:
    """Add a tensor of each float dtype with every code of the alphabet, and one whose symbols are raw."""
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 10, (2, 3))], 10, ORIGIN)
    stored = [float(F32(parameter)) for parameter in parameters]
    every = [*range(ALPHABET), ORIGIN]
    cases: list[tuple[str, str, Coded, int]] = [
        (f"{label}-{dtype}", dtype, builder.coded("rans", number, (4, 5, 1), symbols=every), ORIGIN) for dtype in FLOATS
    ]
    cases.append((f"{label}-raw", "F32", builder.raw(builder.draws.below(8, 20), 3), 3))
    for name, dtype, coded, offset in cases:
        builder.group([(name, dtype, (4, 5))], transform, [offset, *stored], [coded])
        with np.errstate(all="ignore"):
            values = np.array([value(symbol - offset) for symbol in coded.symbols], np.float32)
        builder.values(name, dtype, (4, 5), values)


def uniform() -> FileBuilder:
    """Transform uniform: ordinary steps, one whose values overflow F16, one of subnormal values, one that overflows F32
    at symbols that do not occur."""
    builder = FileBuilder(11)
    for label, step in (("small", F32(0.013)), ("large", F32(9000.7)), ("subnormal", F32(1e-44)), ("huge", F32(3e37))):
        _quantized(builder, UNIFORM, [step], lambda q, step=step: F32(q) * step, label)
    number = builder.tables([[64, 64, 64, 64, 0, 0]], 8, 0)
    for name, coded in (
        ("unused-raw", builder.raw([3, 0, 1, 2], 3)),
        ("unused", builder.coded("rans", number, (1, 4, 1))),
    ):
        builder.group([(name, "F32", (4,))], UNIFORM, [0, 2.0**126], [coded])
        builder.values(name, "F32", (4,), np.array(coded.symbols, np.float32) * F32(2.0**126))
    return builder


def joint() -> FileBuilder:
    """Transform joint: a threshold below half a step and one above it."""
    builder = FileBuilder(12)
    for label, step, threshold in (("below", F32(0.1), F32(0.03)), ("above", F32(0.07), F32(0.21))):

        def value(q: int, step: np.float32 = step, threshold: np.float32 = threshold) -> np.float32:
            if q == 0:
                return F32(0)
            magnitude = F32(threshold + F32(F32(abs(q) - 0.5) * step))
            return magnitude if q > 0 else -magnitude

        _quantized(builder, JOINT, [step, threshold], value, label)
    return builder


def geometric() -> FileBuilder:
    """Transform geometric: a growth above 1, just above 1, and below 1."""
    builder = FileBuilder(13)
    for label, scale, growth in (
        ("wide", F32(0.02), F32(1.7)),
        ("near", F32(3), F32(1.001)),
        ("less", F32(1), F32(0.6)),
    ):

        def value(q: int, scale: float = float(scale), growth: float = float(growth)) -> np.float32:
            power = 1.0
            for _ in range(abs(q)):
                power *= growth
            magnitude = F32(scale * (power - 1.0))
            return magnitude if q >= 0 else -magnitude

        _quantized(builder, GEOMETRIC, [scale, growth], value, label)
    return builder


def codebook() -> FileBuilder:
    """Transform codebook: values in any order, -0.0 and subnormals among them; a codebook shorter than raw allows."""
    builder = FileBuilder(14)
    values = [0.5, -0.0, 3.0e38, -1.5, 1e-45, 2.25, 0.0, -7.0]
    table = np.array(values, "<f4")
    number = builder.tables([geometric_counts(8, 6, 9, (3, 4))], 9, 6)
    flat = builder.tables([[32] * 8], 8, 0)
    for dtype, coder, tables in zip(FLOATS, ("rans", "range", "rans", "huffman"), (number,) * 3 + (flat,), strict=True):
        coded = builder.coded(coder, tables, (1, 24, 1), symbols=[*range(8)] * 3)
        builder.group([(dtype, dtype, (24,))], CODEBOOK, [table.tobytes()], [coded])
        builder.values(dtype, dtype, (24,), table[coded.symbols])
    raw = builder.raw([4, 0, 2, 1, 3], 3)
    builder.group([("short", "F32", (5,))], CODEBOOK, [table[:5].tobytes()], [raw])
    builder.values("short", "F32", (5,), table[raw.symbols])
    builder.group([("empty", "F32", (0,))], CODEBOOK, [b""], [builder.raw([], 0)])
    builder.values("empty", "F32", (0,), table[:0])
    return builder


def scales() -> FileBuilder:
    """Row and column scales of every scale dtype, alone and together, on tensors of two to four dimensions."""
    builder = FileBuilder(15)
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 10, (2, 3))], 10, ORIGIN)
    kinds = ("F32", "F16", "BF16", "F8_E8M0")
    pairs = (
        [(kind, None) for kind in kinds] + [(None, kind) for kind in kinds] + list(zip(kinds, kinds[::-1], strict=True))
    )
    for i, (row, column) in enumerate(pairs):
        shape = ((4, 5), (4, 5, 2), (4, 5, 1, 3))[i % 3]
        dtype = FLOATS[i % 4]
        coded = builder.coded("rans", number, (4, 5, int(np.prod(shape[2:]))))
        stored, factors = [], []
        for kind, count in ((row, 4), (column, 5)):
            data, values = _scale(builder, kind, count) if kind else (b"", np.ones(count, np.float32))
            stored.append(data)
            factors.append(values)
        name = f"{i}-{row}-{column}-{dtype}"
        builder.group([(name, dtype, shape)], UNIFORM, [ORIGIN, 0.5], [coded], (row, column), (stored[0], stored[1]))
        values = (np.array(coded.symbols, np.int64) - ORIGIN).astype(np.float32).reshape(4, 5, -1) * F32(0.5)
        values = values * factors[0].reshape(4, 1, 1)
        values = values * factors[1].reshape(1, 5, 1)
        builder.values(name, dtype, shape, values.reshape(-1))
    return builder


def octave_scales() -> FileBuilder:
    """Octave scales, every one of them, with and without class vectors and scales of another kind beside them."""
    builder = FileBuilder(36, octaves=True)
    every = list(range(-128, 128))
    builder.class_set = builder.sets[builder.tables([[4] * 256] * 3, 10, 128, for_classes=True)]
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 10, (k, 3)) for k in (1, 2)], 10, ORIGIN)
    power, fourth = F32(2.0**-3), [F32(value) for value in (1.0, 0.125, 4.0, 2.0**-16, 1.5)]
    cases: list[tuple[str, tuple[int, ...], dict, list[int] | None, list[int] | None, str | None]] = [
        ("rows", (256, 2), {}, every, None, None),
        ("columns", (2, 256, 2), {"row": [0, 1]}, None, every[::-1], None),
        ("both", (3, 5), {"column": [0, 1, 0, 1, 1]}, [-128, 127, 0], [8, -8, 3, -3, 1], None),
        ("rows-and-others", (3, 5), {}, [1, 2, 4], None, "F32"),
        ("raw", (3, 5), {}, [0, -1, 1], [127, 7, 0, -7, -8], None),
    ]
    for i, (name, shape, classes, row, column, other) in enumerate(cases):
        dtype = FLOATS[i % 4]
        layout = (shape[0], shape[1], int(np.prod(shape[2:])))
        if name == "raw":
            coded = builder.raw(builder.draws.below(ALPHABET, 15), 5)
        else:
            coded = builder.coded("rans", number, layout, **classes)
        stored = np.array(fourth, "<f4").tobytes() if other else b""
        builder.group(
            [(name, dtype, shape)],
            UNIFORM,
            [ORIGIN, float(power)],
            [coded],
            (None, other),
            (b"", stored),
            octaves=(row, column),
        )
        with np.errstate(all="ignore"):
            values = (np.array(coded.symbols, np.int64) - ORIGIN).astype(np.float32).reshape(layout) * power
            if row is not None:
                values = values * _octaves(row).reshape(-1, 1, 1)
            factors = np.array(fourth, np.float32) if other else _octaves(column) if column is not None else None
            if factors is not None:
                values = values * factors.reshape(1, -1, 1)
        builder.values(name, dtype, shape, values.reshape(-1))
    return builder


def _octaves(offsets: list[int]) -> np.ndarray:
    """Return powers of two to the eighths, rounded to float32 by way of float64: none is near a tie."""
    return np.array([2.0 ** (offset / 8) for offset in offsets], np.float32)


def _scale(builder: FileBuilder, kind: str, count: int) -> tuple[bytes, np.ndarray]:
    """Return stored scales and their values."""
    if kind == "F8_E8M0":
        exponents = [120 + e for e in builder.draws.below(12, count)]
        return bytes(exponents), np.array([2.0 ** (e - 127) for e in exponents], np.float32)
    if kind == "F16":
        halves = np.array([0.5 + v / 1024 for v in builder.draws.below(1024, count)], np.float16)
        return halves.astype("<f2").tobytes(), halves.astype(np.float32)
    singles = np.array([0.5 + v / 65536 for v in builder.draws.below(65536, count)], np.float32)
    if kind == "BF16":
        words = (singles.view(np.uint32) >> 16).astype("<u2")
        return words.tobytes(), (words.astype(np.uint32) << 16).view(np.float32)
    return singles.astype("<f4").tobytes(), singles


BUILDERS = {
    "uniform": uniform,
    "joint": joint,
    "geometric": geometric,
    "codebook": codebook,
    "scales": scales,
    "octave-scales": octave_scales,
}
