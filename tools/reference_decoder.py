"""Decode `.l2c` files with nothing but Python's standard library: python tools/reference_decoder.py FILE...

A worked example of the specification, in its order and written from it alone: nothing here is shared with the packages,
and nothing is fast. A line for each tensor gives its name, dtype, shape and the SHA-256 of its elements, little-endian.
A file that breaks a rule is refused with one line and exit status 1. FILE may be an index of shards (.l2c.index.json).
"""

import bisect
import hashlib
import itertools
import json
import math
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

# ---- registry.toml ---------------------------------------------------------------------------------------------------

DTYPES = (
    ("BOOL", 8), ("U8", 8), ("I8", 8), ("U16", 16), ("I16", 16), ("U32", 32), ("I32", 32), ("U64", 64), ("I64", 64),
    ("F16", 16), ("BF16", 16), ("F32", 32), ("F64", 64), ("C64", 64), ("F8_E4M3", 8), ("F8_E5M2", 8),
    ("F8_E4M3FNUZ", 8), ("F8_E5M2FNUZ", 8), ("F8_E8M0", 8), ("F4_X2", 8),
)  # fmt: skip
OCTAVES = 64
BITS, UNIFORM, JOINT, GEOMETRIC, CODEBOOK = range(5)
RAW, RANS, RANGE, HUFFMAN = range(4)
DEFLATED_INDEX = 1 << 0

MAX_NAME_BYTES = 1024
MAX_RANK = 32
MAX_DIMENSION = 1 << 48

MAX_INDEX_BYTES = 1 << 24
MAX_INFLATED_INDEX_BYTES = 1 << 24
MAX_ENTRIES = 1 << 17
MAX_TABLE_BYTES = 1 << 24
MAX_DECODED_BYTES = 1 << 27  # this decoder's own, which the specification leaves to it; memory is a small multiple

# ---- security.md 5: refusals -----------------------------------------------------------------------------------------


class Refused(Exception):
    """The file breaks a rule (`corrupt`), exceeds a limit (`limit`) or needs a newer decoder (`unsupported`)."""

    def __init__(self, code: Literal["corrupt", "limit", "unsupported"], message: str) -> None:
        super().__init__(message)
        self.code = code


def corrupt(message: str) -> NoReturn:
    raise Refused("corrupt", message)


def require(condition: bool, rule: str) -> None:
    if not condition:
        corrupt(f"not so: {rule}")


def limit(value: int, most: int, what: str) -> int:
    if value > most:
        raise Refused("limit", f"{value} {what}; the limit is {most}")
    return value


# ---- container.md 2: header ------------------------------------------------------------------------------------------

MAGIC = bytes.fromhex("89 4C 32 43 0D 0A 1A 0A")
HEADER = struct.Struct("<8sHHIIIIIQII")


def read_index_bytes(data: bytes) -> tuple[bytes, int]:
    """Check the header; return the inflated index and the offset of the first group."""
    require(
        len(data) >= HEADER.size and data.startswith(MAGIC), "a file starts with a header of 48 bytes and its magic"
    )
    header = HEADER.unpack_from(data)
    _, major, _, required, _, stored, inflated, index_checksum, file_length, reserved, checksum = header
    require(checksum == zlib.crc32(data[:44]), "the checksum of the header fits")
    if major != 0:
        raise Refused("unsupported", f"major version {major}")
    if unknown := required & ~DEFLATED_INDEX:
        raise Refused("unsupported", f"required feature bit {unknown.bit_length() - 1}")
    require(reserved == 0, "the reserved field is 0")
    require(bool(required & DEFLATED_INDEX) or stored == inflated, "an index that is not deflated has one length")
    limit(stored, MAX_INDEX_BYTES, "bytes of index")
    limit(inflated, MAX_INFLATED_INDEX_BYTES, "bytes of inflated index")
    require(file_length == len(data), "the file is as long as its header says")
    require(HEADER.size + stored <= file_length, "the index lies in the file")
    index = data[HEADER.size : HEADER.size + stored]
    require(zlib.crc32(index) == index_checksum, "the checksum of the index fits")
    if required & DEFLATED_INDEX:
        index = inflate(index, inflated)
    require(len(index) == inflated, "the index has its inflated length")
    return index, HEADER.size + stored


def inflate(stored: bytes, length: int) -> bytes:
    """Inflate one zlib stream of a known length, and no further than a byte beyond it."""
    stream = zlib.decompressobj()
    try:
        index = stream.decompress(stored, length + 1)
    except zlib.error as error:
        corrupt(f"the index is no zlib stream: {error}")
    require(stream.eof and not stream.unused_data, "the zlib stream of the index ends with the index")
    return index


# ---- container.md 3: index encoding ----------------------------------------------------------------------------------

# How the length of each kind starts: the byte that holds short lengths, how many of these there are, wider forms.
ARRAY = (0x90, 16, ((0xDC, 2), (0xDD, 4)))
MAP = (0x80, 16, ((0xDE, 2), (0xDF, 4)))
STRING = (0xA0, 32, ((0xD9, 1), (0xDA, 2), (0xDB, 4)))
BYTES = (0x00, 0, ((0xC4, 1), (0xC5, 2), (0xC6, 4)))
UNSIGNED = (0x00, 128, ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)))
NIL, FLOAT32 = 0xC0, 0xCA


class MessagePack:
    """Reads canonical MessagePack of which it is known what comes next: anything else is corrupt."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.position : self.position + size]
        require(len(piece) == size, "the index holds what it announces")
        self.position += size
        return piece

    def number(self, form: tuple[int, int, tuple[tuple[int, int], ...]]) -> int:
        """Read an unsigned integer, or the length of a string, byte string, array or map, in its shortest encoding."""
        start, least, wider = form
        first = self.take(1)[0]
        if start <= first < start + least:
            return first - start
        for code, size in wider:
            if first == code:
                value = int.from_bytes(self.take(size), "big")
                require(value >= least, "numbers and lengths have their shortest encoding")
                return value
            least = 1 << 8 * size
        corrupt(f"the index has byte {first:#x} at {self.position - 1} where something else belongs")

    def unsigned(self) -> int:
        value = self.number(UNSIGNED)
        require(value < 1 << 63, "an integer is below 2^63")
        return value

    def known_id(self, known: int, what: str) -> int:
        """Read an id that is below `known`."""
        number = self.unsigned()
        if number >= known:
            raise Refused("unsupported", f"{what} {number}")
        return number

    def string(self) -> str:
        try:
            return self.take(self.number(STRING)).decode("utf-8")
        except UnicodeDecodeError as error:
            corrupt(f"a string is not UTF-8: {error.reason}")

    def byte_string(self) -> bytes:
        return self.take(self.number(BYTES))

    def float32(self) -> float:
        require(self.take(1)[0] == FLOAT32, "floats are float32")
        (value,) = struct.unpack(">f", self.take(4))
        require(math.isfinite(value), "floats are finite")
        return value

    def nil(self) -> bool:
        """Step over a nil if there is one."""
        found = self.data[self.position : self.position + 1] == bytes([NIL])
        self.position += found
        return found

    def array_of(self, length: int, what: str) -> None:
        require(self.number(ARRAY) == length, f"{what} is an array of {length}")

    def entries(self, what: str) -> range:
        return range(limit(self.number(ARRAY), MAX_ENTRIES, what))

    def key(self, expected: str) -> None:
        require(self.string() == expected, f"the index has key {expected} here")

    def strings(self, what: str) -> dict[str, str]:
        """Read a map of strings to strings."""
        result: dict[str, str] = {}
        previous = b""
        for number in range(limit(self.number(MAP), MAX_ENTRIES, what)):
            key = self.string()
            require(number == 0 or previous < key.encode(), "the keys of a map are sorted and distinct")
            previous = key.encode()
            result[key] = self.string()
        return result


# ---- container.md 4 and 5: what the index says -----------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """How one symbol sequence is coded; `width` is that of coder raw, the rest is for the other coders."""

    coder: int
    length: int
    width: int = 0
    table_set: int = -1
    base: int = 0
    mask: int = 0
    block_bits: int = 0
    lane_bits: int = 0


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the index describes it."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    group: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * DTYPES[self.dtype][1] // 8


@dataclass
class Group:
    """A group as the index describes it, and the tensors in it."""

    transform: int
    parameters: Sequence[Any]
    scales: tuple[int | None, int | None]
    streams: list[Stream]
    class_bytes: int
    checksum: int
    tensors: list[TensorEntry] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        return DTYPES[self.tensors[0].dtype][0]

    @property
    def word_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the tensors in symbols: a complex number is two words (transforms.md 2)."""
        return [entry.shape + (2,) * (self.dtype == "C64") for entry in self.tensors]

    @property
    def symbols(self) -> int:
        return sum(map(math.prod, self.word_shapes))

    @property
    def scale_bytes(self) -> tuple[int, int]:
        """The bytes of the row scales and of the column scales."""
        rows, columns = (
            0 if dtype in (None, OCTAVES) else size * DTYPES[dtype][1] // 8
            for dtype, size in zip(self.scales, self.tensors[0].shape + (0, 0), strict=False)
        )
        return rows, columns

    @property
    def bytes(self) -> int:
        return sum(padded(stream.length) for stream in self.streams) + sum(self.scale_bytes) + self.class_bytes


def padded(length: int) -> int:
    return -(-length // 4) * 4


@dataclass
class Index:
    """The index of a file, checked."""

    aliases: dict[str, str]
    class_set: int | None
    groups: list[Group]
    metadata: dict[str, str]
    sections: list[tuple[str, int, int]]
    sections_at: tuple[int, int]  # where in the inflated index their array begins and ends
    table_sets: list["TableSet"]
    tensors: list[TensorEntry]


def read_index(data: bytes) -> Index:
    """Parse the index, then check what one part of it says of another."""
    source = MessagePack(data)
    require(source.number(MAP) == 7, "the index is a map of 7 keys")
    source.key("aliases")
    aliases = source.strings("aliases")
    source.key("class_set")
    class_set = None if source.nil() else source.unsigned()
    source.key("groups")
    groups = [read_group_entry(source) for _ in source.entries("groups")]
    limit(sum(len(group.streams) for group in groups), MAX_ENTRIES, "streams")
    source.key("metadata")
    metadata = source.strings("entries of metadata")
    source.key("sections")
    start = source.position
    sections = [read_section_entry(source) for _ in source.entries("sections")]
    sections_at = (start, source.position)
    source.key("table_sets")
    table_sets = read_table_sets(source)
    source.key("tensors")
    tensors = [read_tensor_entry(source) for _ in source.entries("tensors")]
    require(source.position == len(data), "nothing follows the index")
    index = Index(aliases, class_set, groups, metadata, sections, sections_at, table_sets, tensors)
    check_tensors(index)
    check_groups(index)
    return index


def read_group_entry(source: MessagePack) -> Group:
    source.array_of(6, "a group")
    transform = source.known_id(CODEBOOK + 1, "transform")
    parameters = read_parameters(source, transform)
    source.array_of(2, "the scales of a group")
    row, column = (read_scale_kind(source) for _ in range(2))
    expected = len(parameters) - 1 if transform == BITS else 1
    source.array_of(expected, "the streams of a group")
    streams = [read_stream_entry(source) for _ in range(expected)]
    return Group(transform, parameters, (row, column), streams, source.unsigned(), source.unsigned())


def read_scale_kind(source: MessagePack) -> int | None:
    if source.nil():
        return None
    if source.data[source.position : source.position + 1] == bytes([OCTAVES]):  # one byte, as it is below 128
        return source.unsigned()
    return source.known_id(len(DTYPES), "dtype")


def read_stream_entry(source: MessagePack) -> Stream:
    length = source.number(ARRAY)
    require(length in (3, 7), "a stream is an array of 3 or 7")
    raw = source.data[source.position : source.position + 1] == bytes([RAW])
    require(raw == (length == 3), "a stream of coder raw is an array of 3, another one of 7")
    coder = source.known_id(HUFFMAN + 1, "coder")
    numbers = [source.unsigned() for _ in range(length - 1)]
    stream = Stream(coder, *numbers) if coder == RAW else Stream(coder, numbers[0], 0, *numbers[1:])
    if coder == RAW:
        require(stream.width <= 16, "a symbol of coder raw has at most 16 bits")
    else:
        require(stream.mask < 8, "a class mask has 3 bits")
        require(8 <= stream.block_bits <= 30, "block bits are from 8 to 30")
        require(stream.lane_bits <= (5 if coder == RANS else 0), "lane bits are at most 5, and 0 but for rans")
    return stream


def read_section_entry(source: MessagePack) -> tuple[str, int, int]:
    source.array_of(3, "a section")
    return source.string(), source.unsigned(), source.unsigned()


def read_tensor_entry(source: MessagePack) -> TensorEntry:
    source.array_of(4, "a tensor")
    name, dtype = source.string(), source.known_id(len(DTYPES), "dtype")
    rank = source.number(ARRAY)
    require(rank <= MAX_RANK, "a shape has at most 32 dimensions")
    shape = tuple(source.unsigned() for _ in range(rank))
    require(all(size <= MAX_DIMENSION for size in shape), "a dimension is at most 2^48")
    require(
        math.prod(size for size in shape if size) * DTYPES[dtype][1] // 8 < 1 << 63, "a tensor has less than 2^63 bytes"
    )
    return TensorEntry(name, dtype, shape, source.unsigned())


def check_name(name: str) -> None:
    # JSON can spell half a surrogate pair, which is no Unicode.
    require(not any("\ud800" <= character <= "\udfff" for character in name), "names are valid Unicode")
    require(0 < len(name.encode()) <= MAX_NAME_BYTES, "names have 1 to 1024 bytes")
    require(all(character >= " " and character != "\x7f" for character in name), "names have no control characters")


def check_tensors(index: Index) -> None:
    """Check names and sizes, and give every group its tensors."""
    names = {entry.name for entry in index.tensors}
    for name in itertools.chain(names, index.aliases, (kind for kind, _, _ in index.sections)):
        check_name(name)
    require(len(names) == len(index.tensors) and not names & index.aliases.keys(), "names are distinct")
    require(names.issuperset(index.aliases.values()), "an alias names a tensor")
    require(len({kind for kind, _, _ in index.sections}) == len(index.sections), "kinds of sections are distinct")
    decoded = sum(entry.bytes for entry in index.tensors)
    require(decoded < 1 << 63, "all tensors together have less than 2^63 bytes")
    limit(decoded, MAX_DECODED_BYTES, "bytes of decoded tensors")
    for entry in index.tensors:
        require(entry.group < len(index.groups), "the group of a tensor exists")
        index.groups[entry.group].tensors.append(entry)


def check_groups(index: Index) -> None:
    for group in index.groups:
        require(len(group.tensors) > 0, "a group has a tensor")
        require(len({entry.dtype for entry in group.tensors}) == 1, "the tensors of a group have one dtype")
        for stream in group.streams:
            if stream.coder == RAW:
                require(stream.length == -(-group.symbols * stream.width // 8), "a stream of coder raw has its length")
                continue
            require(stream.table_set < len(index.table_sets), "the table set of a stream exists")
            table_set = index.table_sets[stream.table_set]
            require(stream.base < len(table_set.tables), "a class base is below the number of tables")
            require(stream.coder != HUFFMAN or table_set.dyadic, "huffman has dyadic tables")
            most = 0 if group.symbols == 0 else 1 if len(group.tensors) > 1 else 7
            require(stream.mask <= most, "only the class vectors that a group may have are present")
        check_scales(group)
        check_transform(group, index.table_sets)
    octaves = any(OCTAVES in group.scales for group in index.groups)
    vectors = octaves or any(stream.mask for group in index.groups for stream in group.streams)
    require((index.class_set is not None) == vectors, "there is a class set if and only if there are class vectors")
    if index.class_set is not None:
        require(index.class_set < len(index.table_sets), "the class set exists")
        class_tables = index.table_sets[index.class_set]
        require(len(class_tables.tables) == 2 + octaves, "a class set has two tables, or three with octave scales")
        require(class_tables.dyadic, "the tables of a class set are dyadic")
    for group in index.groups:
        require(
            group.class_bytes == 0 or OCTAVES in group.scales or any(stream.mask for stream in group.streams),
            "class bytes hold class vectors and octave scales",
        )


# ---- container.md 6: layout of symbols and class vectors -------------------------------------------------------------


def layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return rows, columns and positions of a group of one tensor."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return shape[0], shape[1], math.prod(shape[2:])


def vector_sizes(group: Group) -> tuple[int, int, int]:
    """Return the lengths of a row, a column and a position vector of a group."""
    return layout(group.word_shapes[0]) if len(group.tensors) == 1 else (len(group.tensors), 0, 0)


Vectors = dict[int, Sequence[int]]  # bit of the class mask -> offsets


def read_class_vectors(
    group: Group, data: bytes, class_set: "TableSet | None"
) -> tuple[list[Vectors], list[Sequence[int] | None]]:
    """Return the class vectors of each stream of a group, and the offsets of its row and column scales."""
    sizes = vector_sizes(group)
    present = [[bit for bit in range(3) if stream.mask >> bit & 1] for stream in group.streams]
    octaves = [size if kind == OCTAVES else None for kind, size in zip(group.scales, sizes, strict=False)]
    count = sum(sizes[bit] for bits in present for bit in bits) + sum(size or 0 for size in octaves)
    limit(count, MAX_DECODED_BYTES, "offsets of class vectors")
    if count == 0 or class_set is None:
        return [{} for _ in group.streams], [None, None]
    row_table, other_table, *scale_table = class_set.tables
    tables = [itertools.repeat(other_table if bit else row_table, sizes[bit]) for bits in present for bit in bits]
    tables += [itertools.repeat(scale_table[0], size) for size in octaves if size is not None]
    symbols = decode_huffman(data, count, itertools.chain.from_iterable(tables))
    require(all(-128 <= symbol - class_set.origin < 128 for symbol in symbols), "an offset is from -128 to 127")
    offsets = (symbol - class_set.origin for symbol in symbols)
    vectors: list[Vectors]
    vectors = [{bit: array("b", itertools.islice(offsets, sizes[bit])) for bit in bits} for bits in present]
    return vectors, [None if size is None else array("b", itertools.islice(offsets, size)) for size in octaves]


# ---- container.md 8: optional sections -------------------------------------------------------------------------------


@dataclass
class ResumePoints:
    """The resume points of one stream: `points` yields each as the words read, then the states."""

    interval: int
    points: Iterator[tuple[int, ...]]


def read_resume(data: bytes, index: Index) -> dict[tuple[int, int], ResumePoints]:
    """Parse section `resume`; return its records by (group, stream)."""
    records: dict[tuple[int, int], ResumePoints] = {}
    previous = (-1, -1)
    position = 0
    while position < len(data):
        require(len(data) - position >= 16, "a record of resume points has 16 bytes before them")
        group_number, stream_number, interval, count = struct.unpack_from("<4I", data, position)
        position += 16
        place = (group_number, stream_number)
        require(previous < place, "records of resume points are in ascending order")
        require(group_number < len(index.groups), "the group of resume points exists")
        group = index.groups[group_number]
        require(stream_number < len(group.streams), "the stream of resume points exists")
        stream = group.streams[stream_number]
        require(stream.coder == RANS, "resume points are of rans streams")
        lanes = 1 << stream.lane_bits
        require(interval > 0 and interval % lanes == 0, "an interval is a positive multiple of the lanes")
        full, rest = divmod(group.symbols, 1 << stream.block_bits)
        expected = full * (((1 << stream.block_bits) - 1) // interval) + max(rest - 1, 0) // interval
        require(count == expected, "there is a resume point at every multiple of the interval")
        size = 4 + 4 * lanes
        require(len(data) - position >= count * size, "resume points lie in their section")
        points = data[position : position + count * size]
        records[place] = ResumePoints(interval, struct.iter_unpack(f"<{1 + lanes}I", points))
        position += len(points)
        previous = place
    return records


# ---- entropy-coding.md 1: conventions --------------------------------------------------------------------------------

Symbols = MutableSequence[int]  # an array of 16 bits each, which the largest alphabet needs


def no_symbols() -> Symbols:
    return array("H")


# ---- entropy-coding.md 2: frequency tables ---------------------------------------------------------------------------


class Bits:
    """Reads values from a bit string packed least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, width: int) -> int:
        start = self.position >> 3
        window = int.from_bytes(self.data[start : start + 4], "little") >> (self.position & 7)
        self.position += width
        require(self.position <= 8 * len(self.data), "a bit string holds what is read from it")
        return window & ((1 << width) - 1)

    def finish(self) -> None:
        """Check that only the unused bits of the last byte are left, and that they are zero."""
        left = 8 * len(self.data) - self.position
        require(left < 8 and self.take(left) == 0, "nothing follows a bit string but zero bits to the end of its byte")


class Table:
    """The counts of the symbols of one table, and where the interval of each starts."""

    def __init__(self, counts: list[int], bits: int) -> None:
        self.counts = counts
        self.bits = bits
        self.starts = list(itertools.accumulate(counts, initial=0))[:-1]
        # Code words in ascending order of (length, symbol) divide [0, 2^bits) as the counts in this order do.
        self.order = sorted((s for s, c in enumerate(counts) if c), key=lambda s: (-counts[s], s))
        self.code_starts = list(itertools.accumulate((counts[s] for s in self.order), initial=0))[:-1]

    def find(self, slot: int) -> int:
        """Return the symbol whose interval holds a slot: the last that starts at or before it."""
        return bisect.bisect_right(self.starts, slot) - 1


@dataclass
class TableSet:
    """Tables that share their alphabet."""

    bits: int
    alphabet: int
    origin: int
    tables: list[Table]

    @property
    def dyadic(self) -> bool:
        return all(count & (count - 1) == 0 for table in self.tables for count in table.counts)

    @property
    def codable(self) -> set[int]:
        """The symbols to which any table gives a count."""
        return {symbol for table in self.tables for symbol in table.order}


def read_table_sets(source: MessagePack) -> list[TableSet]:
    table_sets = []
    expanded = 0
    for _ in source.entries("table sets"):
        source.array_of(5, "a table set")
        bits, alphabet, origin, count = (source.unsigned() for _ in range(4))
        require(8 <= bits <= 14, "probability bits are from 8 to 14")
        require(
            1 <= alphabet <= 65536 and origin < alphabet, "an alphabet has 1 to 65536 symbols, the origin among them"
        )
        require(1 <= count <= 64, "a set has 1 to 64 tables")
        expanded += count * max(1 << bits, alphabet) * 8
        limit(expanded, MAX_TABLE_BYTES, "bytes of tables")
        source_bits = Bits(source.byte_string())
        tables = [Table(read_counts(source_bits, alphabet, origin, bits), bits) for _ in range(count)]
        source_bits.finish()
        table_sets.append(TableSet(bits, alphabet, origin, tables))
    return table_sets


def read_counts(source: Bits, alphabet: int, origin: int, bits: int) -> list[int]:
    counts = [0] * alphabet
    symbols = centre_out(alphabet, origin)
    remaining = 1 << bits
    after_zeros = False
    while remaining:
        symbol = next(symbols, None)
        if symbol is None:
            corrupt("a table runs out of symbols before its counts add up")
        count = source.take(remaining.bit_length())
        require(count <= remaining, "a count is at most what remains")
        require(count > 0 or not after_zeros, "a run of zero counts is maximal")
        counts[symbol] = count
        remaining -= count
        after_zeros = count == 0
        if after_zeros:
            width = 0
            while source.take(1) == 0:
                width += 1
                require(width <= 16, "a run of zero counts lies in the alphabet")
            further = (1 << width | source.take(width)) - 1
            next(itertools.islice(symbols, further, further), None)
    return counts


def centre_out(alphabet: int, origin: int) -> Iterator[int]:
    yield origin
    for distance in range(1, alphabet):
        if origin + distance < alphabet:
            yield origin + distance
        if origin - distance >= 0:
            yield origin - distance


# ---- entropy-coding.md 3: classes ------------------------------------------------------------------------------------


def tables_of_symbols(group: Group, stream: Stream, table_set: TableSet, vectors: Vectors) -> Iterator[Table]:
    """Yield the table of each symbol of a stream."""
    last = len(table_set.tables) - 1

    def table(offset: int) -> Table:
        return table_set.tables[min(max(stream.base + offset, 0), last)]

    # A vector that is absent is all zero.
    row, column, position = (vectors.get(bit, itertools.repeat(0)) for bit in range(3))
    if len(group.tensors) > 1:
        for shape, r in zip(group.word_shapes, row, strict=False):
            yield from itertools.repeat(table(r), math.prod(shape))
        return
    rows, columns, positions = layout(group.word_shapes[0])
    for _, r in zip(range(rows), row, strict=False):
        for _, k in zip(range(columns), column, strict=False):
            for _, p in zip(range(positions), position, strict=False):
                yield table(r + k + p)


# ---- entropy-coding.md 4: streams and blocks -------------------------------------------------------------------------


def decode_stream(
    data: bytes, count: int, stream: Stream, tables: Iterator[Table], resume: ResumePoints | None
) -> Symbols:
    """Return the `count` symbols of a stream."""
    if stream.coder == RAW:
        return decode_raw(data, count, stream.width)
    size = 1 << stream.block_bits
    number = -(-count // size)
    if number == 0:
        require(not data, "a stream of no symbols is empty")
        return no_symbols()
    lengths = [len(data)]
    position = 0
    if number > 1:
        position = 4 * number
        require(len(data) >= position, "a stream of several blocks starts with their lengths")
        lengths = struct.unpack_from(f"<{number}I", data)
        require(position + sum(lengths) == len(data), "blocks fill the rest of their stream")
    symbols = no_symbols()
    for length in lengths:
        block = data[position : position + length]
        position += length
        here = min(size, count - len(symbols))
        if stream.coder == RANS:
            symbols += decode_rans(block, here, 1 << stream.lane_bits, tables, resume)
        elif stream.coder == RANGE:
            symbols += decode_range(block, here, tables)
        else:
            symbols += decode_huffman(block, here, tables)
    return symbols


# ---- entropy-coding.md 5: raw ----------------------------------------------------------------------------------------


def decode_raw(data: bytes, count: int, width: int) -> Symbols:
    source = Bits(data)
    symbols = array("H", (source.take(width) for _ in range(count)))
    source.finish()
    return symbols


# ---- entropy-coding.md 6: rans ---------------------------------------------------------------------------------------


def decode_rans(block: bytes, count: int, lanes: int, tables: Iterator[Table], resume: ResumePoints | None) -> Symbols:
    require(len(block) >= 4 * lanes and len(block) % 2 == 0, "a block has a state for each lane, then words")
    states = list(struct.unpack_from(f"<{lanes}I", block))
    require(all(state >= 1 << 16 for state in states), "a stored state is at least 2^16")
    words = struct.unpack_from(f"<{len(block) // 2 - 2 * lanes}H", block, 4 * lanes)
    read = 0
    symbols = no_symbols()
    for i, table in zip(range(count), tables, strict=False):
        if resume and i and i % resume.interval == 0:
            require(next(resume.points) == (read, *states), "a resume point is what its stream passes through")
        state = states[i % lanes]
        slot = state & ((1 << table.bits) - 1)
        symbol = table.find(slot)
        state = table.counts[symbol] * (state >> table.bits) + slot - table.starts[symbol]
        if state < 1 << 16:
            require(read < len(words), "a block has every word that is read")
            state = state << 16 | words[read]
            read += 1
        states[i % lanes] = state
        symbols.append(symbol)
    require(all(state == 1 << 16 for state in states), "the last state of a lane is 2^16")
    require(read == len(words), "every word of a block is read")
    return symbols


# ---- entropy-coding.md 7: range --------------------------------------------------------------------------------------


def decode_range(block: bytes, count: int, tables: Iterator[Table]) -> Symbols:
    require(len(block) % 4 == 0, "a block is a sequence of u32 words")
    words = struct.unpack(f"<{len(block) // 4}I", block)

    def word(number: int) -> int:
        return words[number] if number < len(words) else 0

    width = (1 << 64) - 1
    value = word(0) << 32 | word(1)
    read = 0
    symbols = no_symbols()
    for _, table in zip(range(count), tables, strict=False):
        scale = width >> 24
        require(value < scale << 24, "the number of a block lies in its interval")
        shift = 24 - table.bits
        symbol = table.find(value // scale >> shift)
        value -= scale * (table.starts[symbol] << shift)
        width = scale * (table.counts[symbol] << shift)
        if width < 1 << 32:
            width <<= 32
            value = value << 32 | word(2 + read)
            read += 1
        symbols.append(symbol)
    require(len(words) in (read + 1, read + 2), "a block has the words that its symbols need")
    require(value < 1 << 33, "the number of a block ends below 2^33")
    return symbols


# ---- entropy-coding.md 8: huffman ------------------------------------------------------------------------------------


def decode_huffman(block: bytes, count: int, tables: Iterator[Table]) -> Symbols:
    position = 0
    symbols = no_symbols()
    for _, table in zip(range(count), tables, strict=False):
        start = position >> 3
        window = int.from_bytes(block[start : start + 4].ljust(4, b"\0"), "big")
        word = window >> (32 - table.bits - (position & 7)) & ((1 << table.bits) - 1)
        symbol = table.order[bisect.bisect_right(table.code_starts, word) - 1]
        position += table.bits - (table.counts[symbol].bit_length() - 1)
        require(position <= 8 * len(block), "a code word ends within its block")
        symbols.append(symbol)
    left = 8 * len(block) - position
    require(left < 8, "no byte follows the code words of a block")
    require(left == 0 or block[-1] & ((1 << left) - 1) == 0, "unused bits of a block are zero")
    return symbols


# ---- transforms.md: arithmetic ---------------------------------------------------------------------------------------


def f32(value: float) -> float:
    """Round to binary32.

    Python computes in binary64. The product of two f32 is exact there, and a sum of two f32 that was rounded to 53 bits
    rounds to 24 as the exact sum does (53 >= 2 * 24 + 2): one operation and this are what the specification writes.
    """
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def pack_f16(value: float) -> bytes:
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, value))


def pack_bf16(value: float) -> bytes:
    (pattern,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<H", (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16)


PACK: dict[str, Callable[[float], bytes]] = {
    "F16": pack_f16,
    "BF16": pack_bf16,
    "F32": lambda value: struct.pack("<f", value),
    "F64": lambda value: struct.pack("<d", value),
}


# ---- transforms.md 1 to 6: parameters --------------------------------------------------------------------------------


def read_parameters(source: MessagePack, transform: int) -> list[Any]:
    if transform == BITS:
        length = source.number(ARRAY)
        require(2 <= length <= 65, "the fields of a word have 1 to 64 widths")
        parameters = [source.unsigned() for _ in range(length)]
        require(all(1 <= width <= 16 for width in parameters[1:]), "the width of a field is from 1 to 16")
        return parameters
    if transform == CODEBOOK:
        source.array_of(1, "the parameters of a codebook")
        data = source.byte_string()
        require(len(data) % 4 == 0, "a value of a codebook has 4 bytes")
        values = list(struct.unpack(f"<{len(data) // 4}f", data))
        require(all(map(math.isfinite, values)), "the values of a codebook are finite")
        return [values]
    floats = 1 if transform == UNIFORM else 2
    source.array_of(1 + floats, "the parameters of a grid")
    offset = source.unsigned()
    require(offset < 65536, "an offset is below 65536")
    parameters = [source.float32() for _ in range(floats)]
    require(all(value > 0 for value in parameters), "the numbers of a grid are positive")
    return [offset, *parameters]


def check_transform(group: Group, table_sets: list[TableSet]) -> None:
    """Check that the dtype and the alphabets of a group are those that its transform needs."""
    if group.transform == BITS:
        drop, *widths = group.parameters
        require(drop + sum(widths) == word_bits(group.dtype), "the fields of a word fill it")
        for width, stream in zip(widths, group.streams, strict=True):
            if stream.coder == RAW:
                require(stream.width <= width, "a raw stream is no wider than its field")
            else:
                require(table_sets[stream.table_set].alphabet <= 1 << width, "an alphabet fits its field")
        return
    require(group.dtype in PACK, "only F16, BF16, F32 and F64 are quantized")
    (stream,) = group.streams
    if group.transform == CODEBOOK:
        (values,) = group.parameters
        if stream.coder == RAW:
            require(len(values) <= 1 << stream.width, "a codebook has at most 2^width values")
            require(len(values) > 0 or group.symbols == 0, "a codebook has a value")
        else:
            require(len(values) == table_sets[stream.table_set].alphabet, "a codebook has a value for each symbol")
    if stream.coder != RAW:
        grid(group, table_sets[stream.table_set].codable)


def word_bits(dtype: str) -> int:
    return 32 if dtype == "C64" else dict(DTYPES)[dtype]


# ---- transforms.md 1 and 3 to 6: quantized groups --------------------------------------------------------------------


def grid(group: Group, symbols: set[int]) -> dict[int, float]:
    """Return the value of each of these symbols, all of them finite."""
    if group.transform == CODEBOOK:
        (values,) = group.parameters
        require(max(symbols, default=-1) < len(values), "a codebook has a value for each symbol")
        return {u: values[u] for u in symbols}
    offset, *numbers = group.parameters
    if group.transform == UNIFORM:
        (step,) = numbers
        result = {u: f32((u - offset) * step) for u in symbols}
    elif group.transform == JOINT:
        step, threshold = numbers
        result = {u: joint(u - offset, step, threshold) for u in symbols}
    else:
        scale, growth = numbers
        most = max((abs(u - offset) for u in symbols), default=0)
        powers = list(
            itertools.accumulate(itertools.repeat(growth, most), lambda power, _: power * growth, initial=1.0)
        )
        result = {u: sign(u - offset) * f32(scale * (powers[abs(u - offset)] - 1)) for u in symbols}
    require(all(map(math.isfinite, result.values())), "the value of a symbol is finite")
    return result


def sign(q: int) -> int:
    return (q > 0) - (q < 0)


def joint(q: int, step: float, threshold: float) -> float:
    if q == 0:
        return 0.0
    return sign(q) * f32(threshold + f32((abs(q) - 0.5) * step))


def decode_quantized(group: Group, symbols: Symbols, row_scales: list[float], column_scales: list[float]) -> bytes:
    values = grid(group, set(symbols))
    pack = PACK[group.dtype]
    if not row_scales and not column_scales:
        elements = {u: pack(value) for u, value in values.items()}
        return b"".join(map(elements.__getitem__, symbols))
    _, columns, positions = layout(group.tensors[0].shape)
    result = bytearray()
    for i, u in enumerate(symbols):
        value = values[u]
        if row_scales:
            value = f32(value * row_scales[i // (columns * positions)])
        if column_scales:
            value = f32(value * column_scales[i // positions % columns])
        result += pack(value)
    return bytes(result)


# ---- transforms.md 2: bits -------------------------------------------------------------------------------------------


def decode_bits(group: Group, fields: Iterator[Symbols]) -> bytes:
    drop, *widths = group.parameters
    shifts = itertools.accumulate(widths[:-1], initial=drop)
    words = array({8: "B", 16: "H", 32: "I", 64: "Q"}[word_bits(group.dtype)], [0]) * group.symbols
    for shift, symbols in zip(shifts, fields, strict=True):
        for i, symbol in enumerate(symbols):
            words[i] |= symbol << shift
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


# ---- transforms.md 7: scales -----------------------------------------------------------------------------------------

READ_SCALE: dict[str, Callable[[bytes], float]] = {
    "F32": lambda data: struct.unpack("<f", data)[0],
    "F16": lambda data: struct.unpack("<e", data)[0],
    "BF16": lambda data: struct.unpack("<f", b"\0\0" + data)[0],
    "F8_E8M0": lambda data: math.nan if data == b"\xff" else math.ldexp(1.0, data[0] - 127),
}


def check_scales(group: Group) -> None:
    if group.scales == (None, None):
        return
    require(group.transform != BITS, "a group of transform bits has no scales")
    require(
        len(group.tensors) == 1 and len(group.tensors[0].shape) >= 2,
        "scales belong to one tensor of two dimensions or more",
    )
    require(group.symbols > 0, "a group without elements has no scales")
    for dtype in group.scales:
        require(
            dtype in (None, OCTAVES) or DTYPES[dtype][0] in READ_SCALE, "scales are F32, F16, BF16, F8_E8M0 or octaves"
        )


def read_scales(data: bytes, dtype: int | None) -> list[float]:
    if dtype in (None, OCTAVES):
        return []
    name, bits = DTYPES[dtype]
    size = bits // 8
    scales = [READ_SCALE[name](data[i : i + size]) for i in range(0, len(data), size)]
    require(all(math.isfinite(scale) and scale > 0 for scale in scales), "scales are finite and positive")
    return scales


# The bits of 2^(k / 8) as a binary32 number.
OCTAVE_PARTS = (0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7)


def octave_scale(offset: int) -> float:
    (part,) = struct.unpack("<f", struct.pack("<I", OCTAVE_PARTS[offset % 8]))
    return math.ldexp(part, offset // 8)


# ---- container.md 1, 5 and 8: a file ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A decoded tensor: elements in C order, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass
class Model:
    """What a file, or a set of shards, holds."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def decode(data: bytes) -> Model:
    """Decode the bytes of one file.

    Raises:
        Refused: the file is not valid, or beyond the limits.
    """
    index_bytes, position = read_index_bytes(data)
    index = read_index(index_bytes)
    lengths = [group.bytes for group in index.groups] + [length for _, length, _ in index.sections]
    require(position + sum(lengths) == len(data), "index, groups and sections fill the file")
    checksums = [group.checksum for group in index.groups] + [checksum for _, _, checksum in index.sections]
    parts = []
    for length, checksum in zip(lengths, checksums, strict=True):
        parts.append(data[position : position + length])
        require(zlib.crc32(parts[-1]) == checksum, "the checksum of a group or section fits")
        position += length
    resume: dict[tuple[int, int], ResumePoints] = {}
    for (kind, _, _), part in zip(index.sections, parts[len(index.groups) :], strict=True):
        if kind == "resume":
            resume = read_resume(part, index)
    decoded: dict[str, Tensor] = {}
    for number, group in enumerate(index.groups):
        decoded |= decode_group(index, number, group, parts[number], resume)
    return Model({entry.name: decoded[entry.name] for entry in index.tensors}, index.aliases, index.metadata)


def decode_group(
    index: Index, number: int, group: Group, data: bytes, resume: dict[tuple[int, int], ResumePoints]
) -> dict[str, Tensor]:
    position = 0
    parts = []
    for stream in group.streams:
        parts.append(data[position : position + stream.length])
        padding = data[position + stream.length : position + padded(stream.length)]
        require(not any(padding), "the padding of a stream is zero")
        position += padded(stream.length)
    scales = []
    for dtype, size in zip(group.scales, group.scale_bytes, strict=True):
        scales.append(read_scales(data[position : position + size], dtype))
        position += size
    class_set = None if index.class_set is None else index.table_sets[index.class_set]
    vectors, octaves = read_class_vectors(group, data[position:], class_set)
    for place, offsets in enumerate(octaves):
        if offsets is not None:
            scales[place] = [octave_scale(offset) for offset in offsets]

    def symbols_of(place: int, stream: Stream) -> Symbols:
        tables: Iterator[Table] = iter(())
        if stream.coder != RAW:
            tables = tables_of_symbols(group, stream, index.table_sets[stream.table_set], vectors[place])
        return decode_stream(parts[place], group.symbols, stream, tables, resume.get((number, place)))

    sequences = itertools.starmap(symbols_of, enumerate(group.streams))
    if group.transform == BITS:
        elements = decode_bits(group, sequences)
    else:
        elements = decode_quantized(group, next(sequences), *scales)
    result = {}
    position = 0
    for entry in group.tensors:
        result[entry.name] = Tensor(group.dtype, entry.shape, elements[position : position + entry.bytes])
        position += entry.bytes
    return result


# ---- container.md 10: sharded models ---------------------------------------------------------------------------------


def decode_shards(path: Path) -> Model:
    """Decode the shards that an index names."""
    weight_map, total_size, checksums = read_shard_index(path.read_bytes())
    model = Model()
    decoded = 0
    for file_name in dict.fromkeys(weight_map.values()):
        data = (path.parent / file_name).read_bytes()
        shard = decode(data)
        placed = {name for name, where in weight_map.items() if where == file_name}
        require(
            placed == shard.tensors.keys() | shard.aliases.keys(),
            "a shard holds exactly the names that the index places there",
        )
        require(checksums is None or checksums[file_name] == shard_checksum(data), "a shard is the one of its index")
        model.tensors |= shard.tensors
        model.aliases |= shard.aliases
        decoded = sum(len(tensor.data) for tensor in model.tensors.values())
        limit(decoded, MAX_DECODED_BYTES, "bytes of decoded tensors of all shards")
    require(total_size is None or total_size == decoded, "total_size is the bytes of the decoded tensors")
    return model


def shard_checksum(data: bytes) -> int:
    """Return the CRC-32 of a file's inflated index with an empty array of sections."""
    index, _ = read_index_bytes(data)
    start, end = read_index(index).sections_at
    return zlib.crc32(index[:start] + bytes([ARRAY[0]]) + index[end:])


def read_shard_index(data: bytes) -> tuple[dict[str, str], int | None, dict[str, int] | None]:
    """Return the weight map and, if any, the total size and the checksums of the shards."""
    limit(len(data), MAX_INDEX_BYTES, "bytes of index")
    try:
        index = json.loads(data.decode("utf-8"), object_pairs_hook=distinct, parse_constant=corrupt)
    except (ValueError, RecursionError) as error:
        corrupt(f"the index of the shards is not JSON: {error}")
    require(isinstance(index, dict), "the index of the shards is an object")
    metadata, weight_map = index.get("metadata"), index.get("weight_map")
    require(isinstance(metadata, dict) and isinstance(weight_map, dict), "metadata and weight_map are objects")
    limit(len(weight_map), MAX_ENTRIES, "names")
    total_size = metadata.get("total_size")
    require("total_size" not in metadata or type(total_size) is int, "total_size is an integer")
    for name, file_name in weight_map.items():
        check_name(name)
        require(isinstance(file_name, str), "the name of a shard is a string")
        check_name(file_name)
        plain = file_name not in (".", "..") and not set(file_name) & set("/\\:")
        require(plain, "the name of a shard is that of a file in the same folder")
    checksums: Any = metadata.get("checksums")
    if "checksums" in metadata:
        require(isinstance(checksums, dict), "checksums are an object")
        require(checksums.keys() == set(weight_map.values()), "checksums are those of all shards, and of no others")
        fits = all(type(checksum) is int and 0 <= checksum < 1 << 32 for checksum in checksums.values())
        require(fits, "the checksum of a shard is an integer of 32 bits")
    return weight_map, total_size, checksums


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    require(len(result) == len(pairs), "the keys of an object are distinct")
    return result


# ---- command line ----------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Print what files decode to; return the exit status."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for argument in arguments:
        path = Path(argument)
        try:
            model = decode_shards(path) if path.suffix == ".json" else decode(path.read_bytes())
        except Refused as refused:
            print(f"{argument}: {refused.code}: {refused}", file=sys.stderr)
            return 1
        except (OSError, MemoryError) as error:
            print(f"{argument}: {error}", file=sys.stderr)
            return 1
        for name, tensor in model.tensors.items():
            digest = hashlib.sha256(tensor.data).hexdigest()
            print(json.dumps(name), tensor.dtype, list(tensor.shape), digest)
        for name, target in model.aliases.items():
            print(json.dumps(name), "=", json.dumps(target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
