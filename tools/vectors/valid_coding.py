"""Valid vectors of the entropy coders, tables and class vectors (spec/entropy-coding.md, spec/container.md 6, 8)."""

from typing import Any

import numpy as np

import l2codec
from l2codec import ClassMap
from l2fmt._registry import BITS, UNIFORM
from l2fmt.container import ResumePoints, build_resume

from .building import FileBuilder, dyadic_counts, geometric_counts

ORIGIN, ALPHABET = 7, 15


def _uniform(
    builder: FileBuilder, name: str, shape: tuple[int, ...], coded, *, origin: int = ORIGIN, step: float = 0.25
) -> None:
    """Add one tensor of F32 with the transform `uniform`."""
    builder.group([(name, "F32", shape)], UNIFORM, [origin, step], [coded])
    codes = np.array(coded.symbols, np.int64) - origin
    builder.values(name, "F32", shape, codes.astype(np.float32) * np.float32(step))


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) < 2:
        return (1, int(np.prod(shape, dtype=np.int64)), 1)
    return (shape[0], shape[1], int(np.prod(shape[2:], dtype=np.int64)))


def rans_lanes() -> FileBuilder:
    """Coder rans with 1 to 32 lanes, fewer symbols than lanes among them."""
    builder = FileBuilder(1)
    tables = builder.tables([geometric_counts(ALPHABET, ORIGIN, 12, (1, 2))], 12, ORIGIN)
    for lanes in (1, 2, 4, 8, 16, 32):
        for count in (lanes - 1 or 1, 100):
            coded = builder.coded("rans", tables, (1, count, 1), lanes=lanes)
            _uniform(builder, f"lanes-{lanes}-symbols-{count}", (count,), coded)
    return builder


def rans_blocks() -> FileBuilder:
    """Coder rans with several blocks: the last one full, of one symbol, and in between."""
    builder = FileBuilder(2, class_tables=True)
    tables = builder.tables([geometric_counts(ALPHABET, ORIGIN, 11, (1, k)) for k in (2, 3, 5)], 11, ORIGIN)
    for lanes, shape, block_bits in ((1, (2, 256), 8), (4, (27, 19), 8), (8, (30, 30), 9), (2, (3, 70), 30)):
        row = builder.draws.offsets(1, shape[0])
        layout = _layout(shape)
        coded = builder.coded("rans", tables, layout, base=1, row=row, lanes=lanes, block_bits=block_bits)
        _uniform(builder, f"blocks-{block_bits}-lanes-{lanes}", shape, coded)
    return builder


def probability_bits() -> FileBuilder:
    """Tables of 8 to 14 probability bits, coded by rans and by range."""
    builder = FileBuilder(3)
    for bits in range(8, 15):
        tables = builder.tables([geometric_counts(ALPHABET, ORIGIN, bits, (2, 3))], bits, ORIGIN)
        for coder in ("rans", "range"):
            _uniform(builder, f"{coder}-{bits}", (40,), builder.coded(coder, tables, (1, 40, 1)))
    return builder


def range_coder() -> FileBuilder:
    """Coder range: one block and several, one symbol, symbols that take no bits, classes."""
    builder = FileBuilder(4, class_tables=True)
    tables = builder.tables([geometric_counts(ALPHABET, ORIGIN, 12, (1, k)) for k in (2, 4)], 12, ORIGIN)
    sure = builder.tables([[0] * ORIGIN + [256] + [0] * (ALPHABET - 1 - ORIGIN)], 8, ORIGIN)
    for shape in ((1,), (2,), (33, 16), (16, 16), (3, 5, 2)):
        row, column = (builder.draws.offsets(1, n) for n in shape[:2]) if len(shape) > 1 else (None, None)
        coded = builder.coded("range", tables, _layout(shape), base=1, row=row, column=column)
        _uniform(builder, "x".join(map(str, shape)), shape, coded)
    _uniform(builder, "sure", (300,), builder.coded("range", sure, (1, 300, 1)))
    _uniform(builder, "all-of-the-least-count", (50,), builder.coded("range", tables, (1, 50, 1), symbols=[0] * 50))
    _uniform(builder, "all-of-the-last", (50,), builder.coded("range", tables, (1, 50, 1), symbols=[14] * 50))
    return builder


def huffman() -> FileBuilder:
    """Coder huffman: one block and several, code words of no bits and of 14, classes."""
    builder = FileBuilder(5, class_tables=True)
    tables = builder.tables([dyadic_counts(ALPHABET, k, 14) for k in (7, 3)], 14, ORIGIN)
    flat = builder.tables([[32] * 8], 8, 0)
    sure = builder.tables([[0, 256]], 8, 1)
    for shape in ((1,), (13,), (29, 20), (16, 16)):
        row = builder.draws.offsets(1, shape[0]) if len(shape) > 1 else None
        coded = builder.coded("huffman", tables, _layout(shape), row=row)
        _uniform(builder, "x".join(map(str, shape)), shape, coded)
    every = [s for s in range(ALPHABET) for _ in range(3)]
    _uniform(builder, "every-code-word", (45,), builder.coded("huffman", tables, (1, 45, 1), symbols=every))
    _uniform(builder, "flat", (64,), builder.coded("huffman", flat, (1, 64, 1)), origin=0)
    _uniform(builder, "no-bits", (300,), builder.coded("huffman", sure, (1, 300, 1)), origin=1)
    return builder


def class_vectors() -> FileBuilder:
    """Every mask of row, column and position vectors, with classes clipped at both ends."""
    builder = FileBuilder(6, class_tables=True)
    tables = builder.tables([geometric_counts(ALPHABET, ORIGIN, 10, (k, 10)) for k in range(2, 9)], 10, ORIGIN)
    shape = (5, 6, 3, 2)
    for mask in range(1, 8):
        vectors: dict[str, Any] = {
            name: builder.draws.offsets(reach, length)
            for bit, (name, reach, length) in enumerate((("row", 7, 5), ("column", 5, 6), ("position", 4, 6)))
            if mask >> bit & 1
        }
        coder = ("rans", "range")[mask % 2]
        coded = builder.coded(coder, tables, _layout(shape), base=mask - 1, **vectors)
        _uniform(builder, f"mask-{mask}", shape, coded)
    return builder


def class_vectors_of_groups() -> FileBuilder:
    """Groups of several tensors, whose rows are the tensors; streams with and without vectors; words of two symbols."""
    builder = FileBuilder(7, class_tables=True)
    tables = builder.tables([geometric_counts(256, o, 12, (9, 10)) for o in (20, 120, 200)], 12, 128)
    shapes = [(20,), (0, 3), (), (4, 8), (1,)]
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    low = builder.coded("rans", tables, sizes, base=1, row=[1, -1, 0, -1, 3], lanes=2)
    high = builder.coded("range", tables, sizes, base=2)
    names = [f"part-{i}" for i in range(len(shapes))]
    members = [(name, "U16", shape) for name, shape in zip(names, shapes, strict=True)]
    builder.group(members, BITS, [0, 8, 8], [low, high])
    words = [a | b << 8 for a, b in zip(low.symbols, high.symbols, strict=True)]
    for name, shape, size in zip(names, shapes, sizes, strict=True):
        builder.words(name, "U16", shape, words[:size])
        words = words[size:]
    # One tensor of C64 has one more dimension, real and imaginary parts.
    layout = (3, 4, 2)
    vectors: dict[str, Any] = {"row": [0, 1, -1], "column": [1, 0, 0, -1], "position": [1, -1]}
    parts = [builder.coded("rans", tables, layout, base=k, **(vectors if k % 2 else {})) for k in range(3)]
    parts.append(builder.raw(builder.draws.below(256, 24), 8))
    builder.group([("complex", "C64", (3, 4))], BITS, [0, 8, 8, 8, 8], parts)
    fields = zip(*(part.symbols for part in parts), strict=True)
    builder.words("complex", "C64", (3, 4), [sum(v << 8 * j for j, v in enumerate(word)) for word in fields])
    return builder


def tables() -> FileBuilder:
    """Table sets of many shapes: 64 tables, alphabets of 1 to 3000 symbols, runs of zeros, origins at the ends."""
    builder = FileBuilder(8)
    several = builder.tables([geometric_counts(3, k % 3, 8, (1, 2 + k)) for k in range(64)], 8, 0)
    for base in (0, 31, 63):
        _uniform(builder, f"64-tables-{base}", (30,), builder.coded("rans", several, (1, 30, 1), base=base), origin=1)
    one = builder.tables([[256]], 8, 0)
    _uniform(builder, "alphabet-1", (7,), builder.coded("rans", one, (1, 7, 1)), origin=0)
    for origin in (0, 9, 2999):
        counts = [0] * 3000
        for symbol in (0, 1, 5, 9, 10, 255, 256, 1024, 2048, 2999):
            counts[symbol] = 1 + symbol
        counts[9] += (1 << 14) - sum(counts)
        wide = builder.tables([counts], 14, origin)
        for coder in ("rans", "range"):
            coded = builder.coded(coder, wide, (1, 25, 1), symbols=[s for s in range(3000) if counts[s]] * 2 + [9] * 5)
            _uniform(builder, f"{coder}-alphabet-3000-origin-{origin}", (25,), coded, origin=9)
    return builder


def raw_widths() -> FileBuilder:
    """Coder raw: widths 0 to 16, narrower than the field among them."""
    builder = FileBuilder(9)
    for width in range(17):
        symbols = [s | ((1 << width) - 1 if i == 0 else 0) for i, s in enumerate(builder.draws.below(1 << width, 11))]
        builder.group([(f"width-{width}", "U16", (11,))], BITS, [0, 16], [builder.raw(symbols, width)])
        builder.words(f"width-{width}", "U16", (11,), symbols)
    return builder


def resume() -> FileBuilder:
    """A `resume` section: points of two streams, one of several blocks, between streams that have none."""
    builder = FileBuilder(10, class_tables=True)
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 12, (1, k)) for k in (2, 3)], 12, ORIGIN)
    records = []
    for i, (coder, lanes, interval) in enumerate((("rans", 4, 64), ("range", 1, 0), ("rans", 1, 100), ("rans", 2, 0))):
        row = builder.draws.offsets(1, 23)
        coded = builder.coded(coder, number, (23, 25, 1), row=row, lanes=lanes)
        _uniform(builder, f"{coder}-{i}", (23, 25), coded)
        if interval:
            classes = ClassMap((23, 25, 1), 2, 0, np.array(row, np.int8))
            layout = {"lanes": lanes, "block_bits": 8, "interval": interval}
            points = l2codec.resume_points(coded.data, 575, builder.sets[number], classes, **layout)
            records.append(ResumePoints(i, 0, interval, points[:, 0], points[:, 1:]))
    builder.writer.add_section("resume", build_resume(records))
    return builder


BUILDERS = {
    "rans-lanes": rans_lanes,
    "rans-blocks": rans_blocks,
    "probability-bits": probability_bits,
    "range": range_coder,
    "huffman": huffman,
    "class-vectors": class_vectors,
    "class-vectors-of-groups": class_vectors_of_groups,
    "tables": tables,
    "raw-widths": raw_widths,
    "resume": resume,
}
