"""Writes a file: payload first into a spool, then header, index and payload to the target (spec/container.md)."""

import contextlib
import io
import operator
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, BinaryIO

import numpy as np

from l2fmt.container import rules
from l2fmt.container.atomic import atomic_write, check_target
from l2fmt.container.entries import Group, Section, Stream, TableSetEntry, TensorEntry
from l2fmt.container.header import Header
from l2fmt.container.index import Index, has_class_vectors
from l2fmt.container.limits import Limits
from l2fmt.container.sources import translate_os_errors
from l2fmt.dtypes import DType
from l2fmt.errors import FormatError, InputError

Buffer = bytes | bytearray | memoryview | np.ndarray

_SPOOL_MEMORY = 64 << 20
_COPY_CHUNK = 1 << 20
# What a file may hold does not depend on the memory of the machine that writes it.
_WRITER_LIMITS = replace(
    Limits.none(),
    **{
        field: getattr(Limits(), field)
        for field in ("max_index_bytes", "max_inflated_index_bytes", "max_tensors", "max_table_bytes")
    },
)


class Writer:
    """Collects table sets, groups, aliases and sections, and writes the file when closed.

    `target` is a path (written atomically; an existing file needs `overwrite`), a writable binary file object (which
    need not seek), or None: `getvalue` then returns the bytes. As a context manager it writes nothing if the block
    raises. What is refused raises InputError, by the same rules a reader applies; `close` may raise FileAccessError.
    """

    def __init__(self, target: Any = None, *, metadata: Mapping[str, str] | None = None, overwrite: bool = False):
        self._target, self._overwrite = target, overwrite
        self._metadata = dict(metadata or {})
        for item in self._metadata.items():
            for text in item:
                _check_text(text, "metadata")
        if is_path(target):
            check_target(target, overwrite=overwrite)
        elif target is not None and not hasattr(target, "write"):
            raise InputError(f"a target must be a path, a binary file or None, not {type(target)}")
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY, dir=_spool_folder(target))  # noqa: SIM115
        self._length = 0
        self._tensors: dict[str, TensorEntry] = {}
        self._order: list[str] | None = None
        self._groups: list[Group] = []
        self._table_sets: list[TableSetEntry] = []
        self._class_set: int | None = None
        self._aliases: dict[str, str] = {}
        self._sections: list[Section] = []
        self._section_data: list[bytes] = []
        self._value: bytes | None = None

    def add_table_set(self, entry: TableSetEntry, *, for_classes: bool = False) -> int:
        """Add a table set and return its number; `for_classes`: it codes the class vectors of all groups."""
        self._check_open()
        with _as_input_error():
            rules.check_table_set(entry, len(self._table_sets))
        if for_classes:
            self._class_set = len(self._table_sets)
        self._table_sets.append(entry)
        return len(self._table_sets) - 1

    def add_group(
        self,
        tensors: Sequence[tuple[str, DType, Sequence[int]]],
        transform: int,
        parameters: Sequence[Any],
        scales: tuple[DType | None, DType | None],
        streams: Sequence[tuple[Stream, Buffer]],
        row_scale_bytes: Buffer = b"",
        column_scale_bytes: Buffer = b"",
        class_bytes: Buffer = b"",
    ) -> int:
        """Add a group of `(name, dtype, shape)` tensors and return its number; its table sets must have been added.

        The lengths of the streams are those of their bytes.
        """
        self._check_open()
        number = len(self._groups)
        entries = [
            TensorEntry(name, dtype, tuple(map(operator.index, shape)), number) for name, dtype, shape in tensors
        ]
        views = [_view(data) for _, data in streams]
        scale_views = [_view(row_scale_bytes), _view(column_scale_bytes)]
        group = Group(
            transform=transform,
            parameters=tuple(map(_plain, parameters)),
            scales=scales,
            streams=tuple(_with_length(stream, len(view)) for (stream, _), view in zip(streams, views, strict=True)),
            class_bytes=len(classes := _view(class_bytes)),
            checksum=0,
            tensors=tuple(entries),
            offset=self._length,
        )
        with _as_input_error():
            self._check_tensors(entries)
            rules.check_group(group, self._table_sets)
        for name, view, expected in zip(("row", "column"), scale_views, group.scale_bytes, strict=True):
            if len(view) != expected:
                raise InputError(f"{group.label}: {name} scales take {expected} bytes, not {len(view)}")
        padded = [
            part for stream, view in zip(group.streams, views, strict=True) for part in (view, bytes(stream.padding))
        ]
        checksum = self._append([*padded, *scale_views, classes])
        self._tensors.update((entry.name, entry) for entry in entries)
        self._groups.append(replace(group, checksum=checksum))
        return number

    def _check_tensors(self, entries: list[TensorEntry]) -> None:
        if not entries:
            raise InputError("a group has at least one tensor")
        seen = set()
        for entry in entries:
            rules.check_tensor(entry)
            if entry.name in self._tensors or entry.name in seen:
                raise InputError(f"tensor {entry.name!r} was added before")
            seen.add(entry.name)

    def _append(self, parts: Iterable[bytes | memoryview]) -> int:
        """Write parts to the spool and return their checksum."""
        checksum = 0
        with translate_os_errors(self._label, "write"):
            self._spool.seek(self._length)  # what a failed call has left is written over
            for part in parts:
                checksum = zlib.crc32(part, checksum)
                self._spool.write(part)
            self._length = self._spool.tell()
        return checksum

    def add_alias(self, alias: str, name: str) -> None:
        """Add another name of a tensor; the tensor may follow."""
        self._check_open()
        with _as_input_error():
            rules.check_name(alias, "alias")
            rules.check_name(name, "tensor name")
        if alias in self._aliases:
            raise InputError(f"alias {alias!r} was added before")
        self._aliases[alias] = name

    def add_section(self, kind: str, data: bytes) -> None:
        """Add an optional section."""
        self._check_open()
        section = Section(kind, len(data), zlib.crc32(data), 0)
        with _as_input_error():
            rules.check_section(section)
        self._sections.append(section)
        self._section_data.append(bytes(data))

    def order(self, names: Iterable[str]) -> None:
        """Set the order of the tensors in the model, by default that in which they were added.

        Tensors of one group must stay in the order in which they were given.
        """
        self._order = list(names)

    def _index(self) -> Index:
        order = list(self._tensors) if self._order is None else self._order
        if len(order) != len(self._tensors) or set(order) != set(self._tensors):
            different = sorted(set(order) ^ set(self._tensors)) or ["repeated names"]
            raise InputError(f"the order must name every tensor once; it differs in {different[0]!r}")
        tensors = tuple(self._tensors[name] for name in order)
        positions: dict[int, int] = {}
        for tensor in tensors:
            position = positions.get(tensor.group, 0)
            if self._groups[tensor.group].tensors[position] is not tensor:
                raise InputError(f"the order moves {tensor.name!r} within its group")
            positions[tensor.group] = position + 1
        return Index(
            tensors=tensors,
            groups=tuple(self._groups),
            table_sets=tuple(self._table_sets),
            class_set=self._class_set if has_class_vectors(self._groups) else None,
            aliases=self._aliases,
            metadata=self._metadata,
            sections=tuple(self._sections),
        )

    @property
    def content_checksum(self) -> int:
        """What a shard index knows the file by, see `Index.content_checksum`."""
        return self._index().content_checksum

    def close(self) -> None:
        """Write the file; a second call does nothing."""
        if self._spool.closed:
            return
        with self._spool:
            with _as_input_error():
                data = self._index().to_bytes()
                _WRITER_LIMITS.check("max_inflated_index_bytes", len(data), "bytes of the index")
                index = Index.parse(data, _WRITER_LIMITS)  # the reader has the last word
                header, stored = Header.build(data, index.payload_length)
                _WRITER_LIMITS.check("max_index_bytes", len(stored), "bytes of the stored index")
            head = header.pack() + stored
            if is_path(self._target):
                with atomic_write(self._target, overwrite=self._overwrite) as file:
                    self._write(file, head)
            elif self._target is None:
                buffer = io.BytesIO()
                self._write(buffer, head)
                self._value = buffer.getvalue()
            else:
                with translate_os_errors(self._label, "write"):
                    self._write(self._target, head)

    def _write(self, file: BinaryIO, head: bytes) -> None:
        file.write(head)
        self._spool.seek(0)
        left = self._length
        while left:
            chunk = self._spool.read(min(left, _COPY_CHUNK))
            file.write(chunk)
            left -= len(chunk)
        for data in self._section_data:
            file.write(data)

    def getvalue(self) -> bytes:
        """Return the bytes of a file that was written to no target."""
        if self._value is None:
            raise InputError("the writer has a target, or was not closed")
        return self._value

    def abort(self) -> None:
        """Give up: nothing is written."""
        self._spool.close()

    @property
    def _label(self) -> str:
        return os.fsdecode(self._target) if is_path(self._target) else "the file object"

    def _check_open(self) -> None:
        if self._spool.closed:
            raise InputError("the writer is closed")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def is_path(target: object) -> bool:
    """Whether a target is a path, and no file object or None."""
    return isinstance(target, str | os.PathLike)


def _spool_folder(target: Any) -> str | None:
    """Return the folder of a target that is or will be a plain file: where it fits, its payload does."""
    if not is_path(target) or (os.path.exists(target) and not os.path.isfile(target)):
        return None
    return os.path.dirname(os.path.realpath(os.fsdecode(target)))


@contextlib.contextmanager
def _as_input_error() -> Iterator[None]:
    """Turn a refusal by the format's rules into one of what the caller gave."""
    try:
        yield
    except FormatError as error:
        raise InputError(str(error)) from error


def _check_text(text: object, what: str) -> None:
    try:
        if not isinstance(text, str):
            raise InputError(f"{what} {rules.show(text)} must be a string")
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} {rules.show(text)} is not valid Unicode") from error


def _view(data: Buffer) -> memoryview:
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _with_length(stream: Stream, length: int) -> Stream:
    values = [operator.index(getattr(stream, field.name)) for field in fields(stream)]
    return replace(Stream(*values), length=length)


def _plain(value: Any) -> Any:
    """Return a parameter as the built-in type that the rules ask for."""
    return value.item() if isinstance(value, np.generic) else value
