"""Valid vectors at the edges of what the specification allows."""

import struct

import numpy as np

import l2codec
from l2fmt._registry import BITS, GEOMETRIC, JOINT, UNIFORM
from l2fmt.container import ResumePoints, build_resume

from .building import FileBuilder, geometric_counts

ORIGIN, ALPHABET = 7, 15
F32 = np.float32


def _uniform(builder: FileBuilder, name: str, shape: tuple[int, ...], coded, dtype: str = "F32") -> None:
    """Add one tensor of the integers that its symbols stand for."""
    builder.group([(name, dtype, shape)], UNIFORM, [ORIGIN, 1.0], [coded])
    builder.values(name, dtype, shape, np.array(coded.symbols, np.float32) - F32(ORIGIN))


def block_bits() -> FileBuilder:
    """Blocks of every length, coded by rans, range and huffman in turn; the shortest ones several to a stream."""
    builder = FileBuilder(25)
    flat = builder.tables([[16] * 16], 8, ORIGIN)
    for bits in range(8, 31):
        coder = ("rans", "range", "huffman")[bits % 3]
        count = 600 if bits < 10 else 21
        _uniform(builder, f"{coder}-{bits}", (count,), builder.coded(coder, flat, (1, count, 1), block_bits=bits))
    return builder


def blocks_of_many_lanes() -> FileBuilder:
    """Coder rans with 32 lanes and one table in two and three blocks of 256 symbols, the last one shorter."""
    builder = FileBuilder(35)
    tables = builder.tables([geometric_counts(ALPHABET, ORIGIN, 9, (1, 2))], 9, ORIGIN)
    for count in (473, 600):
        coded = builder.coded("rans", tables, (1, count, 1), lanes=32, block_bits=8)
        _uniform(builder, f"symbols-{count}", (count,), coded)
    return builder


def class_offsets() -> FileBuilder:
    """Class offsets from -128 to 127, clipped; every mask with huffman; a class set that also codes symbols."""
    builder = FileBuilder(26)
    number = builder.tables([[4] * 256, [4] * 256], 10, 128, for_classes=True)
    builder.class_set = builder.sets[number]
    tables = builder.tables([[64] * k + [256 - 64 * k] + [0] * (14 - k) for k in (0, 1, 2, 3)], 8, ORIGIN)
    dyadic = builder.tables([[128, 128] + [0] * 13, [64, 64, 128] + [0] * 12], 8, ORIGIN)
    every = list(range(-128, 128))
    for base in (0, 3):
        coded = builder.coded("rans", tables, (256, 1, 1), base=base, row=every)
        _uniform(builder, f"base-{base}", (256, 1), coded)
    vectors = {"row": [1, -1, 0], "column": [0, 127, -128, -1], "position": [-128, 0]}
    for mask in range(1, 8):
        present = {name: v for bit, (name, v) in enumerate(vectors.items()) if mask >> bit & 1}
        coded = builder.coded("huffman", dyadic, (3, 4, 2), base=1, **present)  # pyright: ignore[reportArgumentType]
        _uniform(builder, f"huffman-{mask}", (3, 4, 2), coded)
    coded = builder.coded("range", number, (1, 9, 1), base=1)
    builder.group([("bytes", "U8", (9,))], BITS, [0, 8], [coded])
    builder.words("bytes", "U8", (9,), coded.symbols)
    return builder


def alphabet_65536() -> FileBuilder:
    """The largest alphabet, larger than the sum of its counts, its symbols far apart."""
    builder = FileBuilder(27)
    for bits, share in ((8, 64), (14, 4096)):
        counts = [0] * 65536
        used = (0, 1, 40000, 65535)
        for symbol in used:
            counts[symbol] = share
        number = builder.tables([counts], bits, 40000)
        for coder in ("rans", "range", "huffman"):
            coded = builder.coded(coder, number, (1, 20, 1))
            builder.group([(f"{coder}-{bits}", "U16", (4, 5))], BITS, [0, 16], [coded])
            builder.words(f"{coder}-{bits}", "U16", (4, 5), coded.symbols)
    return builder


def quantized_groups() -> FileBuilder:
    """Quantized groups of several tensors: with a row vector, with tensors without elements, with these only."""
    builder = FileBuilder(28, class_tables=True)
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 9, (1, k)) for k in (2, 3, 4)], 9, ORIGIN)
    for dtype, coder, shapes, row in (
        ("F32", "rans", [(17,), (300,), (), (0, 4), (3, 5)], [0, 2, -1, 1, 1]),
        ("BF16", "range", [(4, 4), (1,), (9,)], [1, 0, 2]),
        ("F16", "huffman", [(0,), (5, 0)], None),
    ):
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        if coder == "huffman":
            tables = builder.tables([[128, 128]], 8, 0)
            coded = builder.coded(coder, tables, sizes, symbols=[])
        else:
            coded = builder.coded(coder, number, sizes, row=row, lanes=4 if coder == "rans" else 1)
        members = [(f"{dtype}-{i}", dtype, shape) for i, shape in enumerate(shapes)]
        builder.group(members, UNIFORM, [ORIGIN, 0.5], [coded])
        values = (np.array(coded.symbols, np.float32) - F32(ORIGIN)) * F32(0.5)
        for (name, _, shape), size in zip(members, sizes, strict=True):
            builder.values(name, dtype, shape, values[:size])
            values = values[size:]
    return builder


def signed_zeros() -> FileBuilder:
    """Grids whose negative values round to -0.0, and those whose middle is +0.0; growths of 1 and of less."""
    builder = FileBuilder(29)
    symbols = list(range(2 * ORIGIN + 1))
    for label, scale, growth in (("one", 1.0, 1.0), ("tiny", 1e-44, 1.01), ("less", 1e-44, 0.99)):
        stored, ratio = float(F32(scale)), float(F32(growth))
        power, magnitudes = 1.0, []
        for _ in range(ORIGIN + 1):
            magnitudes.append(F32(stored * (power - 1.0)))
            power *= ratio
        values = [(magnitudes[abs(s - ORIGIN)] * F32(1 if s >= ORIGIN else -1)) for s in symbols]
        builder.group([(label, "F32", (15,))], GEOMETRIC, [ORIGIN, stored, ratio], [builder.raw(symbols, 4)])
        builder.values(label, "F32", (15,), np.array(values, np.float32))
    for label, step, threshold in (("flat", 1e-45, 0.25), ("steep", 1e-45, 1e-45)):
        s, t = F32(step), F32(threshold)
        magnitudes = [F32(0), *(F32(t + F32(F32(k - 0.5) * s)) for k in range(1, ORIGIN + 1))]
        values = [magnitudes[abs(u - ORIGIN)] * F32(1 if u >= ORIGIN else -1) for u in symbols]
        builder.group([(label, "F32", (15,))], JOINT, [ORIGIN, float(s), float(t)], [builder.raw(symbols, 4)])
        builder.values(label, "F32", (15,), np.array(values, np.float32))
    return builder


def rounding() -> FileBuilder:
    """Halves of the last place, results of every size and beyond, in F16, BF16 and F64; products rounded twice."""
    builder = FileBuilder(30)
    symbols = [*builder.draws.below(1 << 12, 60), 0, 1, 2, 3, 4095, 4094]
    # Steps that make ties: half a unit of F16 at 2048, of its subnormals, of BF16 at 256; then results that overflow.
    for dtype, steps in (
        ("F16", (0.5, 2.0**-25, 16.0, 31.999)),
        ("BF16", (0.125, 2.0**-140, 2.0**116, 1.0039)),
        ("F64", (0.1, 2.0**-149)),
    ):
        for i, step in enumerate(F32(s) for s in steps):
            name = f"{dtype}-{i}"
            builder.group([(name, dtype, (6, 11))], UNIFORM, [2048, float(step)], [builder.raw(symbols, 12)])
            builder.values(name, dtype, (6, 11), (np.array(symbols, np.float32) - F32(2048)) * step)
    return builder


def scale_edges() -> FileBuilder:
    """The least and the greatest scales of every kind; products that overflow or vanish."""
    builder = FileBuilder(31)
    symbols = [0, 3, 5, 7, 1, 6, 2, 4]
    for kind, least, greatest, unpack in (
        ("F32", b"\1\0\0\0", b"\xff\xff\x7f\x7f", "<f"),
        ("F16", b"\1\0", b"\xff\x7b", "<e"),
        ("BF16", b"\1\0", b"\x7f\x7f", None),
        ("F8_E8M0", b"\0", b"\xfe", None),
    ):
        pair = [least, greatest]
        if unpack:
            factors = [struct.unpack(unpack, word)[0] for word in pair]
        elif kind == "BF16":
            factors = [struct.unpack("<f", b"\0\0" + word)[0] for word in pair]
        else:
            factors = [2.0 ** (word[0] - 127) for word in pair]
        for label, step in (("unit", 1.0), ("large", 2.0**100), ("small", 2.0**-100)):
            name = f"{kind}-{label}"
            builder.group(
                [(name, "F32", (2, 2, 2))],
                UNIFORM,
                [4, step],
                [builder.raw(symbols, 3)],
                (kind, kind),
                (b"".join(pair), b"".join(pair)),
            )
            with np.errstate(all="ignore"):
                values = ((np.array(symbols, np.float32) - F32(4)) * F32(step)).reshape(2, 2, 2)
                values = values * np.array(factors, np.float32).reshape(2, 1, 1)
                values = values * np.array(factors, np.float32).reshape(1, 2, 1)
            builder.values(name, "F32", (2, 2, 2), values.reshape(-1))
    return builder


def many_fields() -> FileBuilder:
    """Words of 64, 32 and 8 fields of a bit; booleans that are neither 0 nor 1."""
    builder = FileBuilder(32)
    cases = (("U64", 64, [0x0123456789ABCDEF, (1 << 64) - 1]), ("C64", 32, [1, 0x80000000]), ("BOOL", 8, [2, 255]))
    for dtype, bits, words in cases:
        parts = [builder.raw([word >> i & 1 for word in words], 1) for i in range(bits)]
        shape = (1,) if dtype == "C64" else (2,)
        builder.group([(dtype, dtype, shape)], BITS, [0, *[1] * bits], parts)
        builder.words(dtype, dtype, shape, words)
    return builder


def resume_lanes() -> FileBuilder:
    """Resume points at the shortest interval of 1 to 32 lanes, and an interval longer than the stream; a table set that
    nothing uses."""
    builder = FileBuilder(33)
    number = builder.tables([geometric_counts(ALPHABET, ORIGIN, 12, (1, 2))], 12, ORIGIN)
    builder.tables([[256]], 8, 0)
    records = []
    for i, lanes in enumerate((1, 2, 4, 8, 16, 32)):
        count = 2 * lanes + 1
        coded = builder.coded("rans", number, (1, count, 1), lanes=lanes)
        _uniform(builder, f"lanes-{lanes}", (count,), coded)
        interval = lanes if lanes != 16 else 1 << 20
        points = l2codec.resume_points(
            coded.data, count, builder.sets[number], lanes=lanes, block_bits=8, interval=interval
        )
        records.append(ResumePoints(i, 0, interval, points[:, 0], points[:, 1:]))
    builder.writer.add_section("resume", build_resume(records))
    return builder


def resume_empty() -> FileBuilder:
    """A `resume` section without records."""
    builder = FileBuilder(34)
    builder.group([("w", "U8", (3,))], BITS, [0, 8], [builder.raw([1, 2, 3], 8)])
    builder.words("w", "U8", (3,), [1, 2, 3])
    builder.writer.add_section("resume", b"")
    return builder


BUILDERS = {
    "block-bits-all": block_bits,
    "blocks-of-many-lanes": blocks_of_many_lanes,
    "class-offsets": class_offsets,
    "alphabet-65536": alphabet_65536,
    "quantized-groups": quantized_groups,
    "signed-zeros": signed_zeros,
    "rounding": rounding,
    "scale-edges": scale_edges,
    "many-fields": many_fields,
    "resume-lanes": resume_lanes,
    "resume-empty": resume_empty,
}
