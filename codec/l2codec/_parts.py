"""A sequence whose class vectors are being fitted, and the moves that fit.py makes with it."""

from dataclasses import dataclass

import numpy as np

from l2codec.compiled import Kernel
from l2codec.errors import CodecError
from l2codec.model import ClassMap

_histogram = Kernel("fit", "histogram")
_offset_costs = Kernel("fit", "offset_costs")

UNIT = 256  # of costs, a bit
REACH = 8  # column and position offsets lie in [-REACH, REACH)
LANES = 16  # the kernel's step: candidates are padded to a multiple of it
TOGETHER = 8  # symbols that the kernel handles at once
LEAST = 8  # symbols that the entries of a vector must decide about, on average, for it to be tried
CENTRE = 64  # index of offset 0 in a table of what offsets cost
ROW, COLUMN, POSITION = range(3)

Layout = tuple[int, int, int] | np.ndarray
"""(rows, columns, positions), or the int64 lengths of ragged rows."""


@dataclass
class Part:
    """Symbols and their vectors, int64: `row` holds classes, `column` and `position` offsets from them.

    A vector that is not worth trying has one entry for all (`row`) or none (the others), which are 0.
    """

    symbols: np.ndarray
    layout: Layout
    starts: np.ndarray  # of the rows, and the end of the last
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray

    @classmethod
    def of(cls, symbols: np.ndarray, layout: Layout, alphabet: int) -> "Part":
        """Check a sequence and return it with vectors of zeros."""
        if symbols.ndim != 1 or symbols.dtype.type not in (np.uint8, np.uint16):
            raise CodecError(f"symbols must be a 1-D uint8 or uint16 array, not {symbols.ndim}-D {symbols.dtype}")
        if symbols.size and int(symbols.max()) >= alphabet:
            raise CodecError(f"symbol {symbols.max()} lies outside an alphabet of {alphabet}")
        ragged = isinstance(layout, np.ndarray)
        rows, columns, positions = (layout.size, 0, 0) if ragged else layout
        lengths = layout.astype(np.int64) if ragged else np.full(rows, columns * positions, np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        if int(starts[-1]) != symbols.size:
            raise CodecError(f"a layout of {starts[-1]} symbols does not fit a sequence of {symbols.size}")
        symbols = np.require(symbols, requirements=["C", "A"]).view()
        symbols.flags.writeable = False
        tried = [n if LEAST * n <= symbols.size else 0 for n in (rows, columns, positions)]
        sizes = (max(tried[0], 1), *(n if n > 1 else 0 for n in tried[1:]))
        return cls(symbols, layout, starts, *(np.zeros(n, np.int64) for n in sizes))

    def sample(self, fraction: float, alphabet: int) -> "Part":
        """Return a part of evenly spread rows of this one, or of all of it if it has no equal rows to choose from."""
        if fraction >= 1 or isinstance(self.layout, np.ndarray) or self.layout[0] < 2:
            return Part.of(self.symbols, self.layout, alphabet)
        rows, columns, positions = self.layout
        chosen = np.unique(np.linspace(0, rows - 1, max(1, round(rows * fraction))).astype(np.int64))
        symbols = self.symbols.reshape(rows, -1)[chosen].ravel()
        return Part.of(symbols, (chosen.size, columns, positions), alphabet)

    def start_from(self, other: "Part") -> None:
        """Take over the column and position offsets of a sample of this part, and its middle class."""
        self.row[:] = other.base
        for mine, theirs in ((self.column, other.column), (self.position, other.position)):
            if mine.size == theirs.size:
                mine[:] = theirs

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.row, self.column, self.position

    @property
    def base(self) -> int:
        """The middle class of the rows, from which their offsets are counted."""
        return int(np.sort(self.row)[self.row.size // 2])

    @property
    def _positions(self) -> int:
        return 1 if isinstance(self.layout, np.ndarray) else self.layout[2]

    def count(self, hist: np.ndarray) -> None:
        """Add the symbols of each class to `hist`, int64[tables, alphabet]."""
        _histogram(self.symbols, self.starts, self._positions, *self.vectors, hist)

    def totals(self, along: int, costs: np.ndarray, first: int, count: int) -> np.ndarray:
        """Return the cost of each entry of a vector at the offsets first ... first + count - 1, int64[entries, count].

        `costs` is as `padded` gives it.
        """
        vectors = [self.row, self.column, self.position]
        entries = vectors[along].size
        vectors[along] = np.full(entries, first)
        vectors[ROW] = vectors[ROW] + 2 * REACH
        totals = np.zeros((entries, -(-count // LANES) * LANES), np.int64)
        row, column, position = vectors
        places = np.empty(TOGETHER, np.int64)
        _offset_costs(self.symbols, self.starts, self._positions, row, column, position, costs, along, places, totals)
        return totals[:, :count]

    def improve(self, costs: np.ndarray, n_tables: int, row_ids: np.ndarray, other_ids: np.ndarray) -> None:
        """Set the three vectors in turn, each to the offsets of least cost given the others; ties go to the lower.

        A vector that does not save what its offsets cost (`row_ids`, `other_ids`: int64 at index CENTRE + offset)
        becomes constant.
        """
        totals = self.totals(ROW, costs, 0, n_tables)
        first = CENTRE - self.base
        with_ids = totals + row_ids[first : first + n_tables]
        constant = totals.sum(axis=0)
        pays = int(with_ids.min(axis=1).sum()) < int(constant.min())
        self.row[:] = with_ids.argmin(axis=1) if pays else constant.argmin()
        for along in (COLUMN, POSITION):
            if self.vectors[along].size:
                totals = self.totals(along, costs, -REACH, 2 * REACH)
                with_ids = totals + other_ids[CENTRE - REACH : CENTRE + REACH]
                pays = int(with_ids.min(axis=1).sum()) < int(totals[:, REACH].sum())
                self.vectors[along][:] = with_ids.argmin(axis=1) - REACH if pays else 0

    def class_map(self, lowest: int, n_tables: int) -> ClassMap:
        """Return the map for `n_tables` tables from number `lowest` on."""
        base = int(np.clip(self.base - lowest, 0, n_tables - 1))
        row = self.row - lowest - base
        if isinstance(self.layout, np.ndarray):
            rows = np.broadcast_to(row, self.layout.size) if row.any() else None
            return ClassMap((0, 0, 0), n_tables, base, rows, row_lengths=self.layout)
        rows = np.broadcast_to(row, self.layout[0]) if row.any() else None
        column, position = (v if v.any() else None for v in (self.column, self.position))
        return ClassMap(self.layout, n_tables, base, rows, column, position)


def padded(bits: np.ndarray) -> np.ndarray:
    """Return costs for `Part.totals` from code lengths in bits, float64[tables, alphabet]: int32[alphabet, width].

    Each symbol's costs are contiguous along the classes, the first and the last repeated for the sums that clipping
    maps to them, so that the costs of all offsets of a symbol are one vector.
    """
    costs = np.rint(bits.T * UNIT).astype(np.int32)
    return np.ascontiguousarray(np.pad(costs, ((0, 0), (2 * REACH, 2 * REACH + LANES)), mode="edge"))
