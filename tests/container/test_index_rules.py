"""One row a rule of spec/container.md 3 to 8 and spec/transforms.md: what is broken, and how it is refused."""

import struct

import msgpack
import pytest

from l2fmt.container import Limits
from l2fmt.errors import CorruptFileError, UnsupportedError

HUGE = 1 << 47
RAW4, CODED = [0, 8, 4], [1, 10, 0, 0, 7, 8, 1]
pack = msgpack.Packer(use_single_float=True).pack
NAN, INFINITY = float("nan"), float("inf")

# The groups of the small file: 0 weight (uniform), 1 bias + scalar + empty (bits), 2 z (bits, C64), 3 codes (codebook).
# Its tensors: 0 bias, 1 weight, 2 scalar, 3 z, 4 empty, 5 codes. A row: path, new value, kind of error, message.
RULES = [
    # names
    (("tensors", 0, 0), "", CorruptFileError, "0 bytes"),
    (("tensors", 0, 0), "x" * 1025, CorruptFileError, "1025 bytes"),
    (("tensors", 0, 0), "é" * 513, CorruptFileError, "1026 bytes"),
    (("tensors", 0, 0), "a\nb", CorruptFileError, "control character"),
    (("tensors", 0, 0), "a\0", CorruptFileError, "control character"),
    (("tensors", 0, 0), "\x7f", CorruptFileError, "control character"),
    (("tensors", 0, 0), b"bias", CorruptFileError, "must be a string"),
    (("tensors", 0, 0), None, CorruptFileError, "must be a string"),
    (("tensors", 0, 0), 1, CorruptFileError, "must be a string"),
    (("tensors", 0, 0), "weight", CorruptFileError, "two tensors 'weight'"),
    (("aliases",), {"weight": "bias"}, CorruptFileError, "also the name of a tensor"),
    (("aliases",), {"a": "b", "b": "weight"}, CorruptFileError, "no tensor"),
    (("aliases",), {"a": "a"}, CorruptFileError, "no tensor"),
    (("aliases",), {"a": "b", "b": "a"}, CorruptFileError, "no tensor"),
    (("aliases",), {"a": "missing"}, CorruptFileError, "no tensor"),
    (("aliases",), {"a\n": "weight"}, CorruptFileError, "control character"),
    (("aliases",), {"": "weight"}, CorruptFileError, "0 bytes"),
    (("aliases",), {"a": 1}, CorruptFileError, "must be strings"),
    (("aliases",), {b"a": "weight"}, CorruptFileError, "must be strings"),
    (("aliases",), [], CorruptFileError, "a map expected"),
    (("aliases",), None, CorruptFileError, "a map expected"),
    # metadata
    (("metadata",), {"a": None}, CorruptFileError, "must be strings"),
    (("metadata",), {"a": {"b": "c"}}, CorruptFileError, "not valid"),
    (("metadata",), [["a", "b"]], CorruptFileError, "a map expected"),
    # tensors
    (("tensors",), {}, CorruptFileError, "an array expected"),
    (("tensors",), [], CorruptFileError, "no tensor"),
    (("tensors", 0), [], CorruptFileError, "array of 4"),
    (("tensors", 0), "bias", CorruptFileError, "array of 4"),
    (("tensors", 0), ["bias", 9, [5], 1, 0], CorruptFileError, "array of 4"),
    (("tensors", 0, 1), 1000, UnsupportedError, "dtype id 1000"),
    (("tensors", 0, 1), -1, CorruptFileError, "dtype is -1"),
    (("tensors", 0, 1), True, CorruptFileError, "dtype is True"),
    (("tensors", 0, 1), 9.0, CorruptFileError, "dtype is 9.0"),
    (("tensors", 0, 1), "F16", CorruptFileError, "dtype is 'F16'"),
    (("tensors", 0, 1), 10, CorruptFileError, "a group has one dtype"),
    (("tensors", 0, 2), None, CorruptFileError, "shape"),
    (("tensors", 0, 2), 5, CorruptFileError, "shape"),
    (("tensors", 0, 2), [1] * 33, CorruptFileError, "33 dimensions"),
    (("tensors", 0, 2), [-1], CorruptFileError, "dimension is -1"),
    (("tensors", 0, 2), [(1 << 48) + 1], CorruptFileError, "dimension is"),
    (("tensors", 0, 2), [True], CorruptFileError, "dimension is True"),
    (("tensors", 0, 2), [5.0], CorruptFileError, "dimension is 5.0"),
    (("tensors", 0, 2), [[5]], CorruptFileError, "dimension is"),
    (("tensors", 0, 2), [HUGE, HUGE], CorruptFileError, "2\\^63 bytes"),
    (("tensors", 0, 2), [1 << 31, 1 << 31], CorruptFileError, "2\\^63 bytes"),
    (("tensors", 4, 2), [0, HUGE, HUGE], CorruptFileError, "2\\^63 bytes"),
    (("tensors", 0, 2), [6], CorruptFileError, "7 raw symbols of 10 bits take 9 bytes"),
    (("tensors", 0, 3), 4, CorruptFileError, "group is 4"),
    (("tensors", 0, 3), -1, CorruptFileError, "group is -1"),
    (("tensors", 0, 3), None, CorruptFileError, "group is None"),
    (("tensors", 1, 3), 1, CorruptFileError, "group 0 has no tensor"),
    # table sets
    (("table_sets", 0), [8, 2, 0, 1], CorruptFileError, "array of 5"),
    (("table_sets", 0, 0), 7, CorruptFileError, "probability bits is 7"),
    (("table_sets", 0, 0), 15, CorruptFileError, "probability bits is 15"),
    (("table_sets", 0, 1), 0, CorruptFileError, "alphabet is 0"),
    (("table_sets", 0, 1), 65537, CorruptFileError, "alphabet is 65537"),
    (("table_sets", 0, 2), 2, CorruptFileError, "origin is 2"),
    (("table_sets", 0, 2), -1, CorruptFileError, "origin is -1"),
    (("table_sets", 0, 3), 0, CorruptFileError, "number of tables is 0"),
    (("table_sets", 0, 3), 65, CorruptFileError, "number of tables is 65"),
    (("table_sets", 0, 4), "text", CorruptFileError, "must be a byte string"),
    (("table_sets", 0, 4), b"", CorruptFileError, "table set 0"),
    (("table_sets", 0, 4), b"\x80\0\1\0", CorruptFileError, "table set 0"),
    (("table_sets", 0, 4), b"\x81\0\1", CorruptFileError, "table set 0"),
    (("table_sets",), [], CorruptFileError, "table set is 0"),
    # the class set
    (("class_set",), None, CorruptFileError, "no class set"),
    (("class_set",), 2, CorruptFileError, "class set is 2"),
    (("class_set",), -1, CorruptFileError, "class set is -1"),
    (("class_set",), False, CorruptFileError, "class set is False"),
    (("class_set",), 0, CorruptFileError, "must have 2"),
    (("table_sets", 1, 4), bytes.fromhex("7f02018080"), CorruptFileError, "table set 1"),
    # groups
    (("groups", 0), [], CorruptFileError, "group 0 is"),
    (("groups",), {}, CorruptFileError, "an array expected"),
    (("groups",), [], CorruptFileError, "group is"),
    (("groups", 0, 0), 5, UnsupportedError, "transform 5"),
    (("groups", 0, 0), -1, CorruptFileError, "transform is -1"),
    (("groups", 0, 0), "uniform", CorruptFileError, "transform is"),
    (("groups", 0, 0), None, CorruptFileError, "transform is"),
    (("groups", 0, 1), None, CorruptFileError, "parameters"),
    (("groups", 0, 2), [None], CorruptFileError, "scales"),
    (("groups", 0, 2), None, CorruptFileError, "scales"),
    (("groups", 0, 2), [9, 12], CorruptFileError, "scales are F64"),
    (("groups", 0, 2), [14, None], CorruptFileError, "scales are F8_E4M3"),
    (("groups", 0, 2), [99, None], UnsupportedError, "dtype id 99"),
    (("groups", 0, 2), ["F16", None], CorruptFileError, "scale dtype"),
    (("groups", 1, 2), [11, None], CorruptFileError, "scales are only for"),
    (("groups", 2, 2), [None, 11], CorruptFileError, "scales are only for"),
    (("groups", 3, 2), [None, 11], CorruptFileError, "scales are only for"),
    (("tensors", 1, 2), [3, 0, 2], CorruptFileError, "a stream of no symbols is empty"),
    (("groups", 0, 4), -1, CorruptFileError, "class bytes is -1"),
    (("groups", 0, 4), "1", CorruptFileError, "class bytes is"),
    (("groups", 0, 4), 1 << 63, CorruptFileError, "class bytes is"),
    (("groups", 0, 4), 2, CorruptFileError, "end at byte"),
    (("groups", 1, 4), 1, CorruptFileError, "no stream has class vectors"),
    (("groups", 0, 5), 1 << 32, CorruptFileError, "checksum is"),
    (("groups", 0, 5), -1, CorruptFileError, "checksum is"),
    (("groups", 0, 5), None, CorruptFileError, "checksum is"),
    (("groups", 0, 5), 0, CorruptFileError, "tensor 'weight' is damaged"),
    # streams
    (("groups", 0, 3), None, CorruptFileError, "streams"),
    (("groups", 0, 3), [], CorruptFileError, "has 1 stream, not 0"),
    (("groups", 0, 3), [CODED, CODED], CorruptFileError, "has 1 stream, not 2"),
    (("groups", 0, 3, 0), 1, CorruptFileError, "a stream is 1"),
    (("groups", 0, 3, 0), [], CorruptFileError, "a stream of"),
    (("groups", 0, 3, 0), [1, 10, 0], CorruptFileError, "a stream of"),
    (("groups", 0, 3, 0, 0), 4, UnsupportedError, "coder 4"),
    (("groups", 0, 3, 0, 0), -1, CorruptFileError, "coder is -1"),
    (("groups", 0, 3, 0, 0), None, CorruptFileError, "coder is None"),
    (("groups", 0, 3, 0, 0), 0, CorruptFileError, "coder raw is .*; it must be an array of 3"),
    (("groups", 3, 3, 0), [0, 0, 0, 0, 0, 0, 0], CorruptFileError, "coder raw is .*; it must be an array of 3"),
    (("groups", 3, 3, 0), [False, 3, 2], CorruptFileError, "coder is False"),
    (("groups", 0, 3, 0, 1), 13, CorruptFileError, "end at byte"),
    (("groups", 0, 3, 0, 1), 1 << 62, CorruptFileError, "end at byte"),
    (("groups", 0, 3, 0, 1), 1 << 63, CorruptFileError, "length is"),
    (("groups", 0, 3, 0, 1), -4, CorruptFileError, "length is -4"),
    (("groups", 0, 3, 0, 2), 2, CorruptFileError, "table set is 2"),
    (("groups", 0, 3, 0, 2), -1, CorruptFileError, "table set is -1"),
    (("groups", 0, 3, 0, 3), 1, CorruptFileError, "class base is 1"),
    (("groups", 0, 3, 0, 3), -1, CorruptFileError, "class base is -1"),
    (("groups", 0, 3, 0, 4), 8, CorruptFileError, "class mask is 8"),
    (("groups", 0, 3, 0, 4), -1, CorruptFileError, "class mask is -1"),
    (("groups", 0, 3, 0, 4), 0, CorruptFileError, "no stream has class vectors"),
    (("groups", 0, 3, 0, 5), 7, CorruptFileError, "block bits is 7"),
    (("groups", 0, 3, 0, 5), 31, CorruptFileError, "block bits is 31"),
    (("groups", 0, 3, 0, 6), 6, CorruptFileError, "lane bits is 6"),
    (("groups", 0, 3, 0), [2, 10, 0, 0, 7, 8, 1], CorruptFileError, "lane bits is 1"),
    (("groups", 0, 3, 0), [3, 10, 0, 0, 7, 8, 1], CorruptFileError, "lane bits is 1"),
    (("groups", 1, 3, 0), [3, 8, 0, 0, 2, 8, 0], CorruptFileError, "row vectors only"),
    (("groups", 1, 3, 0), [3, 8, 0, 0, 4, 8, 0], CorruptFileError, "row vectors only"),
    (("groups", 1, 3, 0), [0, 9, 10], CorruptFileError, "6 raw symbols of 10 bits take 8 bytes"),
    (("groups", 1, 3, 1), [0, 3, 17], CorruptFileError, "width is 17"),
    (("groups", 1, 3, 1), [0, 3, -1], CorruptFileError, "width is -1"),
    (("groups", 1, 3, 1), [0, 3, None], CorruptFileError, "width is None"),
    # transform bits
    (("groups", 1, 1), [], CorruptFileError, "0 parameters and 2 streams"),
    (("groups", 1, 1), [0, 16], CorruptFileError, "2 parameters and 2 streams"),
    (("groups", 1, 1), [16], CorruptFileError, "1 parameters and 2 streams"),
    (("groups", 1, 1), [0, 10, 7], CorruptFileError, "add up to 17 bits"),
    (("groups", 1, 1), [1, 10, 6], CorruptFileError, "add up to 17 bits"),
    (("groups", 1, 1), [0, 0, 16], CorruptFileError, "width of field 0 is 0"),
    (("groups", 1, 1), [0, 17, 6], CorruptFileError, "width of field 0 is 17"),
    (("groups", 1, 1), [-1, 11, 6], CorruptFileError, "drop is -1"),
    (("groups", 1, 1), [17, 10, 6], CorruptFileError, "drop is 17"),
    (("groups", 1, 1), [0.0, 10, 6], CorruptFileError, "drop is 0.0"),
    (("groups", 1, 1), [0, 14, 2], CorruptFileError, "stream 1 can hold 8 different symbols; allowed are 4"),
    (("groups", 2, 1), [32, 16, 16], CorruptFileError, "add up to 64 bits; a word of C64 has 32"),
    # quantized transforms
    (("tensors", 1, 1), 0, CorruptFileError, "weight' is BOOL"),
    (("tensors", 1, 1), 13, CorruptFileError, "weight' is C64"),
    (("tensors", 1, 1), 14, CorruptFileError, "weight' is F8_E4M3"),
    (("groups", 0, 1), [1], CorruptFileError, "2 parameters, not 1"),
    (("groups", 0, 1), [1, 0.5, 0.5], CorruptFileError, "2 parameters, not 3"),
    (("groups", 0, 1), [-1, 0.5], CorruptFileError, "offset is -1"),
    (("groups", 0, 1), [65536, 0.5], CorruptFileError, "offset is 65536"),
    (("groups", 0, 1), [1.0, 0.5], CorruptFileError, "offset is 1.0"),
    (("groups", 0, 1), [1, 1], CorruptFileError, "binary32"),
    (("groups", 0, 1), [1, 0.0], CorruptFileError, "finite positive"),
    (("groups", 0, 1), [1, -0.5], CorruptFileError, "finite positive"),
    (("groups", 0, 1), [1, NAN], CorruptFileError, "finite positive"),
    (("groups", 0, 1), [1, INFINITY], CorruptFileError, "finite positive"),
    (("groups", 0, 1), [1, "0.5"], CorruptFileError, "finite positive"),
    (("groups", 0, slice(0, 2)), [2, [1, 0.5]], CorruptFileError, "3 parameters, not 2"),
    (("groups", 0, slice(0, 2)), [2, [1, 0.5, 0.0]], CorruptFileError, "finite positive"),
    (("groups", 0, slice(0, 2)), [3, [1, 0.0, 0.5]], CorruptFileError, "finite positive"),
    (("groups", 0, slice(0, 2)), [3, [1, 0.5, INFINITY]], CorruptFileError, "finite positive"),
    (("groups", 0, slice(0, 2)), [0, [16, 16]], CorruptFileError, "scales are only for"),
    (("groups", 0, slice(0, 2)), [4, [bytes(4)]], CorruptFileError, "1 values; the alphabet 2"),
    (("groups", 3, 1), [], CorruptFileError, "1 parameters, not 0"),
    (("groups", 3, 1), ["text"], CorruptFileError, "byte string of f32"),
    (("groups", 3, 1), [bytes(11)], CorruptFileError, "byte string of f32"),
    (("groups", 3, 1), [b""], CorruptFileError, "0 values"),
    (("groups", 3, 1), [bytes(20)], CorruptFileError, "5 values"),
    (("groups", 3, 1), [struct.pack("<3f", 0, NAN, 1)], CorruptFileError, "not finite"),
    (("groups", 3, 1), [struct.pack("<3f", 0, 1, -INFINITY)], CorruptFileError, "not finite"),
    # sections
    (("sections",), {}, CorruptFileError, "an array expected"),
    (("sections", 0), ["note", 10], CorruptFileError, "array of 3"),
    (("sections", 0, 0), b"note", CorruptFileError, "must be a string"),
    (("sections", 0, 0), "", CorruptFileError, "0 bytes"),
    (("sections", 0, 0), "no\te", CorruptFileError, "control character"),
    (("sections", 0, 0), "other", CorruptFileError, "two sections of kind 'other'"),
    (("sections", 0, 1), 11, CorruptFileError, "end at byte"),
    (("sections", 0, 1), -1, CorruptFileError, "length is -1"),
    (("sections", 0, 2), 1 << 32, CorruptFileError, "checksum is"),
    (("sections", 0, 2), 0, CorruptFileError, "section 'note' is damaged"),
    (("sections",), [], CorruptFileError, "end at byte"),
]


@pytest.mark.parametrize(("path", "value", "kind", "match"), RULES)
@pytest.mark.parametrize("deflated", [False, True])
def test_rule(broken, refused, path, value, kind, match, deflated):
    index = broken.index()
    target = index
    for key in path[:-1]:
        target = target[key]
    assert repr(target[path[-1]]) != repr(value), "the row changes nothing"
    target[path[-1]] = value
    refused(broken.file(index, deflated), kind, match)


def test_empty_groups_have_no_class_vectors_or_scales(broken, refused):
    """2^48 rows of an empty tensor would be 2^48 offsets in no bytes."""
    index = broken.index()
    index["tensors"][1][2] = [1 << 40, 0]
    index["groups"][0][2] = [None, None]
    index["groups"][0][3] = [[1, 0, 0, 0, 1, 8, 0]]
    refused(broken.file(index), CorruptFileError, "without elements has class vectors")
    index["groups"][0][2:5] = [[9, None], [[1, 0, 0, 0, 0, 8, 0]], 0]
    refused(broken.file(index), CorruptFileError, "scales are only for")


def test_class_set_only_with_class_vectors(broken, refused):
    index = broken.index()
    index["groups"][0][3][0][4] = 0
    index["groups"][0][4] = 0
    refused(broken.file(index), CorruptFileError, "must be nil")


def test_decoded_bytes_add_up(broken, refused):
    index = broken.index()
    index["tensors"] = [[f"t{number}", 11, [1 << 47, 1 << 13], number] for number in range(3)]
    index["groups"] = [[1, [0, 0.5], [None, None], [[1, 4, 0, 0, 0, 30, 0]], 0, 0]] * 3
    index |= {"class_set": None, "aliases": {}}
    limits = Limits.none()
    refused(broken.file(index), CorruptFileError, "the tensors decode to 2\\^63", limits=limits)
    index["tensors"] = [[f"t{number}", 11, [1 << 47, 1 << 13], 0] for number in range(3)]
    index["groups"] = index["groups"][:1]
    refused(broken.file(index), CorruptFileError, "the group decodes to 2\\^63", limits=limits)


def test_class_tables_are_dyadic(broken, refused):
    index = broken.index()
    # Counts 100 and 156, twice.
    bits = "".join(f"{count:0{width}b}"[::-1] for count, width in [(100, 9), (156, 8)] * 2)
    index["table_sets"][1][4] = int(bits[::-1], 2).to_bytes(5, "little")
    refused(broken.file(index), CorruptFileError, "not dyadic")


@pytest.mark.parametrize("key", ["aliases", "class_set", "groups", "metadata", "sections", "table_sets", "tensors"])
def test_every_key_is_needed_once(broken, refused, key):
    index = broken.index()
    del index[key]
    refused(broken.file(index), CorruptFileError, "index has 6 keys")
    index["zzz"] = None
    refused(broken.file(index), CorruptFileError, "belongs")
    index = broken.index() | {"more": 1}
    refused(broken.file(index), CorruptFileError, "index has 8 keys")
    moved = broken.index()
    moved[key] = moved.pop(key)
    if key != "tensors":
        refused(broken.file(moved), CorruptFileError, "belongs")


def test_metadata_and_aliases_are_sorted_and_distinct(broken, refused):
    for key, pairs in [("metadata", ["b", "x", "a", "y"]), ("aliases", ["b", "bias", "a", "bias"])]:
        for first, second in [(pairs, "out of order"), (pairs[:2] * 2, "repeats")]:
            index = broken.index()
            index[key] = "HERE"
            flat = b"\x82" + b"".join(map(pack, first))
            data = broken.file(pack(index).replace(pack("HERE"), flat))
            refused(data, CorruptFileError, second)


@pytest.mark.parametrize(
    ("canonical", "other"),
    [
        (b"\xa6groups", b"\xd9\x06groups"),
        (b"\xa6groups", b"\xda\x00\x06groups"),
        (b"\xa6weight\x0b\x93", b"\xa6weight\xcc\x0b\x93"),
        (b"\xa6weight\x0b\x93", b"\xa6weight\xd0\x0b\x93"),
        (b"\xa6weight\x0b\x93", b"\xa6weight\xcd\x00\x0b\x93"),
        (b"\xa6weight\x0b\x93", b"\xa6weight\xd3\0\0\0\0\0\0\0\x0b\x93"),
        (b"\xa6weight\x0b\x93", b"\xa6weight\x0b\xdc\x00\x03"),
        (b"\x87\xa7aliases", b"\xde\x00\x07\xa7aliases"),
        (b"\xa6groups\x94", b"\xa6groups\xdc\x00\x04"),
        (b"\xa6groups\x94", b"\xa6groups\xdd\0\0\0\x04"),
        (b"\xa7aliases\x81", b"\xa7aliases\xdf\0\0\0\x01"),
        (b"\xca\x3f\x00\x00\x00", b"\xcb\x3f\xe0\0\0\0\0\0\0"),
        (b"\xc4\x03\x80\x00\x01", b"\xc5\x00\x03\x80\x00\x01"),
    ],
)
def test_only_the_canonical_form_is_read(broken, refused, canonical, other):
    assert broken.index_bytes.count(canonical) == 1
    refused(broken.file(broken.index_bytes.replace(canonical, other)), CorruptFileError, "not canonical")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"\xa4bias", b"\xa4b\xffas", "utf-8"),
        (b"\xa4bias", b"\xa4b\xc0\x80s", "utf-8"),
        (b"\xa4bias", b"\xa5b\xed\xa0\x80s", "utf-8"),  # a surrogate
        (b"\xa4bias", b"\xd4\x01a", "not valid"),  # an extension
        (b"\xa4bias", b"\xd6\xff\0\0\0\0", "not valid"),  # a timestamp
        (b"\xa4bias", b"\xc7\x00\x01", "must be a string"),
        (b"\xa4bias", b"\xc1", "not valid"),
        (b"\xa4bias", b"\x80", "must be a string"),
    ],
)
def test_malformed_messagepack(broken, refused, old, new, match):
    refused(broken.file(broken.index_bytes.replace(old, new)), CorruptFileError, match)


def test_index_is_read_to_its_end(broken, refused):
    refused(broken.file(broken.index_bytes + b"\xc0"), CorruptFileError, "bytes follow")
    for length in range(len(broken.index_bytes)):
        refused(broken.file(broken.index_bytes[:length]), CorruptFileError)
