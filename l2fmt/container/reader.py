"""Reads a file: its index at once, groups and sections when asked for (spec/container.md)."""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from l2codec.float_mode import ieee_floats
from l2fmt.container.entries import Group, Section, TableSetEntry, TensorEntry
from l2fmt.container.header import HEADER_BYTES, Header
from l2fmt.container.index import Index
from l2fmt.container.limits import Limits
from l2fmt.container.sources import open_source
from l2fmt.errors import CorruptFileError, FormatError, MissingTensorError

if TYPE_CHECKING:
    from l2codec import TableSet

# Enough for the header and the index of most models, so that opening one is a single read.
_FIRST_READ = 1 << 16


@dataclass(frozen=True)
class GroupBytes:
    """The bytes of a group, checked against its checksum: one uint8 array a stream, then scales and class vectors."""

    streams: list[np.ndarray]
    row_scales: bytes
    column_scales: bytes
    class_bytes: bytes


class Reader:
    """An open file: header and index are read and checked, tensors are read group by group.

    `source` is a path, a buffer, a binary file object or "-" (see `sources.open_source`). Raises FormatError kinds for
    what the file is, FileAccessError kinds for what the system refuses. A context manager; threads may share it.
    """

    def __init__(self, source: Any, *, limits: Limits | None = None):
        self.limits = limits or Limits()
        self._source = open_source(source, self.limits.allowed("max_decoded_bytes"))
        try:
            self.header, self.index = self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, FormatError) and self.name not in str(error):  # there may be several files
                error.args = (f"{self.name}: {error}",)
            raise
        self.tensors: dict[str, TensorEntry] = {tensor.name: tensor for tensor in self.index.tensors}

    def _open(self) -> tuple[Header, Index]:
        source, limits = self._source, self.limits
        first = source.read(0, min(source.size, _FIRST_READ)).tobytes()
        header = Header.parse(first[:HEADER_BYTES])
        limits.check("max_index_bytes", header.index_length, "bytes of the index")
        limits.check("max_inflated_index_bytes", header.inflated_index_length, "bytes of the inflated index")
        if header.file_length != source.size:
            raise CorruptFileError(
                f"{source.name} has {source.size} bytes; its header says {header.file_length}: "
                + ("it is truncated" if source.size < header.file_length else "bytes were appended")
            )
        end = header.payload_offset
        if end > source.size:
            raise CorruptFileError(f"the index has {header.index_length} bytes and does not fit the file")
        stored = first[HEADER_BYTES:end]
        if end > len(first):
            stored += source.read(len(first), end - len(first)).tobytes()
        with ieee_floats():
            index = Index.parse(header.index_bytes(stored), limits, end)
        if (found := end + index.payload_length) != source.size:
            raise CorruptFileError(f"groups and sections end at byte {found}; the file has {source.size} bytes")
        return header, index

    @property
    def name(self) -> str:
        """What error messages call the file."""
        return self._source.name

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata."""
        return self.index.metadata

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of tensors: alias -> name."""
        return self.index.aliases

    def names(self) -> list[str]:
        """Return the names of all tensors in the order of the model, then all aliases."""
        return [*self.tensors, *self.aliases]

    def resolve(self, name: str) -> TensorEntry:
        """Return the tensor of that name or alias; raise MissingTensorError if there is none."""
        entry = self.tensors.get(self.aliases.get(name, name))
        if entry is None:
            near = get_close_matches(name, self.names()[:10000], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise MissingTensorError(f"no tensor {name!r} in {self.name}{hint}")
        return entry

    def read_group(self, number: int) -> GroupBytes:
        """Read a group, check its checksum and padding, and cut it into its parts."""
        group = self.index.groups[number]
        data = self._read(group, group.label)
        streams, position = [], 0
        for stream in group.streams:
            end = position + stream.length
            streams.append(data[position:end])
            position = end + stream.padding
            if stream.padding and data[end:position].any():
                raise CorruptFileError(f"{group.label}: the padding of a stream is not zero")
        rows, columns = group.scale_bytes
        scales, classes = data[position : position + rows + columns], data[position + rows + columns :]
        row_scales, column_scales = scales[:rows], scales[rows:]
        return GroupBytes(
            streams=streams,
            row_scales=row_scales.tobytes(),
            column_scales=column_scales.tobytes(),
            class_bytes=classes.tobytes(),
        )

    def section(self, kind: str) -> Section | None:
        """Return the section of that kind, or None."""
        return next((section for section in self.index.sections if section.kind == kind), None)

    def read_section(self, section: Section) -> bytes:
        """Read a section and check its checksum."""
        return self._read(section, f"section {section.kind!r}").tobytes()

    def verify_checksums(self) -> None:
        """Check every byte that opening did not: all groups and sections, one at a time."""
        for number in range(len(self.index.groups)):
            self.read_group(number)
        for section in self.index.sections:
            self.read_section(section)

    def _read(self, part: Group | Section, label: str) -> np.ndarray:
        data = self._source.read(part.offset, part.length)
        if zlib.crc32(data.data) != part.checksum:
            end = part.offset + part.length
            raise CorruptFileError(f"{label} is damaged: the checksum of bytes {part.offset} to {end} does not match")
        return data

    @cached_property
    def table_sets(self) -> list["TableSet"]:
        """All frequency tables of the file, expanded on first use."""
        return [_table_set(entry, number) for number, entry in enumerate(self.index.table_sets)]

    @cached_property
    def class_tables(self) -> "TableSet | None":
        """The tables that code class vectors, or None; dyadic, as their coder requires."""
        number = self.index.class_set
        if number is None:
            return None
        if not self.table_sets[number].is_dyadic:
            raise CorruptFileError(f"table set {number} codes class vectors, but is not dyadic")
        return self.table_sets[number]

    def close(self) -> None:
        """Release the file; a file object or buffer of the caller stays open."""
        with suppress(OSError):
            self._source.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _table_set(entry: TableSetEntry, number: int) -> "TableSet":
    from l2codec import CodecError, TableSet  # the compiled coders load with it; opening a file must stay cheap

    try:
        return TableSet.from_bytes(entry.data, entry.n_tables, entry.alphabet, entry.probability_bits, entry.origin)
    except CodecError as error:
        raise CorruptFileError(f"table set {number}: {error}") from error
