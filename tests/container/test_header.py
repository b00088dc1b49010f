"""Header and index framing: each rule of spec/container.md 2 and 3, and every single-bit flip."""

import io
import zlib

import pytest

from l2fmt.container import Header, Limits, Reader
from l2fmt.errors import CorruptFileError, FormatError, LimitExceededError, UnsupportedError


def test_small_file_is_accepted(small, broken):
    for data in (small, broken.file(), broken.file(deflated=True), broken.file(minor=7), broken.file(optional=5)):
        with Reader(data) as reader:
            reader.verify_checksums()
            assert [len(tables) for tables in reader.table_sets] == [1, 2]
            assert reader.class_tables is not None


def test_header_round_trip(small):
    header = Header.parse(small[:48])
    assert header.pack() == small[:48]
    assert header.file_length == len(small)


HEADER_FIELDS = [
    ({"magic": b"PK\x03\x04\r\n\x1a\n"}, CorruptFileError, "not an .l2c file"),
    ({"magic": b"\x89L2C\n\x1a\n\x00"}, CorruptFileError, "not an .l2c file"),
    ({"checksum": 0}, CorruptFileError, "header is damaged"),
    ({"major": 1}, UnsupportedError, "version 1.1"),
    ({"required": 2}, UnsupportedError, "bit 1"),
    ({"required": 1 << 31 | 1 << 7}, UnsupportedError, "bit 7, 31"),
    ({"reserved": 1}, CorruptFileError, "reserved"),
    ({"inflated": 99}, CorruptFileError, "not deflated"),
    ({"index_length": 1 << 27, "inflated": 1 << 27}, LimitExceededError, "max_index_bytes"),
    ({"required": 1, "inflated": 1 << 29}, LimitExceededError, "max_inflated_index_bytes"),
    ({"index_length": 1 << 20, "inflated": 1 << 20}, CorruptFileError, "does not fit"),
    ({"file_length": 1 << 40}, CorruptFileError, "truncated"),
    ({"file_length": 100}, CorruptFileError, "appended"),
    ({"index_checksum": 0}, CorruptFileError, "index is damaged"),
    ({"required": 1}, CorruptFileError, "does not inflate"),
]


@pytest.mark.parametrize(("fields", "kind", "match"), HEADER_FIELDS)
def test_header_rule(broken, refused, fields, kind, match):
    refused(broken.file(**fields), kind, match)


def test_checks_come_in_the_order_of_the_specification(broken, refused):
    wrong = {
        "magic": b"PK\x03\x04\r\n\x1a\n",
        "checksum": 0,
        "major": 1,
        "required": 2,
        "reserved": 1,
        "index_length": 1 << 27,
        "file_length": 1 << 40,
        "index_checksum": 0,
    }
    expected = [
        (CorruptFileError, "not an .l2c file"),
        (CorruptFileError, "header is damaged"),
        (UnsupportedError, "version"),
        (UnsupportedError, "bit 1"),
        (CorruptFileError, "reserved"),
        (LimitExceededError, "max_index_bytes"),
        (CorruptFileError, "truncated"),
        (CorruptFileError, "index is damaged"),
    ]
    index = b"no MessagePack"
    for key, (kind, match) in zip(list(wrong), expected, strict=True):
        refused(broken.file(index, inflated=wrong.get("index_length", len(index)), **wrong), kind, match)
        del wrong[key]
    refused(broken.file(index), CorruptFileError, "the index is not valid")


@pytest.mark.parametrize("change", [lambda z: z[:-1], lambda z: z + b"\0", lambda z: z + z, lambda z: b"\0" + z])
def test_deflated_index_is_one_whole_stream(broken, refused, change):
    stored = change(zlib.compress(broken.index_bytes))
    data = broken.file(stored, required=1, inflated=len(broken.index_bytes))
    refused(data, CorruptFileError, "does not inflate")


@pytest.mark.parametrize("off", [-1, 1, -48, 10**6])
def test_deflated_index_has_the_claimed_length(broken, refused, off):
    stored = zlib.compress(broken.index_bytes)
    data = broken.file(stored, required=1, inflated=len(broken.index_bytes) + off)
    refused(data, CorruptFileError, "does not inflate")


def test_no_preset_dictionary(broken, refused):
    compressor = zlib.compressobj(zdict=broken.index_bytes)
    stored = compressor.compress(broken.index_bytes) + compressor.flush()
    refused(broken.file(stored, required=1, inflated=len(broken.index_bytes)), CorruptFileError, "does not inflate")


@pytest.mark.parametrize("deflated", [False, True])
def test_every_flipped_bit_is_refused(broken, deflated):
    data = broken.file(deflated=deflated)
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError), Reader(changed) as reader:
            reader.verify_checksums()


def test_every_truncation_is_refused(small):
    for length in range(len(small)):
        with pytest.raises(CorruptFileError):
            Reader(small[:length])
        with pytest.raises(CorruptFileError):
            Reader(io.BytesIO(small[:length]))


def test_appended_bytes_are_refused(small, refused):
    for extra in (b"\0", b"PK\x05\x06", small):
        refused(small + extra, CorruptFileError, "appended")


def test_damage_names_the_tensors(broken, refused):
    with Reader(broken.file()) as reader:
        groups, sections = reader.index.groups, reader.index.sections
    expected = ["tensor 'weight' is", "tensor 'bias' and 2 more", "tensor 'z'", "tensor 'codes'", "section 'note'"]
    for part, match in zip([*groups, sections[0]], expected, strict=True):
        data = bytearray(broken.file())
        data[part.offset + part.length - 1] ^= 64
        refused(data, CorruptFileError, match)


def test_padding_must_be_zero(broken, refused):
    with Reader(broken.file()) as reader:
        groups = reader.index.groups
    payload = broken.payload
    for number, position in ((0, 10), (0, 11), (1, 8 + 3)):
        changed, index = bytearray(payload), broken.index()
        group = groups[number]
        start = group.offset - groups[0].offset
        changed[start + position] = 1
        index["groups"][number][5] = zlib.crc32(changed[start : start + group.length])
        broken.payload = bytes(changed)
        refused(broken.file(index), CorruptFileError, "padding")


def test_limits_are_enforced(small, refused):
    for field, match in [
        ("max_index_bytes", "bytes of the index"),
        ("max_inflated_index_bytes", "inflated"),
        ("max_tensors", "number of aliases"),
        ("max_table_bytes", "tables"),
        ("max_tensor_bytes", "decoded bytes of tensor 'weight'"),
        ("max_decoded_bytes", "all decoded tensors"),
    ]:
        refused(small, LimitExceededError, match, limits=Limits(**{field: 0}))
    with Reader(small, limits=Limits.none()) as reader:
        reader.verify_checksums()
