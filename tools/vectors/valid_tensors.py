"""Valid vectors of transforms, dtypes and the container (spec/transforms.md, spec/container.md)."""

from collections.abc import Callable

import numpy as np

from l2fmt._registry import BITS, CODEBOOK, GEOMETRIC, JOINT, UNIFORM
from l2fmt.dtypes import DTYPES

from .building import Coded, FileBuilder, changed_header, geometric_counts

FLOATS = ("F32", "F16", "BF16", "F64")
ORIGIN, ALPHABET = 9, 19
F32 = np.float32


def _quantized(
    builder: FileBuilder, transform: int, parameters: list[float], value: Callable[[int], np.float32], label: str
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
    """Transform uniform: ordinary steps, one whose values overflow F16, one of subnormal values."""
    builder = FileBuilder(11)
    for label, step in (("small", F32(0.013)), ("large", F32(9000.7)), ("subnormal", F32(1e-44)), ("huge", F32(3e37))):
        _quantized(builder, UNIFORM, [step], lambda q, step=step: F32(q) * step, label)
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
    for label, scale, growth in (("wide", F32(0.02), F32(1.7)), ("near", F32(3), F32(1.001)), ("less", F32(1), F32(0.6))):

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
    pairs = [(kind, None) for kind in kinds] + [(None, kind) for kind in kinds] + list(zip(kinds, kinds[::-1], strict=True))
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


# Bit patterns that a careless reader changes: zeros, subnormals, extremes, infinities, quiet and signalling NaNs.
EDGES = {
    "F16": [0, 0x8000, 1, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF, 0x3C00],
    "BF16": [0, 0x8000, 1, 0x807F, 0x0080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF, 0x3F80],
    "F32": [0, 1 << 31, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001]
    + [0xFFFFFFFF, 0x3F800000, 0x12345678],
    "F64": [0, 1 << 63, 1, 0x800FFFFFFFFFFFFF, 1 << 52, 0x7FEFFFFFFFFFFFFF, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48]
    + [(0x7FF << 52) + 1, (1 << 64) - 1, 0x3FF << 52, 0x0123456789ABCDEF],
}
EDGES["C64"] = [*EDGES["F32"], 0x7FC00001]


def _plain(builder: FileBuilder, name: str, dtype: str, shape: tuple[int, ...], words: list[int], widths: list[int]) -> None:
    """Add a tensor without loss, the fields of its words raw."""
    streams, shift = [], 0
    for width in widths:
        streams.append(builder.raw([word >> shift & (1 << width) - 1 for word in words], width))
        shift += width
    builder.group([(name, dtype, shape)], BITS, [0, *widths], streams)
    builder.words(name, dtype, shape, words)


def floats() -> FileBuilder:
    """Floats of 16 bits and more without loss, cut into fields in two ways, their last field coded in one of them."""
    builder = FileBuilder(16)
    cuts = {
        "F16": ([10, 6], [16]),
        "BF16": ([7, 9], [1, 15]),
        "F32": ([8, 8, 7, 9], [16, 16]),
        "C64": ([8, 8, 7, 9], [3, 13, 16]),
        "F64": ([8, 8, 8, 8, 8, 8, 4, 12], [16, 16, 16, 16]),
    }
    for dtype, words in EDGES.items():
        for i, widths in enumerate(cuts[dtype]):
            shape = (len(words) // DTYPES[dtype].words,)
            if i:
                _plain(builder, f"{dtype}-{i}", dtype, shape, words, widths)
                continue
            counts = [0] * (1 << widths[-1])
            for word in words:
                counts[word >> DTYPES[dtype].word_bits - widths[-1]] += 1
            counts[0] += 256 - len(words)
            number = builder.tables([counts], 8, 0)
            shift, parts = 0, []
            for width in widths:
                field = [word >> shift & (1 << width) - 1 for word in words]
                last = shift + width == DTYPES[dtype].word_bits
                layout = (*shape, 2, 1) if dtype == "C64" else (1, len(field), 1)
                coded = builder.coded("rans", number, layout, symbols=field) if last else builder.raw(field, width)
                parts.append(coded)
                shift += width
            builder.group([(f"{dtype}-{i}", dtype, shape)], BITS, [0, *widths], parts)
            builder.words(f"{dtype}-{i}", dtype, shape, words)
    return builder


def eight_bit_floats() -> FileBuilder:
    """Every bit pattern of every float of 8 bits."""
    builder = FileBuilder(17)
    for dtype in (name for name in DTYPES if name.startswith("F8")):
        _plain(builder, dtype, dtype, (16, 16), list(range(256)), [8])
    return builder


def integers() -> FileBuilder:
    """Integers of every kind at their ends, and booleans."""
    builder = FileBuilder(18)
    for dtype, kind in ((name, dtype) for name, dtype in DTYPES.items() if dtype.kind in ("int", "uint", "bool")):
        bits = kind.bits
        words = [0, 1, 1, 0, 1] if dtype == "BOOL" else [0, 1, (1 << bits) - 1, 1 << bits - 1, (1 << bits - 1) - 1, 77]
        widths = {8: [8], 16: [5, 11], 32: [16, 16], 64: [16, 16, 16, 16]}[bits]
        _plain(builder, dtype, dtype, (len(words),), words, [8] if dtype == "BOOL" else widths)
    return builder


def dropped_bits() -> FileBuilder:
    """Words without their low bits, up to all of their mantissa but one, and more than that."""
    builder = FileBuilder(19)
    for dtype, drop, widths in (
        ("F32", 18, [5, 9]),
        ("F32", 22, [10]),
        ("F32", 31, [1]),
        ("F16", 5, [5, 6]),
        ("BF16", 2, [5, 9]),
        ("F64", 44, [8, 12]),
        ("C64", 18, [14]),
        ("U32", 16, [16]),
    ):
        total = sum(widths)
        fields = [[v | 1 for v in builder.draws.below(1 << width, 12)] for width in widths]
        parts = [builder.raw(field, width) for field, width in zip(fields, widths, strict=True)]
        name, shape = f"{dtype}-{drop}", (12 // DTYPES[dtype].words,)
        builder.group([(name, dtype, shape)], BITS, [drop, *widths], parts)
        assert drop + total == DTYPES[dtype].word_bits
        words = [0] * 12
        for field, width in zip(reversed(fields), reversed(widths), strict=True):
            words = [word << width | value for word, value in zip(words, field, strict=True)]
        builder.words(name, dtype, shape, [word << drop for word in words])
    return builder


def shapes() -> FileBuilder:
    """Tensors without dimensions, without elements, with 2^48 rows of nothing, and with 32 dimensions."""
    builder = FileBuilder(20)
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 10, (2, 3))], 10, ORIGIN)
    for i, shape in enumerate([(), (1,), (0,), (0, 5), (5, 0, 3), (1 << 48, 0), (0, 1 << 48), (1,) * 32, (2, 1) * 3]):
        count = int(np.prod(shape, dtype=object))
        rows, columns = (shape[0], shape[1]) if len(shape) > 1 else (1, count)
        positions = int(np.prod(shape[2:], dtype=object))
        symbols = builder.draws.below(ALPHABET, count)
        for coder in ("rans", "range"):
            layout = (rows, columns, positions) if count else (0, 0, 0)
            coded = builder.coded(coder, number, layout, symbols=symbols)
            builder.group([(f"{coder}-{i}", "F16", shape)], UNIFORM, [ORIGIN, 1.0], [coded])
            builder.values(f"{coder}-{i}", "F16", shape, np.array(symbols, np.float32) - ORIGIN)
        _plain(builder, f"raw-{i}", "I16", shape, symbols, [16])
    return builder


def names() -> FileBuilder:
    """Aliases, metadata, names of all kinds, and tensors in another order than their groups."""
    builder = FileBuilder(21, {"author": "nobody", "": "an empty key", "Ünïcode ☃": "naïve 🙂\n\t"})
    order = ["z", "a/../b", "☃", "x" * 1024, " "]
    for name in sorted(order):
        _plain(builder, name, "U8", (3,), builder.draws.below(256, 3), [8])
    builder.writer.order(order)
    for alias, name in (("tied", "z"), ("also tied", "z"), ("A", "☃")):
        builder.writer.add_alias(alias, name)
    return builder


def no_tensors() -> FileBuilder:
    """The smallest file."""
    return FileBuilder(22)


def deflated() -> FileBuilder:
    """An index that is deflated; all other vectors have theirs plain."""
    builder = FileBuilder(23, {"comment": "words that repeat " * 5})
    for i in range(20):
        _plain(builder, f"layer.{i}.norm.running_mean", "F16", (4,), builder.draws.below(1 << 16, 4), [10, 6])
    return builder


def newer_minor_version() -> FileBuilder:
    """What a later minor version may add and an old reader ignores: its number, optional features, sections."""
    builder = FileBuilder(24)
    _plain(builder, "weight", "F32", (2,), [0x3F800000, 0xBF800000], [16, 16])
    builder.writer.add_section("not known yet", b"anything at all")
    builder.writer.add_section("empty", b"")
    return builder


def _with_newer_header(data: bytes) -> bytes:
    return changed_header(data, minor=77, optional=0x80000005)


BUILDERS = {
    "uniform": uniform,
    "joint": joint,
    "geometric": geometric,
    "codebook": codebook,
    "scales": scales,
    "floats": floats,
    "8-bit-floats": eight_bit_floats,
    "integers": integers,
    "dropped-bits": dropped_bits,
    "shapes": shapes,
    "names": names,
    "no-tensors": no_tensors,
    "deflated": deflated,
    "newer-minor-version": newer_minor_version,
}
DEFLATED = {"deflated"}
CHANGED = {"newer-minor-version": _with_newer_header}
