"""More files that break one rule each: of transforms, scales, coders and resume points (spec/transforms.md,
spec/entropy-coding.md, spec/container.md 8)."""

import struct
import zlib
from collections.abc import Callable

from l2fmt._registry import BITS, CODEBOOK, GEOMETRIC, JOINT, UNIFORM

from .breaking import changed_group, edited, quantized, split, stream, table_bytes
from .building import FileBuilder
from .invalid import CORRUPT, Entry
from .valid_coding import resume

FIVE = struct.pack("<5f", -1, -0.5, 0, 0.5, 1)

TRANSFORMS: dict[str, Entry] = {
    "quantized-streams": (
        "a quantized group has one stream",
        CORRUPT,
        lambda: edited((("groups", 0, 3), [[0, 2, 3], [0, 0, 0]]), data=_quantized()),
    ),
    "value-of-table-not-finite": (
        "values of symbols with a count are finite",
        CORRUPT,
        lambda: edited((("groups", 0, 1, 1), 2.0**127), data=_coded()),
    ),
    "field-missing": ("a word has a field", CORRUPT, lambda: _field_missing()),
    "field-width-0": ("a field has a bit", CORRUPT, lambda: _fields([0, 0, 8], [1, 7], [0] * 4, streams=[0, 7])),
    "field-width-17": (
        "a field has at most 16 bits",
        CORRUPT,
        lambda: _fields([0, 15, 17], [16, 16], [1, 2, 3, 4], "U32", streams=[15, 16]),
    ),
    "field-without-stream": (
        "every field has a stream",
        CORRUPT,
        lambda: _fields([0, 4, 4], [8], [1, 2, 3, 4], streams=[4]),
    ),
    "field-of-raw": (
        "a raw stream fits its field",
        CORRUPT,
        lambda: _fields([0, 7, 9], [8, 8], [1, 2, 3, 4], "U16"),
    ),
    "field-of-alphabet": ("an alphabet fits its field", CORRUPT, lambda: _field_of_alphabet()),
    "bits-with-scales": (
        "transform bits has no scales",
        CORRUPT,
        lambda: changed_group(_fields([0, 8], [8], [1, 2, 3, 4]), lambda data: data + b"\x7f\x7f", scales=[18, None]),
    ),
    "parameter-missing": (
        "the number of parameters",
        CORRUPT,
        lambda: edited((("groups", 0, 1), [0]), data=_quantized()),
    ),
    "step-integer": (
        "a step is a float",
        CORRUPT,
        lambda: edited((("groups", 0, 1, 1), 1), data=_quantized()),
    ),
    "step-zero": ("a step is not 0", CORRUPT, lambda: edited((("groups", 0, 1, 1), 0.0), data=_quantized())),
    "offset-too-large": (
        "an offset is below 65536",
        CORRUPT,
        lambda: edited((("groups", 0, 1, 0), 65536), data=_quantized()),
    ),
    "threshold-zero": (
        "a threshold is positive",
        CORRUPT,
        lambda: edited((("groups", 0, 0), JOINT), (("groups", 0, 1), [0, 1.0, 0.0]), data=_quantized()),
    ),
    "growth-negative": (
        "a growth is positive",
        CORRUPT,
        lambda: edited((("groups", 0, 0), GEOMETRIC), (("groups", 0, 1), [0, 1.0, -2.0]), data=_quantized()),
    ),
    "codebook-of-alphabet": ("a codebook as long as the alphabet", CORRUPT, lambda: _codebook(FIVE[:16], _coded())),
    "codebook-too-long": ("a codebook of at most 2^width", CORRUPT, lambda: _codebook(FIVE * 2)),
    "codebook-empty": (
        "a codebook has a value",
        CORRUPT,
        lambda: _codebook(b"", changed_group(_quantized(), lambda _: b"", streams=[[0, 0, 0]])),
    ),
    "codebook-bytes": ("values of 4 bytes", CORRUPT, lambda: _codebook(FIVE[:-1])),
    "codebook-not-finite": (
        "values of a codebook are finite",
        CORRUPT,
        lambda: _codebook(FIVE + struct.pack("<f", float("-inf"))),
    ),
    "scales-of-vector": (
        "scales are for two dimensions or more",
        CORRUPT,
        lambda: changed_group(
            edited((("tensors", 0, 2), [4]), data=_quantized()), lambda data: data + b"\x7f" * 4, scales=[18, None]
        ),
    ),
    "scales-of-nothing": (
        "no scales without elements",
        CORRUPT,
        lambda: edited(
            (("tensors", 0, 2), [0, 2]), (("groups", 0, 2), [18, None]), data=quantized(UNIFORM, [0, 1.0], [])
        ),
    ),
    "octaves-without-tables": (
        "a class set where there are octave scales",
        CORRUPT,
        lambda: edited((("class_set",), None), data=_octaves()),
    ),
    "octaves-two-tables": ("a table for octave scales", CORRUPT, lambda: edited((("class_set",), 1), data=_octaves())),
    "octaves-none": (
        "no table for octave scales where there are none",
        CORRUPT,
        lambda: changed_group(_octaves(row=[0, 1]), lambda data: data[:-1], scales=[None, None], class_bytes=1),
    ),
    "octaves-missing": (
        "all octave scales are there",
        CORRUPT,
        lambda: changed_group(_octaves(), lambda data: data[:-1], class_bytes=0),
    ),
    "scale-infinite": (
        "a scale is finite",
        CORRUPT,
        lambda: quantized(UNIFORM, [0, 1.0], [0] * 4, scale=("F32", struct.pack("<2f", 1, float("inf")))),
    ),
}
CODERS: dict[str, Entry] = {
    "table-cut": ("tables have all their bits", CORRUPT, lambda: table_bytes(128, 16, 2)),
    "table-run-too-long": ("runs of zeros lie in the alphabet", CORRUPT, lambda: table_bytes(1 << 14 | 7 << 15, 48, 4)),
    "table-run-endless": ("the code of a run ends", CORRUPT, lambda: table_bytes(0, 48, 4)),
    "empty-stream": (
        "a stream of no symbols is empty",
        CORRUPT,
        lambda: changed_group(_empty(), lambda _: b"\0\0\1\0", streams=[[1, 4, 0, 0, 0, 8, 0]]),
    ),
    "block-lengths-cut": ("every block has a length", CORRUPT, lambda: stream("rans", lambda d: d[:4], 300)),
    "rans-states-cut": ("every lane has a state", CORRUPT, lambda: stream("rans", lambda d: d[:6], lanes=2)),
    "rans-unused-lane": (
        "the state of a lane without symbols is 2^16",
        CORRUPT,
        lambda: stream("rans", lambda d: d[:60] + b"\1" + d[61:], lanes=16),
    ),
    "range-odd-byte": ("words have four bytes", CORRUPT, lambda: stream("range", lambda d: d + b"\0")),
    "range-words-missing": ("no word is missing", CORRUPT, lambda: stream("range", lambda d: d[:-4], 100)),
    "range-no-words": ("symbols have a word", CORRUPT, lambda: stream("range", lambda _: b"")),
    "range-end": (
        "the number of a block ends below 2^33",
        CORRUPT,
        lambda: stream("range", lambda d: d[:-4] + struct.pack("<I", struct.unpack("<I", d[-4:])[0] + 3)),
    ),
}
# Two records: 6 points of group 0, of 4 lanes, and 4 points of group 2, which has one; group 1 is coded by range.
FIRST, SECOND = slice(0, 16 + 6 * 20), slice(16 + 6 * 20, 16 + 6 * 20 + 16 + 4 * 8)
RESUME: dict[str, Entry] = {
    "resume-order": ("records in ascending order", CORRUPT, lambda: _resumed(lambda d: d[SECOND] + d[FIRST])),
    "resume-twice": ("one record for a stream", CORRUPT, lambda: _resumed(lambda d: d[FIRST] + d)),
    "resume-group": ("the group of a record exists", CORRUPT, lambda: _resumed(lambda d: d + _record(9, 0, 64, 0))),
    "resume-stream": ("the stream of a record exists", CORRUPT, lambda: _resumed(lambda d: d + _record(2, 1, 64, 0))),
    "resume-coder": ("records are of rans streams", CORRUPT, lambda: _resumed(lambda _: _record(1, 0, 256, 0))),
    "resume-interval": (
        "an interval is a multiple of the lanes",
        CORRUPT,
        lambda: _resumed(lambda d: _record(0, 0, 66, 6) + d[16:]),
    ),
    "resume-interval-0": ("an interval is not 0", CORRUPT, lambda: _resumed(lambda _: _record(0, 0, 0, 0))),
    "resume-count": (
        "a point at every multiple of the interval",
        CORRUPT,
        lambda: _resumed(lambda d: _record(0, 0, 64, 5) + d[16 : FIRST.stop - 20]),
    ),
    "resume-head-cut": ("records have a head", CORRUPT, lambda: _resumed(lambda d: d + _record(2, 0, 64, 0)[:12])),
    "resume-cut": ("records are whole", CORRUPT, lambda: _resumed(lambda d: d[:-4])),
}
FILES = TRANSFORMS | CODERS | RESUME


def _quantized() -> bytes:
    """Return a valid file of one tensor of shape (2, 2), its symbols raw, of 3 bits."""
    return quantized(UNIFORM, [0, 1.0], [1, 2, 3, 0])


def _coded() -> bytes:
    """Return a valid file of one stream with an alphabet of 5."""
    return stream("rans", lambda data: data)


def _codebook(values: bytes, data: bytes | None = None) -> bytes:
    data = _quantized() if data is None else data
    return edited((("groups", 0, 0), CODEBOOK), (("groups", 0, 1), [values]), data=data)


def _fields(
    said: list[int], fields: list[int], symbols: list[int], dtype: str = "U8", *, streams: list[int] | None = None
) -> bytes:
    """Return a file of one tensor in two columns that has `fields` and raw streams of these widths, or of other ones;
    its parameters are `said` to be others.
    """
    builder = FileBuilder(86)
    parts = [builder.raw([s & (1 << width) - 1 for s in symbols], width) for width in streams or fields]
    parts += [builder.raw([0] * len(symbols), 0)] * (len(fields) - len(parts))
    builder.group([("w", dtype, (len(symbols) // 2, 2))], BITS, [0, *fields], parts)
    return edited((("groups", 0, 1), said), data=builder.finish())


def _field_missing() -> bytes:
    return edited((("groups", 0, 1), [8]), (("groups", 0, 3), []), data=_fields([0, 8], [8], []))


def _field_of_alphabet() -> bytes:
    builder = FileBuilder(85)
    number = builder.tables([[64, 64, 64, 32, 32]], 8, 0)
    parts = [builder.coded("rans", number, (1, 4, 1)), builder.raw([1, 2, 3, 4], 5)]
    builder.group([("w", "U8", (4,))], BITS, [0, 3, 5], parts)
    return edited((("groups", 0, 1), [0, 2, 6]), data=builder.finish())


def _octaves(row: list[int] | None = None) -> bytes:
    """Return a valid file of one tensor with octave scales for its two rows, and a second set of two dyadic tables."""
    builder = FileBuilder(83, octaves=True)
    number = builder.tables([[128, 128], [64, 192]] if row else [[128, 128], [128, 128]], 8, 0)
    coded = builder.coded("rans", number, (2, 2, 1), symbols=[0, 1, 1, 0], row=row)
    builder.group([("w", "F32", (2, 2))], UNIFORM, [0, 1.0], [coded], octaves=([0, 1], None))
    return builder.finish()


def _empty() -> bytes:
    builder = FileBuilder(84)
    number = builder.tables([[128, 128]], 8, 0)
    builder.group([("w", "F32", (0,))], UNIFORM, [0, 1.0], [builder.coded("rans", number, (0, 0, 0), symbols=[])])
    return builder.finish()


def _record(group: int, number: int, interval: int, count: int) -> bytes:
    return struct.pack("<4I", group, number, interval, count)


def _resumed(change: Callable[[bytes], bytes]) -> bytes:
    """Return the vector `resume` with other bytes in its section."""
    data = resume().finish()
    payload = split(data)[1]
    content = change(payload[-SECOND.stop :])
    entry = ["resume", len(content), zlib.crc32(content)]
    return edited((("sections",), [entry]), data=data, payload=payload[: -SECOND.stop] + content)
