"""The files that break one rule each: what the rule is, and the code of the refusal (spec/security.md 5)."""

import struct
import zlib
from collections.abc import Callable

from l2fmt._registry import CODEBOOK, UNIFORM

from . import breaking
from .breaking import edited, quantized, sound, stream, table_bytes
from .building import changed_header

CORRUPT, LIMIT, UNSUPPORTED = "corrupt", "limit", "unsupported"
THREE = struct.pack("<fff", 0.5, 1, 2)

# Groups of the sound file: 0 coded, 1 x + y; its table sets: 0 of class vectors, 1 of symbols.
Entry = tuple[str, str, Callable[[], bytes]]
HEADER: dict[str, Entry] = {
    "magic": ("the magic", CORRUPT, lambda: b"\x89L2D" + sound()[4:]),
    "empty-file": ("a file has a header", CORRUPT, lambda: b""),
    "header-checksum": ("the checksum of the header", CORRUPT, lambda: sound()[:44] + bytes(4) + sound()[48:]),
    "major-version": ("a major version that is not known", UNSUPPORTED, lambda: changed_header(sound(), major=1)),
    "required-feature": (
        "a required feature that is not known",
        UNSUPPORTED,
        lambda: changed_header(sound(), required=2),
    ),
    "reserved": ("the reserved field is 0", CORRUPT, lambda: _reserved(sound())),
    "truncated": ("the length of the file: a byte is missing", CORRUPT, lambda: sound()[:-1]),
    "appended": ("the length of the file: a byte is too many", CORRUPT, lambda: sound() + b"\0"),
    "index-checksum": ("the checksum of the index", CORRUPT, lambda: changed_header(sound(), index_checksum=1)),
    "index-too-large": (
        "an index that inflates to 4 GiB",
        LIMIT,
        lambda: breaking.deflated(zlib.compress(b"\x80"), (1 << 32) - 1),
    ),
    "index-longer-than-claimed": (
        "an index inflates to its length",
        CORRUPT,
        lambda: breaking.deflated_index(missing=1),
    ),
    "index-then-more": (
        "nothing follows the zlib stream of the index",
        CORRUPT,
        lambda: breaking.deflated_index(b"\0"),
    ),
}
INDEX: dict[str, Entry] = {
    "integer-not-shortest": (
        "integers in their shortest encoding",
        CORRUPT,
        lambda: breaking.index_replaced(b"\xa1x\x01\x91\x02\x01", b"\xa1x\x01\x91\xcc\x02\x01"),
    ),
    "keys-not-sorted": (
        "maps sorted by key",
        CORRUPT,
        lambda: edited((("metadata",), {"b": "", "a": ""})),
    ),
    "key-missing": (
        "the keys of the index",
        CORRUPT,
        lambda: breaking.index_replaced(b"\xa7aliases\x81", b"\xa7alias_s\x81"),
    ),
    "double-float": (
        "floats of 32 bits only",
        CORRUPT,
        lambda: breaking.index_replaced(b"\x92\x02\xca\x3f\0\0\0", b"\x92\x02\xcb\x3f\xe0\0\0\0\0\0\0"),
    ),
    "name-twice": ("distinct names", CORRUPT, lambda: edited((("tensors", 1, 0), "coded"))),
    "name-empty": ("names are not empty", CORRUPT, lambda: edited((("tensors", 1, 0), ""))),
    "name-with-control-character": (
        "no control characters in names",
        CORRUPT,
        lambda: edited((("tensors", 2, 0), "y\n")),
    ),
    "alias-of-alias": (
        "an alias names a tensor",
        CORRUPT,
        lambda: edited((("aliases",), {"tied": "tied2", "tied2": "x"})),
    ),
    "dtype": (
        "a dtype that is not known",
        UNSUPPORTED,
        lambda: edited((("tensors", 1, 1), 1000), (("tensors", 2, 1), 1000)),
    ),
    "transform": ("a transform that is not known", UNSUPPORTED, lambda: edited((("groups", 0, 0), 5))),
    "coder": ("a coder that is not known", UNSUPPORTED, lambda: edited((("groups", 0, 3, 0, 0), 4))),
    "dtypes-in-group": ("one dtype in a group", CORRUPT, lambda: edited((("tensors", 2, 1), 2))),
    "shape-too-large": (
        "dimensions below 2^63 bytes",
        CORRUPT,
        lambda: edited((("tensors", 0, 2), [1 << 47, 1 << 47])),
    ),
    "decoded-too-large": ("2^47 bytes of decoded tensors", LIMIT, breaking.bomb),
    "tables-too-large": ("24 MiB of expanded tables", LIMIT, breaking.many_tables),
    "group-number": ("a group exists", CORRUPT, lambda: edited((("tensors", 2, 3), 2))),
    "table-set-number": ("a table set exists", CORRUPT, lambda: edited((("groups", 0, 3, 0, 2), 2))),
    "class-base": (
        "the class base is below the number of tables",
        CORRUPT,
        lambda: edited((("groups", 0, 3, 0, 3), 2)),
    ),
    "class-set-missing": ("a class set where there are class vectors", CORRUPT, lambda: edited((("class_set",), None))),
    "class-set-tables": ("prefix codes for class vectors", CORRUPT, lambda: edited((("class_set",), 1))),
    "lane-bits": ("at most 32 lanes", CORRUPT, lambda: edited((("groups", 0, 3, 0, 6), 6))),
    "lanes-of-range": (
        "lanes are for rans only",
        CORRUPT,
        lambda: edited((("groups", 0, 3, 0, 0), 2), (("groups", 0, 3, 0, 6), 1)),
    ),
    "raw-length": ("the length of a raw stream", CORRUPT, lambda: edited((("tensors", 2, 2), [2]))),
    "field-widths": ("the fields of a word fill it", CORRUPT, lambda: edited((("groups", 1, 1), [1, 8]))),
    "step-negative": ("a step is positive", CORRUPT, lambda: edited((("groups", 0, 1, 1), -0.5))),
    "quantized-integers": ("only floats are quantized", CORRUPT, lambda: edited((("tensors", 0, 1), 6))),
    "scale-dtype": ("the dtypes of scales", CORRUPT, lambda: edited((("groups", 0, 2, 0), 6))),
    "section-twice": (
        "distinct kinds of sections",
        CORRUPT,
        lambda: edited((("sections",), [["note", 5, 0], ["note", 5, 0]])),
    ),
    "gap": ("the parts fill the file", CORRUPT, lambda: edited((("sections",), []))),
}
PAYLOAD: dict[str, Entry] = {
    "group-checksum": ("the checksum of a group", CORRUPT, lambda: edited((("groups", 0, 5), 0))),
    "section-checksum": ("the checksum of a section", CORRUPT, lambda: edited((("sections", 0, 2), 0))),
    "stream-padding": (
        "zero bytes after a stream",
        CORRUPT,
        lambda: edited((("groups", 1, 5), zlib.crc32(b"\1\2\3\4")), data=_last_padding(sound(), 4)),
    ),
    "class-bytes": ("unused bits of class vectors are zero", CORRUPT, lambda: breaking.group_bytes(-1, 1)),
    "scale-not-positive": (
        "scales are positive",
        CORRUPT,
        lambda: quantized(UNIFORM, [0, 1.0], [0] * 4, scale=("F16", bytes(4))),
    ),
    "scale-nan": (
        "scales are finite",
        CORRUPT,
        lambda: quantized(UNIFORM, [0, 1.0], [0] * 4, scale=("F8_E8M0", b"\x7f\xff")),
    ),
    "value-not-finite": ("the codebook is finite", CORRUPT, lambda: quantized(UNIFORM, [0, 2.0**127], [0, 1, 2, 1])),
    "symbol-beyond-codebook": (
        "a codebook has a value for every symbol",
        CORRUPT,
        lambda: quantized(CODEBOOK, [THREE], [0, 1, 2, 3]),
    ),
    "table-count": ("a count is at most what remains", CORRUPT, lambda: table_bytes(300, 9, 2)),
    "table-ends": ("counts add up", CORRUPT, lambda: table_bytes(1 | 1 << 9, 17, 2)),
    "table-run": ("runs of zeros are maximal", CORRUPT, lambda: table_bytes(1 << 9 | 1 << 19 | 1 << 28, 29, 4)),
    "table-bits": ("unused bits of tables are zero", CORRUPT, lambda: table_bytes(256 | 1 << 15, 16, 2)),
    "table-bytes": ("no bytes follow the tables", CORRUPT, lambda: table_bytes(256, 24, 2)),
    "raw-padding": (
        "unused bits of raw are zero",
        CORRUPT,
        lambda: stream("raw", lambda d: d[:-1] + bytes([d[-1] | 128])),
    ),
    "rans-state": (
        "a stored state is at least 2^16",
        CORRUPT,
        lambda: stream("rans", lambda d: b"\xff\xff\0\0" + d[4:]),
    ),
    "rans-final-state": (
        "the last state is 2^16",
        CORRUPT,
        lambda: stream("rans", lambda d: d[:-1] + bytes([d[-1] ^ 1])),
    ),
    "rans-word-left": ("every word is read", CORRUPT, lambda: stream("rans", lambda d: d + b"\0\0")),
    "rans-word-missing": ("no word is missing", CORRUPT, lambda: stream("rans", lambda d: d[:-2])),
    "rans-odd-byte": ("words have two bytes", CORRUPT, lambda: stream("rans", lambda d: d + b"\0")),
    "range-interval": (
        "a range stays within its interval",
        CORRUPT,
        lambda: stream("range", lambda d: b"\xff" * len(d)),
    ),
    "range-words": ("the number of words of a range block", CORRUPT, lambda: stream("range", lambda d: d + bytes(8))),
    "huffman-padding": (
        "unused bits of huffman are zero",
        CORRUPT,
        lambda: stream("huffman", lambda d: d[:-1] + bytes([d[-1] | 1])),
    ),
    "huffman-byte-left": ("no byte follows the code words", CORRUPT, lambda: stream("huffman", lambda d: d + b"\0")),
    "huffman-byte-missing": ("no byte is missing", CORRUPT, lambda: stream("huffman", lambda d: d[:-1])),
    "huffman-tables": ("huffman has dyadic tables", CORRUPT, lambda: _huffman_with_other_tables()),
    "block-lengths": ("block lengths add up", CORRUPT, lambda: stream("rans", _longer_first_block, 300)),
    "resume-position": ("resume points are where the stream passes", CORRUPT, lambda: breaking.resume_points(1, 0, 1)),
    "resume-state": ("states of resume points are at least 2^16", CORRUPT, lambda: breaking.resume_points(0, 2, 65535)),
}
FILES = HEADER | INDEX | PAYLOAD


def _reserved(data: bytes) -> bytes:
    head = data[:40] + b"\1\0\0\0"
    return head + struct.pack("<I", zlib.crc32(head)) + data[48:]


def _last_padding(data: bytes, value: int) -> bytes:
    """Set the padding byte of the second group, which lies before the section."""
    at = len(data) - len(b"for nobody") - 1
    return data[:at] + bytes([value]) + data[at + 1 :]


def _longer_first_block(data: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", data)
    return struct.pack("<I", length + len(data)) + data[4:]


def _huffman_with_other_tables() -> bytes:
    return edited((("groups", 0, 3, 0, 0), 3), data=stream("rans", lambda data: data))
