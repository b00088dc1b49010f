"""The index of a file: parsed with every check, written in its one canonical form (spec/container.md 3 to 8)."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from l2fmt._registry import RAW
from l2fmt.container import rules
from l2fmt.container._msgpack import Unpacker, pack
from l2fmt.container.entries import OCTAVES, Group, Section, Stream, TableSetEntry, TensorEntry
from l2fmt.container.limits import Limits
from l2fmt.container.rules import show
from l2fmt.dtypes import DType, dtype_by_id
from l2fmt.errors import CorruptFileError

_KEYS = ("aliases", "class_set", "groups", "metadata", "sections", "table_sets", "tensors")
_RAW_FIELDS, _CODED_FIELDS = 3, 7


@dataclass(frozen=True)
class Index:
    """What a file holds; `class_set` is the table set that codes class vectors, `aliases` name -> name."""

    tensors: tuple[TensorEntry, ...]
    groups: tuple[Group, ...]
    table_sets: tuple[TableSetEntry, ...]
    class_set: int | None
    aliases: Mapping[str, str]
    metadata: Mapping[str, str]
    sections: tuple[Section, ...]

    @property
    def payload_length(self) -> int:
        """Bytes of all groups and sections."""
        return sum(part.length for part in (*self.groups, *self.sections))

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        values = (
            dict(sorted(self.aliases.items())),
            self.class_set,
            [group.to_list() for group in self.groups],
            dict(sorted(self.metadata.items())),
            [section.to_list() for section in self.sections],
            [entry.to_list() for entry in self.table_sets],
            [[tensor.name, tensor.dtype.id, list(tensor.shape), tensor.group] for tensor in self.tensors],
        )
        return pack(dict(zip(_KEYS, values, strict=True)))

    @property
    def content_checksum(self) -> int:
        """What a shard index knows a file by: the CRC-32 of this index without sections (spec/container.md 10)."""
        return zlib.crc32(replace(self, sections=()).to_bytes())

    @classmethod
    def parse(cls, data: bytes, limits: Limits | None = None, start: int = 0) -> "Index":
        """Parse and check an index whose groups begin at byte `start` of the file.

        Raises CorruptFileError, LimitExceededError or UnsupportedError. Memory is bounded by the length of `data`.
        """
        index = _Parser(data, limits or Limits(), start).index()
        if index.to_bytes() != data:
            raise CorruptFileError("the index is not canonical, or bytes follow it")
        return index


class _Parser:
    """One pass over an index, but for groups and sections: passed over at first, because they need what follows.

    Every entry is checked before the next one takes memory.
    """

    def __init__(self, data: bytes, limits: Limits, start: int):
        self._data = data
        self._unpack = Unpacker(data)
        self._limits = limits
        self._offset = start

    def index(self) -> Index:
        unpack = self._unpack
        if (found := unpack.map()) != len(_KEYS):
            raise CorruptFileError(f"the index has {found} keys; it must have {', '.join(_KEYS)}")
        self._key("aliases")
        aliases = dict(unpack.pairs(self._count(unpack.map(), "aliases")))
        self._key("class_set")
        class_set: Any = unpack.value()
        groups_at, n_groups = self._pass_over("groups")
        self._key("metadata")
        metadata = dict(unpack.pairs(self._count(unpack.map(), "metadata")))
        sections_at, n_sections = self._pass_over("sections")
        table_sets = tuple(_table_set(value, number) for number, value in enumerate(self._entries("table_sets")))
        self._limits.check("max_table_bytes", sum(entry.expanded_bytes for entry in table_sets), "expanded tables")
        tensors = tuple(_tensor(value, n_groups) for value in self._entries("tensors"))
        _check_aliases(aliases, tensors)
        groups = self._groups(groups_at, n_groups, tensors, table_sets)
        sections = self._sections(sections_at, n_sections)
        index = Index(tensors, groups, table_sets, class_set, aliases, metadata, sections)
        _check_class_set(index)
        if index.nbytes > rules.MAX_SIZE:
            raise CorruptFileError("the tensors decode to 2^63 bytes or more")
        self._limits.check("max_decoded_bytes", index.nbytes, "bytes of all decoded tensors")
        return index

    def _key(self, expected: str) -> None:
        if (found := self._unpack.value()) != expected:
            raise CorruptFileError(f"the index has {show(found)} where key {expected!r} belongs")

    def _count(self, found: int, what: str) -> int:
        self._limits.check("max_tensors", found, f"number of {what}")
        return found

    def _entries(self, key: str) -> Iterator[object]:
        self._key(key)
        for _ in range(self._count(self._unpack.array(), key)):
            yield self._unpack.value()

    def _pass_over(self, key: str) -> tuple[int, int]:
        """Pass over the entries of an array; return where they begin and how many they are."""
        self._key(key)
        count = self._count(self._unpack.array(), key)
        position = self._unpack.position
        for _ in range(count):
            self._unpack.skip()
        return position, count

    def _entries_at(self, position: int, count: int) -> Iterator[object]:
        unpack = Unpacker(memoryview(self._data)[position:])
        return (unpack.value() for _ in range(count))

    def _groups(
        self, position: int, count: int, tensors: tuple[TensorEntry, ...], table_sets: tuple[TableSetEntry, ...]
    ) -> tuple[Group, ...]:
        members: list[list[TensorEntry]] = [[] for _ in range(count)]
        for tensor in tensors:
            members[tensor.group].append(tensor)
        groups, streams = [], 0
        for number, value in enumerate(self._entries_at(position, count)):
            if not members[number]:
                raise CorruptFileError(f"group {number} has no tensor")
            group = _group(value, number, tuple(members[number]), self._offset)
            rules.check_group(group, table_sets)
            self._limits.check("max_tensor_bytes", group.nbytes, f"decoded bytes of {group.label}")
            # A stream of one-bit fields may have a vector as long as the tensor, whose offsets take no bits either.
            offsets = sum(size for _, size in group.vectors)
            self._limits.check("max_tensor_bytes", offsets, f"class offsets of {group.label}")
            streams = self._count(streams + len(group.streams), "streams")
            self._offset += group.length
            groups.append(group)
        return tuple(groups)

    def _sections(self, position: int, count: int) -> tuple[Section, ...]:
        sections, kinds = [], set()
        for value in self._entries_at(position, count):
            kind, length, checksum = _fields(value, 3, "a section")
            section = Section(kind, length, checksum, self._offset)
            rules.check_section(section)
            if kind in kinds:
                raise CorruptFileError(f"there are two sections of kind {kind!r}; kinds are distinct")
            kinds.add(kind)
            self._offset += length
            sections.append(section)
        return tuple(sections)


def _fields(value: object, count: int, what: str) -> list:
    if not isinstance(value, list) or len(value) != count:
        raise CorruptFileError(f"{what} is {show(value)}; it must be an array of {count}")
    return value


def _array(value: object, what: str) -> list:
    if not isinstance(value, list):
        raise CorruptFileError(f"{what} is {show(value)}; it must be an array")
    return value


def _dtype(value: object, what: str) -> DType:
    return dtype_by_id(rules.check_integer(value, 0, rules.MAX_SIZE, what))


def _scale_kind(value: object, what: str) -> DType:
    return OCTAVES if type(value) is int and value == OCTAVES.id else _dtype(value, what)


def _tensor(value: object, n_groups: int) -> TensorEntry:
    name, dtype, shape, group = _fields(value, 4, "a tensor")
    where = f"tensor {show(name)}"
    shape = tuple(_array(shape, f"{where}: shape"))
    tensor = TensorEntry(name, _dtype(dtype, f"{where}: dtype"), shape, group)
    rules.check_tensor(tensor)
    rules.check_integer(group, 0, n_groups - 1, f"{where}: group")
    return tensor


def _table_set(value: object, number: int) -> TableSetEntry:
    entry = TableSetEntry(*_fields(value, 5, f"table set {number}"))
    rules.check_table_set(entry, number)
    return entry


def _group(value: object, number: int, tensors: tuple[TensorEntry, ...], offset: int) -> Group:
    where = f"group {number}"
    transform, parameters, scales, streams, class_bytes, checksum = _fields(value, 6, where)
    rows, columns = (
        None if scale is None else _scale_kind(scale, f"{where}: scale dtype")
        for scale in _fields(scales, 2, f"{where}: scales")
    )
    return Group(
        transform=transform,
        parameters=tuple(_array(parameters, f"{where}: parameters")),
        scales=(rows, columns),
        streams=tuple(_stream(stream, where) for stream in _array(streams, f"{where}: streams")),
        class_bytes=class_bytes,
        checksum=checksum,
        tensors=tensors,
        offset=offset,
    )


def _stream(value: object, where: str) -> Stream:
    fields = _array(value, f"{where}: a stream")
    if fields[:1] == [RAW]:
        return Stream(*_fields(value, _RAW_FIELDS, f"{where}: a stream of coder raw"))
    coder, length, *coded = _fields(value, _CODED_FIELDS, f"{where}: a stream of a coder other than raw")
    return Stream(coder, length, 0, *coded)


def _check_aliases(aliases: Mapping[str, str], tensors: tuple[TensorEntry, ...]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise CorruptFileError(f"there are two tensors {tensor.name!r}; names are distinct")
        names.add(tensor.name)
    for alias, name in aliases.items():
        rules.check_name(alias, "alias")
        if alias in names:
            raise CorruptFileError(f"alias {alias!r} is also the name of a tensor; names are distinct")
        if name not in names:
            raise CorruptFileError(f"alias {alias!r} stands for {show(name)}, which is no tensor of the file")


def _check_class_set(index: Index) -> None:
    used = has_class_vectors(index.groups)
    if index.class_set is None:
        if used:
            raise CorruptFileError("the index has class vectors, but no class set to decode them")
        return
    rules.check_integer(index.class_set, 0, len(index.table_sets) - 1, "class set")
    if not used:
        raise CorruptFileError("the index has a class set, but no class vectors; the class set must be nil")
    expected = 3 if any(OCTAVES in group.scales for group in index.groups) else 2
    if (found := index.table_sets[index.class_set].n_tables) != expected:
        raise CorruptFileError(f"the class set has {found} tables; it must have {expected}")


def has_class_vectors(groups: Iterable[Group]) -> bool:
    """Return whether there are class vectors or octave scales in any group, which take a class set."""
    return any(OCTAVES in group.scales or any(stream.class_mask for stream in group.streams) for group in groups)
