"""More files that break one rule each: of the header and the index (spec/container.md 2 to 6)."""

import struct
import zlib

import msgpack

from l2codec import FrequencyTable, TableSet
from l2fmt._registry import BITS, UNIFORM

from .breaking import COUNTS, changed_group, edited, index_replaced, sound, split
from .building import FileBuilder, assembled, changed_header
from .invalid import CORRUPT, LIMIT, UNSUPPORTED, Entry
from .valid_coding import class_vectors_of_groups

X = b"\xa1x\x01\x91\x02\x01"  # the entry of tensor x in the sound file, after the byte of its array
AUTHOR = b"\x81\xa6author\xa6nobody"
CLASS_SET = b"\xa9class_set\x00"

HEADER: dict[str, Entry] = {
    "header-cut": ("a header has 48 bytes", CORRUPT, lambda: sound()[:47]),
    "index-lengths": (
        "an index that is not deflated has one length",
        CORRUPT,
        lambda: changed_header(sound(), inflated_index_length=1),
    ),
    "index-beyond-file": (
        "the index lies in the file",
        CORRUPT,
        lambda: changed_header(sound(), index_length=10000, inflated_index_length=10000),
    ),
    "order-checksum-version": (
        "the header checksum comes before the version",
        CORRUPT,
        lambda: _with_checksum(changed_header(sound(), major=1), 0),
    ),
    "order-feature-reserved": (
        "features come before the reserved field",
        UNSUPPORTED,
        lambda: _reserved(changed_header(sound(), required=2)),
    ),
    "order-reserved-limit": (
        "the reserved field comes before the limits",
        CORRUPT,
        lambda: _reserved(_claimed_index_bytes((1 << 26) + 1)),
    ),
    "order-limit-length": (
        "limits come before the length of the file",
        LIMIT,
        lambda: _claimed_index_bytes((1 << 26) + 1),
    ),
    "index-shorter-than-claimed": (
        "an index inflates to its length, not to less",
        CORRUPT,
        lambda: _stored_as_zlib(longer=1),
    ),
    "index-stream-cut": ("the zlib stream of the index is whole", CORRUPT, lambda: _stored_as_zlib(cut=1)),
    "index-adler": ("the checksum of zlib", CORRUPT, lambda: _stored_as_zlib(flipped=1)),
}
CANONICAL: dict[str, Entry] = {
    "string-not-shortest": (
        "strings in their shortest encoding",
        CORRUPT,
        lambda: index_replaced(X, b"\xd9\x01" + X[1:]),
    ),
    "array-not-shortest": (
        "arrays in their shortest encoding",
        CORRUPT,
        lambda: index_replaced(X, X.replace(b"\x91", b"\xdc\0\1")),
    ),
    "map-not-shortest": (
        "maps in their shortest encoding",
        CORRUPT,
        lambda: index_replaced(AUTHOR, b"\xde\0" + b"\1" + AUTHOR[1:]),
    ),
    "bytes-not-shortest": ("byte strings in their shortest encoding", CORRUPT, lambda: _wide_byte_string()),
    "integer-signed-form": ("integers in an unsigned form", CORRUPT, lambda: _signed_form()),
    "integer-too-large": ("integers below 2^63", CORRUPT, lambda: edited((("tensors", 0, 1), 1 << 63))),
    "integer-negative": ("no negative integers", CORRUPT, lambda: edited((("groups", 0, 1, 0), -1))),
    "key-twice": (
        "no key twice",
        CORRUPT,
        lambda: index_replaced(AUTHOR, b"\x82" + 2 * AUTHOR[1:]),
    ),
    "key-unknown": ("no other keys", CORRUPT, lambda: edited((("tensors2",), []))),
    "float-nan": ("floats are numbers", CORRUPT, lambda: edited((("groups", 0, 1, 1), float("nan")))),
    "float-infinite": ("floats are finite", CORRUPT, lambda: edited((("groups", 0, 1, 1), float("inf")))),
    "extension-type": (
        "no extension types",
        CORRUPT,
        lambda: index_replaced(CLASS_SET, CLASS_SET[:-1] + b"\xd4\1\0"),
    ),
    "boolean": ("an integer is no boolean", CORRUPT, lambda: edited((("class_set",), False))),
    "index-cut": ("the object of the index is whole", CORRUPT, lambda: assembled(split(sound())[0][:-1], b"")),
    "index-object-then-more": (
        "nothing follows the object of the index",
        CORRUPT,
        lambda: _then_more(),
    ),
    "nested": (
        "no nesting deeper than 8",
        CORRUPT,
        lambda: index_replaced(CLASS_SET, CLASS_SET[:-1] + b"\x91" * 8 + b"\0"),
    ),
    "name-not-utf8": ("strings are UTF-8", CORRUPT, lambda: index_replaced(X, b"\xa1\xff" + X[2:])),
    "name-half-surrogate": (
        "strings hold no surrogates",
        CORRUPT,
        lambda: index_replaced(X, b"\xa3\xed\xa0\x80" + X[2:]),
    ),
}
ENTRIES: dict[str, Entry] = {
    "metadata-value": ("metadata are strings", CORRUPT, lambda: edited((("metadata", "author"), 1))),
    "too-many-tensors": (
        "2^32 - 1 tensors claimed",
        LIMIT,
        lambda: index_replaced(b"\xa7tensors\x93", b"\xa7tensors\xdd\xff\xff\xff\xff"),
    ),
    "name-too-long": ("names of at most 1024 bytes", CORRUPT, lambda: edited((("tensors", 2, 0), "y" * 1025))),
    "name-with-delete": ("no U+007F in names", CORRUPT, lambda: edited((("tensors", 2, 0), "y\x7f"))),
    "alias-is-tensor": ("an alias has a name of its own", CORRUPT, lambda: edited((("aliases",), {"y": "x"}))),
    "alias-empty": ("names of aliases are not empty", CORRUPT, lambda: edited((("aliases",), {"": "x"}))),
    "shape-too-long": ("at most 32 dimensions", CORRUPT, lambda: edited((("tensors", 2, 2), [1] * 33))),
    "dimension-too-large": (
        "dimensions of at most 2^48",
        CORRUPT,
        lambda: edited((("tensors", 0, 2), [0, (1 << 48) + 1]), data=_nothing()),
    ),
    "group-without-tensors": (
        "a group has a tensor",
        CORRUPT,
        lambda: edited(
            (("groups",), [[BITS, [0, 8], [None, None], [[0, 0, 8]], 0, 0]] * 2),
            (("tensors",), [["w", 1, [0], 0]]),
            data=_nothing(),
        ),
    ),
    "table-set-probability-bits": ("8 to 14 probability bits", CORRUPT, lambda: edited((("table_sets", 1, 0), 15))),
    "table-set-alphabet": ("an alphabet of at most 65536", CORRUPT, lambda: edited((("table_sets", 1, 1), 65537))),
    "table-set-origin": ("an origin in the alphabet", CORRUPT, lambda: edited((("table_sets", 1, 2), 5))),
    "table-set-of-none": ("a table set has a table", CORRUPT, lambda: edited((("table_sets", 1, 3), 0))),
    "table-set-of-65": ("a table set of at most 64 tables", CORRUPT, lambda: _many_tables()),
    "table-set-unused": (
        "a table set that nothing uses is valid too",
        CORRUPT,
        lambda: edited((("table_sets",), [*_table_sets(), [8, 2, 0, 1, bytes(3)]])),
    ),
    "class-set-needless": (
        "no class set without class vectors",
        CORRUPT,
        lambda: edited((("class_set",), 0), data=_class_set_only()),
    ),
    "class-set-number": ("the class set exists", CORRUPT, lambda: edited((("class_set",), 2))),
    "class-set-one-table": ("a class set has two tables", CORRUPT, lambda: _class_set([[128, 128]])),
    "class-set-not-dyadic": (
        "a class set is dyadic",
        CORRUPT,
        lambda: _class_set([[128, 128], [100, 156]]),
    ),
    "group-fields": (
        "a group has 6 entries",
        CORRUPT,
        lambda: edited((("groups", 1), [BITS, [0, 8], [None, None], [[0, 3, 8]], 0])),
    ),
    "stream-fields": (
        "a raw stream has 3 entries",
        CORRUPT,
        lambda: edited((("groups", 1, 3, 0), [0, 3, 8, 0, 0, 8, 0])),
    ),
    "raw-width": (
        "a raw symbol has at most 16 bits",
        CORRUPT,
        lambda: edited((("groups", 0, 3, 0, 2), 17), data=_nothing("F32", UNIFORM, [0, 1.0])),
    ),
    "block-bits": ("block bits of 8 to 30", CORRUPT, lambda: edited((("groups", 0, 3, 0, 5), 7))),
    "block-bits-too-many": ("block bits of 8 to 30", CORRUPT, lambda: edited((("groups", 0, 3, 0, 5), 31))),
    "class-mask": ("a class mask of three bits", CORRUPT, lambda: edited((("groups", 0, 3, 0, 4), 9))),
    "columns-of-several-tensors": (
        "several tensors have row vectors only",
        CORRUPT,
        lambda: edited((("groups", 0, 3, 0, 4), 2), data=class_vectors_of_groups().finish()),
    ),
    "vectors-of-nothing": (
        "no class vectors without elements",
        CORRUPT,
        lambda: edited((("groups", 0, 3, 0, 4), 1), (("class_set",), 0), data=_class_set_only()),
    ),
    "class-bytes-needless": (
        "no class bytes without class vectors",
        CORRUPT,
        lambda: changed_group(_raw(), lambda data: data + bytes(4), class_bytes=4),
    ),
    "class-bytes-left": (
        "class vectors fill their bytes",
        CORRUPT,
        lambda: changed_group(_vectors(), lambda data: data + b"\0", class_bytes=3),
    ),
    "class-bytes-missing": (
        "class vectors have all their bytes",
        CORRUPT,
        lambda: changed_group(_vectors(), lambda data: data[:-1], class_bytes=1),
    ),
    "class-offset": (
        "class offsets of -128 to 127",
        CORRUPT,
        lambda: changed_group(_wide_offsets(), lambda data: data[:-1] + b"\x80"),
    ),
    "section-kind": ("kinds have the rules of names", CORRUPT, lambda: edited((("sections", 0, 0), ""))),
}
FILES = HEADER | CANONICAL | ENTRIES


def _with_checksum(data: bytes, checksum: int) -> bytes:
    return data[:44] + struct.pack("<I", checksum) + data[48:]


def _reserved(data: bytes) -> bytes:
    head = data[:40] + b"\1\0\0\0"
    return _with_checksum(head + data[44:], zlib.crc32(head))


def _claimed_index_bytes(length: int) -> bytes:
    return changed_header(sound(), index_length=length, inflated_index_length=length)


def _stored_as_zlib(*, longer: int = 0, cut: int = 0, flipped: int = 0) -> bytes:
    """Return the valid file with an index in a zlib stream of one stored block, the same from every build of zlib."""
    index, payload = split(sound())
    head = b"\x78\x01\x01" + struct.pack("<HH", len(index), len(index) ^ 0xFFFF)
    stream = head + index + struct.pack(">I", zlib.adler32(index) ^ flipped)
    stream = stream[: len(stream) - cut]
    return assembled(stream, payload, inflated_index_length=len(index) + longer, required=1)


def _table_sets() -> list[list]:
    return msgpack.unpackb(split(sound())[0])["table_sets"]


def _wide_byte_string() -> bytes:
    table = _table_sets()[1][4]
    return index_replaced(b"\xc4" + bytes([len(table)]) + table, b"\xc5\0" + bytes([len(table)]) + table)


def _signed_form() -> bytes:
    builder = FileBuilder(93)
    builder.group([("w", "U8", (300,))], BITS, [0, 8], [builder.raw([0] * 300, 0)])
    return index_replaced(b"\x91\xcd\x01\x2c", b"\x91\xd1\x01\x2c", builder.finish())


def _then_more() -> bytes:
    index, payload = split(sound())
    return assembled(index + b"\xc0", payload)


def _nothing(dtype: str = "U8", transform: int = BITS, parameters: list | None = None) -> bytes:
    """Return a valid file of one tensor without elements, coded by raw."""
    builder = FileBuilder(92)
    builder.group(
        [("w", dtype, (0,))], transform, parameters or [0, 8], [builder.raw([], 8 if transform == BITS else 0)]
    )
    return builder.finish()


def _many_tables() -> bytes:
    """Return a file of one set of 64 tables, its number of tables and their bytes those of 65."""
    builder = FileBuilder(91)
    number = builder.tables([[256]] * 64, 8, 0)
    builder.group([("w", "F32", (2,))], UNIFORM, [0, 1.0], [builder.coded("rans", number, (1, 2, 1))])
    stored = sum(256 << 9 * i for i in range(65)).to_bytes(-(-65 * 9 // 8), "little")
    return edited((("table_sets", 0, 3), 65), (("table_sets", 0, 4), stored), data=builder.finish())


def _class_set_only() -> bytes:
    """Return a valid file that has tables fit for class vectors, but no vectors, and one tensor without elements."""
    builder = FileBuilder(90)
    builder.tables([[128, 128], [128, 128]], 8, 0)
    builder.group([("w", "F32", (0,))], UNIFORM, [0, 1.0], [builder.coded("rans", 0, (0, 0, 0), symbols=[])])
    return builder.finish()


def _class_set(counts: list[list[int]]) -> bytes:
    """Return the valid file with another class set, of the alphabet {0, 1}."""
    tables = TableSet([FrequencyTable(row, 8) for row in counts], 0)
    return edited((("table_sets",), [*_table_sets(), [8, 2, 0, len(counts), tables.to_bytes()]]), (("class_set",), 2))


def _raw() -> bytes:
    builder = FileBuilder(89)
    builder.group([("w", "U8", (4,))], BITS, [0, 8], [builder.raw([1, 2, 3, 4], 8)])
    return builder.finish()


def _vectors() -> bytes:
    """Return a valid file of one group with 2 class bytes."""
    builder = FileBuilder(88, class_tables=True)
    number = builder.tables([COUNTS, COUNTS[::-1]], 8, 2)
    coded = builder.coded("rans", number, (3, 2, 1), row=[0, 1, 0], symbols=[0, 1, 2, 3, 4, 2])
    builder.group([("w", "F32", (3, 2))], UNIFORM, [2, 0.5], [coded])
    return builder.finish()


def _wide_offsets() -> bytes:
    """Return a valid file with one class offset of 0, whose code word is a 0; that of 128 is a 1."""
    builder = FileBuilder(87)
    counts = [0] * 257
    counts[128] = counts[256] = 128
    builder.class_set = builder.sets[builder.tables([counts, counts], 8, 128, for_classes=True)]
    number = builder.tables([COUNTS, COUNTS[::-1]], 8, 2)
    coded = builder.coded("rans", number, (1, 2, 1), row=[0], symbols=[2, 2], base=1)
    builder.group([("w", "F32", (1, 2))], UNIFORM, [2, 0.5], [coded])
    return builder.finish()
