"""The entries of an index: what a file holds and where (spec/container.md 4 to 8).

They are plain records: `rules` says which of them are valid, `index` how they are written.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

from l2fmt import _registry
from l2fmt._registry import RAW
from l2fmt.dtypes import DType

_STREAM_ALIGNMENT = 4
OCTAVES = DType("octaves", _registry.SCALES["octaves"], 0, "offsets")
"""The kind of scales that is no dtype: their offsets are beside the class vectors (spec/transforms.md 7)."""
SCALE_TABLE = 2
"""The table of the class set that codes offsets of scales, where there are any."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor: its name, dtype, shape and the number of the group that holds its elements."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    group: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded elements."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Stream:
    """A coded symbol sequence of `length` bytes; `width` is for coder raw, all that follows it for the others.

    `class_mask` says which class vectors are present: bit 0 rows, bit 1 columns, bit 2 positions.
    """

    coder: int
    length: int = 0
    width: int = 0
    table_set: int = 0
    class_base: int = 0
    class_mask: int = 0
    block_bits: int = 19
    lane_bits: int = 0

    @property
    def padding(self) -> int:
        """Zero bytes that follow the stream."""
        return -self.length % _STREAM_ALIGNMENT

    def to_list(self) -> list:
        """Return the stream as the index stores it."""
        if self.coder == RAW:
            return [self.coder, self.length, self.width]
        fields = [self.table_set, self.class_base, self.class_mask, self.block_bits, self.lane_bits]
        return [self.coder, self.length, *fields]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the symbols of a group are laid out (spec 6): `rows x columns x positions`, or rows of unequal lengths.

    `row_lengths` is set for a group of several tensors only: symbols of each; columns is then 0 and positions 1.
    """

    rows: int
    columns: int
    positions: int
    row_lengths: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of symbols."""
        return self.rows * self.columns * self.positions if self.row_lengths is None else sum(self.row_lengths)


@dataclass(frozen=True)
class Group:
    """Tensors whose elements are coded together; `offset` is where the group's bytes begin in the file.

    `scales` are the dtypes of row and column scales or `OCTAVES`, None where there are none. All else is as in spec 5.
    """

    transform: int
    parameters: tuple
    scales: tuple[DType | None, DType | None]
    streams: tuple[Stream, ...]
    class_bytes: int
    checksum: int
    tensors: tuple[TensorEntry, ...]
    offset: int

    @property
    def dtype(self) -> DType:
        """The dtype all tensors of the group have."""
        return self.tensors[0].dtype

    @cached_property
    def size(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded elements."""
        return self.size * self.dtype.itemsize

    @cached_property
    def layout(self) -> Layout:
        """How the symbols of each stream are laid out; C64 has two symbols an element (spec/transforms.md 2)."""
        words = self.dtype.words
        if len(self.tensors) != 1:
            return Layout(len(self.tensors), 0, 1, tuple(tensor.size * words for tensor in self.tensors))
        shape = self.tensors[0].shape if words == 1 else (*self.tensors[0].shape, words)
        if len(shape) < 2:
            return Layout(1, prod(shape), 1)
        return Layout(shape[0], shape[1], prod(shape[2:]))

    @property
    def symbols(self) -> int:
        """Number of symbols of each stream."""
        return self.size * self.dtype.words

    @property
    def scale_counts(self) -> tuple[int, int]:
        """Numbers of row and of column scales, 0 where there are none."""
        shape = self.tensors[0].shape
        rows, columns = self.scales
        return (shape[0] if rows else 0, shape[1] if columns else 0)

    @property
    def scale_bytes(self) -> tuple[int, int]:
        """Bytes of the row and of the column scales."""
        rows, columns = (
            count * (dtype.itemsize if dtype else 0)
            for count, dtype in zip(self.scale_counts, self.scales, strict=True)
        )
        return rows, columns

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """What the class bytes hold (spec 6): the table and the number of offsets of each vector, in order."""
        layout = self.layout
        sizes = (layout.rows, layout.columns, layout.positions)
        masks = (stream.class_mask for stream in self.streams)
        classes = [(min(bit, 1), size) for mask in masks for bit, size in enumerate(sizes) if mask >> bit & 1]
        if OCTAVES not in self.scales:
            return classes
        counts = zip(self.scales, self.scale_counts, strict=True)
        return classes + [(SCALE_TABLE, count) for kind, count in counts if kind == OCTAVES]

    @cached_property
    def length(self) -> int:
        """Bytes of the group in the file."""
        streams = sum(stream.length + stream.padding for stream in self.streams)
        return streams + sum(self.scale_bytes) + self.class_bytes

    @property
    def label(self) -> str:
        """The group as an error message names it."""
        return label(self.tensors)

    def to_list(self) -> list:
        """Return the group as the index stores it."""
        scales = [dtype.id if dtype else None for dtype in self.scales]
        streams = [stream.to_list() for stream in self.streams]
        return [self.transform, list(self.parameters), scales, streams, self.class_bytes, self.checksum]


def label(tensors: tuple[TensorEntry, ...]) -> str:
    """Name tensors in an error message by the first of them."""
    more = f" and {len(tensors) - 1} more" if len(tensors) != 1 else ""
    return f"tensor {tensors[0].name!r}{more}"


@dataclass(frozen=True, slots=True)
class TableSetEntry:
    """The serialised frequency tables of a table set (spec/entropy-coding.md 2.1)."""

    probability_bits: int
    alphabet: int
    origin: int
    n_tables: int
    data: bytes

    @property
    def expanded_bytes(self) -> int:
        """What the set counts for against `Limits.max_table_bytes` (spec 7)."""
        return self.n_tables * max(1 << self.probability_bits, self.alphabet) * 8

    def to_list(self) -> list:
        """Return the set as the index stores it."""
        return [self.probability_bits, self.alphabet, self.origin, self.n_tables, self.data]


@dataclass(frozen=True, slots=True)
class Section:
    """An optional section of `length` bytes at `offset` in the file (spec 8)."""

    kind: str
    length: int
    checksum: int
    offset: int

    def to_list(self) -> list:
        """Return the section as the index stores it."""
        return [self.kind, self.length, self.checksum]
