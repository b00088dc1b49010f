"""Which table codes which symbol: class maps, and what they cost (spec/entropy-coding.md 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from l2codec.compiled import Kernel
from l2codec.errors import CodecError
from l2codec.tables import MAX_TABLES, TableSet

SLICE = 1 << 19  # symbols handled at once where a whole sequence is gone through
_MAX_PATTERN = 1 << 16  # symbols of a row whose column and position offsets are summed once for all rows
_ABSENT = np.empty(0, np.int8)

# What kernels get instead of the `kernel_arguments` of a map: all symbols have the same class.
NO_VECTORS = (_ABSENT, np.empty(0, np.int64), _ABSENT, _ABSENT, np.empty(0, np.int16), np.array([0, 1, 1, 1]))

_fill_classes = Kernel("classes", "fill_classes")
_fill_pattern = Kernel("classes", "fill_pattern")

# Costs of a stream's layout in bits: a rANS lane (spec 6) and an entry of the table of block lengths (spec 4).
LANE_BITS, BLOCK_LENGTH_BITS = 24, 32
LONG = 100_000  # symbols of a stream that takes noticeable time to decode


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The class of every symbol of a sequence: clip(base + row + column + position, 0, n_tables - 1) (spec 3).

    `shape` is (rows, columns, positions); `row`, `column`, `position` are int8 vectors of these lengths, or None for
    all zero. A group of several tensors has `row_lengths` instead, int64[rows]: its rows follow each other, row `r`
    having `row_lengths[r]` symbols; then only `row` may be present and `shape` is (rows, 0, 0), set here.
    """

    shape: tuple[int, int, int]
    n_tables: int
    base: int = 0
    row: np.ndarray | None = None
    column: np.ndarray | None = None
    position: np.ndarray | None = None
    row_lengths: np.ndarray | None = None

    def __post_init__(self):
        if not 1 <= self.n_tables <= MAX_TABLES:
            raise CodecError(f"a class map has 1 to {MAX_TABLES} tables, not {self.n_tables}")
        if not 0 <= self.base < self.n_tables:
            raise CodecError(f"the class base must lie in [0, {self.n_tables}), not {self.base}")
        if self.row_lengths is not None:
            if self.column is not None or self.position is not None:
                raise CodecError("a class map with row lengths can only have a row vector")
            lengths = _frozen(self.row_lengths, np.int64, "row lengths")
            if lengths.size and int(lengths.min()) < 0:
                raise CodecError("row lengths must not be negative")
            object.__setattr__(self, "row_lengths", lengths)
            object.__setattr__(self, "shape", (lengths.size, 0, 0))
        if len(self.shape) != 3 or min(self.shape) < 0:
            raise CodecError(f"the shape of a class map is (rows, columns, positions), not {self.shape}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        for name, length in zip(("row", "column", "position"), self.shape, strict=True):
            if (vector := getattr(self, name)) is not None:
                vector = _frozen(vector, np.int8, f"the {name} vector")
                if vector.size != length:
                    raise CodecError(f"the {name} vector has {vector.size} offsets instead of {length}")
                object.__setattr__(self, name, vector)

    @cached_property
    def size(self) -> int:
        """The number of symbols."""
        if self.row_lengths is not None:
            return int(self.row_lengths.sum())
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether every symbol has the class `base`."""
        return self.n_tables == 1 or (self.row is None and self.column is None and self.position is None)

    def slice(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return the classes of symbols `start` to `stop`, uint8, written to `out[: stop - start]` if it is given.

        Takes memory in proportion to the slice and to the class vectors, never to the sequence.
        """
        if not 0 <= start <= stop <= self.size:
            raise CodecError(f"symbols {start} to {stop} are not within a sequence of {self.size}")
        result = np.empty(stop - start, np.uint8) if out is None else out[: stop - start]
        if self.is_constant:
            result[:] = self.base
        elif start < stop:
            _fill_classes(start, *self.kernel_arguments, result)
        return result

    @cached_property
    def kernel_arguments(self) -> tuple[np.ndarray, ...]:
        """What `kernels.classes.fill_classes` needs to know of the map."""
        row, column, position = (_ABSENT if v is None else v for v in (self.row, self.column, self.position))
        ends = np.empty(0, np.int64) if self.row_lengths is None else np.cumsum(self.row_lengths)
        _, columns, positions = self.shape
        pattern = np.empty(0, np.int16)
        if (column.size or position.size) and columns * positions <= _MAX_PATTERN:
            pattern = np.empty(columns * positions, np.int16)
            _fill_pattern(column, position, positions, pattern)
        return row, ends, column, position, pattern, np.array([self.base, self.n_tables, columns, positions])


def code_length(symbols: np.ndarray, tables: TableSet, classes: ClassMap | int = 0) -> float:
    """Return the cost of `symbols` in bits under their tables, infinite if one of them has count 0."""
    check_classes(classes, tables, symbols.size)
    hist = np.zeros(len(tables) * tables.alphabet, np.int64)
    for start, stop, index in iter_classes(classes, symbols.size, SLICE):
        joint = np.asarray(index, np.int64) * tables.alphabet + symbols[start:stop]
        hist += np.bincount(joint, minlength=hist.size)
    costs = tables.cost_bits().ravel()
    used = hist > 0
    return float(hist[used] @ costs[used])


def recommended_layout(bits: float, count: int) -> tuple[int, int]:
    """Return (lanes, block bits) for a rANS stream of `count` symbols that cost `bits` (spec 6, informative).

    The most lanes, and for them the least block, that cost at most 0.06 %, so that a model whose small tensors cost
    more stays below 0.1 % in all; blocks of 2**16 to 2**22 symbols bound the memory of a reader. A long stream may
    cost 0.18 % if it is one block of 32 lanes, 0.12 % with fewer: half the lanes take nearly twice as long to decode.
    """
    for lanes in (32, 16, 8, 4, 2):
        for block_bits in range(16, 23):
            blocks = -(-count // (1 << block_bits))
            overhead = blocks * LANE_BITS * lanes + (blocks > 1) * blocks * BLOCK_LENGTH_BITS
            limit = 0.0006 if blocks > 1 or count < LONG else 0.0018 if lanes == 32 else 0.0012
            if overhead <= bits * limit:
                return lanes, block_bits
    return 1, min(max((count - 1).bit_length(), 16), 22)


def check_classes(classes: ClassMap | int, tables: TableSet, count: int) -> None:
    """Raise CodecError unless `classes` describes `count` symbols of `tables`."""
    if isinstance(classes, ClassMap):
        if classes.n_tables != len(tables):
            raise CodecError(f"a class map of {classes.n_tables} tables does not fit a set of {len(tables)}")
        if classes.size != count:
            raise CodecError(f"a class map of {classes.size} symbols does not fit a sequence of {count}")
    elif not 0 <= classes < len(tables):
        raise CodecError(f"the class must lie in [0, {len(tables)}), not {classes}")


def simplified(classes: ClassMap | int) -> ClassMap | int:
    """Return the class of all symbols instead of a map that gives them the same."""
    return classes.base if isinstance(classes, ClassMap) and classes.is_constant else classes


def iter_classes(classes: ClassMap | int, count: int, step: int) -> Iterator[tuple[int, int, np.ndarray | int]]:
    """Yield (start, stop, their classes) for consecutive slices; the array is reused, constant classes are an int."""
    classes = simplified(classes)
    buffer = np.empty(min(step, count) if isinstance(classes, ClassMap) else 0, np.uint8)
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield start, stop, classes.slice(start, stop, buffer) if isinstance(classes, ClassMap) else int(classes)


def _frozen(vector: np.ndarray, dtype: type, what: str) -> np.ndarray:
    """Return a read-only 1-D copy of `vector` in `dtype`, its values unchanged."""
    given = np.asarray(vector)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and given.size):
        raise CodecError(f"{what} must be a 1-D integer array")
    result = given.astype(dtype)
    if given.dtype != dtype and not np.array_equal(result, given):
        raise CodecError(f"{what} must fit {np.dtype(dtype)}")
    result.flags.writeable = False
    return result
