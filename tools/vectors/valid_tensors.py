"""Valid vectors of dtypes, shapes and the container (spec/transforms.md 2, spec/container.md)."""

import numpy as np

from l2fmt._registry import BITS, UNIFORM
from l2fmt.dtypes import DTYPES

from .building import FileBuilder, changed_header, geometric_counts

ORIGIN, ALPHABET = 9, 19

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


def _plain(
    builder: FileBuilder, name: str, dtype: str, shape: tuple[int, ...], words: list[int], widths: list[int]
) -> None:
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
    """Every bit pattern of the floats of 8 bits, and of pairs of 4."""
    builder = FileBuilder(17)
    for dtype in ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F4_X2"):
        _plain(builder, dtype, dtype, (16, 16), list(range(256)), [8])
    return builder


def integers() -> FileBuilder:
    """Integers of every kind at their ends, and booleans."""
    builder = FileBuilder(18)
    for dtype in ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"):
        bits = DTYPES[dtype].bits
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
