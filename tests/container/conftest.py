"""A small file that has every kind of entry, and ways to break it."""

import struct
import zlib

import msgpack
import numpy as np
import pytest

from l2fmt._registry import BITS, CODEBOOK, RANS, RAW, UNIFORM
from l2fmt.container import Reader, Stream, TableSetEntry, Writer
from l2fmt.dtypes import DTYPES

HEADER = struct.Struct("<8sHHIIIIIQI")

# Tables of two symbols with counts 128 and 128, serialised by hand after spec/entropy-coding.md 2.1.
ONE_TABLE = TableSetEntry(8, 2, 0, 1, bytes.fromhex("800001"))
CLASS_TABLES = TableSetEntry(8, 2, 0, 2, bytes.fromhex("8000010102"))


def write_small(target=None, sections=True, **options) -> bytes:
    """Write the small file; the coded streams hold arbitrary bytes, since the container does not decode them."""
    with Writer(target, metadata={"author": "nobody", "": "empty key"}, **options) as writer:
        writer.add_table_set(ONE_TABLE)
        writer.add_table_set(CLASS_TABLES, for_classes=True)
        writer.add_group(
            [("weight", DTYPES["F32"], (3, 2, 2))],
            UNIFORM,
            [1, 0.5],
            (DTYPES["F16"], DTYPES["F32"]),
            [(Stream(RANS, table_set=0, class_mask=7, block_bits=8, lane_bits=1), b"0123456789")],
            np.ones(3, np.float16),
            np.ones(2, np.float32),
            b"\x12",
        )
        writer.add_group(
            [("bias", DTYPES["F16"], (5,)), ("scalar", DTYPES["F16"], ()), ("empty", DTYPES["F16"], (0, 7))],
            BITS,
            [0, 10, 6],
            (None, None),
            [(Stream(RAW, width=10), bytes(8)), (Stream(RAW, width=3), b"\xff\xff\x03")],
        )
        writer.add_group(
            [("z", DTYPES["C64"], (2,))], BITS, [0, 16, 16], (None, None), [(Stream(RAW, width=16), b"1234" * 2)] * 2
        )
        writer.add_group(
            [("codes", DTYPES["BF16"], (9,))],
            CODEBOOK,
            [np.array([-1, 0, 1], "<f4").tobytes()],
            (None, None),
            [(Stream(RAW, width=2), bytes([0b10010010, 1, 2]))],
        )
        writer.add_alias("tied", "weight")
        if sections:
            writer.add_section("note", b"for nobody")
            writer.add_section("other", b"")
        writer.order(["bias", "weight", "scalar", "z", "empty", "codes"])
    return writer.getvalue() if target is None else b""


class Broken:
    """Takes a file apart and puts it together with repaired checksums, so that only the rule under test is broken."""

    def __init__(self, data: bytes):
        with Reader(data) as reader:
            self.header = reader.header
            self.index_bytes = reader.index.to_bytes()
        self.payload = data[self.header.payload_offset :]

    def index(self) -> dict:
        """A new copy of the index as plain objects."""
        return msgpack.unpackb(self.index_bytes)

    def file(self, index: object = None, deflated: bool = False, **fields: int) -> bytes:
        """The file with another index (an object, or bytes) and other header fields."""
        if index is None:
            index = self.index_bytes
        if not isinstance(index, bytes):
            index = pack(index)
        stored = zlib.compress(index) if deflated else index
        values = {
            "magic": b"\x89L2C\r\n\x1a\n",
            "major": 0,
            "minor": 1,
            "required": int(deflated),
            "optional": 0,
            "index_length": len(stored),
            "inflated": len(index),
            "index_checksum": zlib.crc32(stored),
            "file_length": 48 + len(stored) + len(self.payload),
            "reserved": 0,
        }
        checksum = fields.pop("checksum", None)
        head = HEADER.pack(*(values | fields).values())
        if checksum is None:
            checksum = zlib.crc32(head)
        return head + struct.pack("<I", checksum) + stored + self.payload


def pack(value: object) -> bytes:
    return msgpack.Packer(use_bin_type=True, use_single_float=True).pack(value)


@pytest.fixture(scope="session")
def small() -> bytes:
    return write_small()


@pytest.fixture
def broken(small) -> Broken:
    return Broken(small)


@pytest.fixture(scope="session")
def writing():
    """The function that writes the small file to a target."""
    return write_small


@pytest.fixture(scope="session")
def breaking():
    """The class that takes a file apart."""
    return Broken


@pytest.fixture(scope="session")
def refused():
    """Check that a file is refused when opened or read through, with exactly that kind of error."""

    def check(data, kind, match=None, **options):
        with pytest.raises(kind, match=match) as caught, Reader(data, **options) as reader:
            reader.verify_checksums()
            _ = reader.table_sets, reader.class_tables
        assert type(caught.value) is kind

    return check
