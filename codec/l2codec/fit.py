"""Fitting tables and class maps to symbols: alternating minimisation of the code length (spec/entropy-coding.md 3, informative).

Given tables, every offset of a row, column or position vector is set to the one of least code length, the others held; given the
vectors, the tables are the histograms of the classes. Costs are integers in units of 1/256 bit, offsets pay for their own coding,
and ties go to the lower offset: the result is the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2codec.errors import CodecError
from l2codec.model import ClassMap
from l2codec.tables import FrequencyTable, TableSet

UNIT = 256  # of costs, a bit
REACH = 8  # column and position offsets lie in [-REACH, REACH)
MAX_FITTED_TABLES = 32  # keeps row offsets from the base within [-31, 31]
SMALL = 1 << 22  # symbols up to which several numbers of tables are tried: beyond it tables weigh nothing
CANDIDATES = 16  # the kernel's step: candidates are padded to a multiple of it

Layout = tuple[int, int, int] | np.ndarray
"""(rows, columns, positions), or the lengths of ragged rows."""


def fit_classes(
    sequences: Sequence[tuple[np.ndarray, Layout]],
    alphabet: int,
    origin: int,
    *,
    n_tables: int = 16,
    probability_bits: int = 12,
    passes: int = 6,
) -> tuple[TableSet, list[ClassMap]]:
    """Return tables, at most `n_tables`, and one class map a sequence, of about the least total size.

    Args:
        sequences: (symbols, layout): 1-D contiguous uint8 or uint16 below `alphabet`, and their (rows, columns, positions) or the
            int64 lengths of their ragged rows.
        origin: the symbol of the value 0, about which magnitudes are measured.

    The size counts the tables and the vectors, so that few symbols get few tables, and a vector that does not pay is left out.
    Memory beyond the symbols is in proportion to the vectors. Offsets of vectors lie within [-31, 31].
    """
    if not 1 <= n_tables <= MAX_FITTED_TABLES:
        raise CodecError(f"classes can be fitted for 1 to {MAX_FITTED_TABLES} tables, not {n_tables}")
    total = sum(symbols.size for symbols, _ in sequences)
    tried = sorted({k for k in (1, 2, 4, 6, 8, 12) if k < n_tables} | {n_tables}) if total <= SMALL else [n_tables]
    fits = []
    for k in tried:
        parts = [_Part.of(symbols, layout, alphabet) for symbols, layout in sequences]
        fits.append(_Fit(parts, alphabet, origin, k, probability_bits, passes if k > 1 else 0).result())
    _, tables, maps = min(fits, key=lambda fit: fit[0])
    return tables, maps


@dataclass
class _Part:
    """A sequence and its vectors: `row` holds classes, `column` and `position` offsets from them."""

    symbols: np.ndarray
    layout: Layout
    starts: np.ndarray
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray

    @classmethod
    def of(cls, symbols: np.ndarray, layout: Layout, alphabet: int) -> "_Part":
        if symbols.ndim != 1 or symbols.dtype.type not in (np.uint8, np.uint16):
            raise CodecError(f"symbols must be a 1-D uint8 or uint16 array, not {symbols.ndim}-D {symbols.dtype}")
        if symbols.size and int(symbols.max()) >= alphabet:
            raise CodecError(f"symbol {symbols.max()} lies outside an alphabet of {alphabet}")
        if isinstance(layout, np.ndarray):
            lengths, columns, positions = layout.astype(np.int64), 0, 1
        else:
            rows, columns, positions = layout
            lengths = np.full(rows, columns * positions, np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        if int(starts[-1]) != symbols.size:
            raise CodecError(f"a layout of {starts[-1]} symbols does not fit a sequence of {symbols.size}")
        symbols = np.require(symbols, requirements=["C", "A"]).view()
        symbols.flags.writeable = False
        vectors = (np.zeros(n, np.int64) for n in (lengths.size, columns, positions))
        return cls(symbols, layout, starts, *vectors)

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.row, self.column, self.position

    def class_map(self, lowest: int, n_tables: int) -> ClassMap:
        """Return the map for the tables from `lowest` on."""
        row = self.row - lowest
        base = int(np.clip(np.sort(row)[row.size // 2] if row.size else 0, 0, n_tables - 1))
        row, column, position = (v.astype(np.int8) if v.any() else None for v in (row - base, *self.vectors[1:]))
        if isinstance(self.layout, np.ndarray):
            return ClassMap((0, 0, 0), n_tables, base, row, row_lengths=self.layout)
        return ClassMap(self.layout, n_tables, base, row, column, position)


class _Fit:
    """One fit with a given number of tables."""

    def __init__(
        self, parts: list[_Part], alphabet: int, origin: int, n_tables: int, probability_bits: int, passes: int
    ):
        self.parts, self.alphabet, self.origin = parts, alphabet, origin
        self.n_tables, self.probability_bits = n_tables, probability_bits
        if passes:
            self._initialise()
        self.hist = self._histogram()
        for _ in range(passes):
            costs = self._costs()
            ids = self._offset_id_costs()
            for part in parts:
                self._improve(part, costs, ids)
            self.hist = self._histogram()

    def result(self) -> tuple[float, TableSet, list[ClassMap]]:
        """Return (bits of everything, tables, maps), tables that nothing uses left out or trivial."""
        used = np.flatnonzero(self.hist.any(axis=1))
        lowest, highest = (int(used[0]), int(used[-1])) if used.size else (0, 0)
        tables = TableSet(
            [FrequencyTable.from_histogram(h, self.probability_bits) for h in self._ordered(lowest, highest)], self.origin
        )
        maps = [part.class_map(lowest, len(tables)) for part in self.parts]
        hist = self.hist[lowest : highest + 1]
        bits = float(hist[hist > 0] @ tables.cost_bits()[hist > 0]) + 8 * len(tables.to_bytes())
        row_ids, other_ids = np.zeros(256, np.int64), np.zeros(256, np.int64)
        for m in maps:
            for ids, vectors in ((row_ids, (m.row,)), (other_ids, (m.column, m.position))):
                for vector in vectors:
                    if vector is not None:
                        ids += np.bincount(vector.astype(np.int64) + 128, minlength=256)
        return bits + _entropy_bits(row_ids) + _entropy_bits(other_ids), tables, maps

    def _ordered(self, lowest: int, highest: int) -> np.ndarray:
        """Return the histograms of the tables kept; a table that nothing uses codes the origin alone, which is shortest."""
        hist = self.hist[lowest : highest + 1].copy()
        hist[~hist.any(axis=1), self.origin] = 1
        return hist

    def _histogram(self) -> np.ndarray:
        from l2codec import _numba_fit

        hist = np.zeros((self.n_tables, self.alphabet), np.int64)
        for part in self.parts:
            _numba_fit.histogram(part.symbols, part.starts, part.position.size, *part.vectors, hist)
        return hist

    def _costs(self) -> np.ndarray:
        """Return the smoothed code lengths, int32[alphabet, width]: classes 0 ... K - 1 and both ends repeated."""
        used = self.hist.any(axis=0)
        smooth = self.hist + 0.25
        bits = np.log2(smooth[:, used].sum(axis=1, keepdims=True)) - np.log2(smooth)
        bits = np.minimum(bits, self.probability_bits + 6)  # a new symbol costs its table an entry of about 6 bits
        costs = np.rint(bits.T * UNIT).astype(np.int32)
        return np.pad(costs, ((0, 0), (2 * REACH, 2 * REACH + CANDIDATES)), mode="edge")

    def _offset_id_costs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what coding an offset costs, of rows and of the others, int64 at index offset + 64."""
        hists = np.full((2, 128), 0.25)
        for part in self.parts:
            hists[0] += np.bincount(part.row - _base(part.row) + 64, minlength=128)
            for vector in part.vectors[1:]:
                if vector.any():
                    hists[1] += np.bincount(vector + 64, minlength=128)
        bits = np.log2(hists.sum(axis=1, keepdims=True)) - np.log2(hists)
        rows, others = np.rint(np.clip(bits, 1, 12) * UNIT).astype(np.int64)
        return rows, others

    def _improve(self, part: _Part, costs: np.ndarray, ids: tuple[np.ndarray, np.ndarray]) -> None:
        """Set the three vectors of a part in turn, each to the offsets of least cost given the others."""
        if not part.symbols.size:
            return
        base = _base(part.row)
        totals = self._totals(part, 0, costs, 0, self.n_tables)
        with_ids = totals + ids[0][64 - base : 64 - base + self.n_tables]
        whole = totals.sum(axis=0)
        if int(whole.min()) <= int(with_ids.min(axis=1).sum()):
            part.row[:] = whole.argmin()
        else:
            part.row[:] = with_ids.argmin(axis=1)
        for along in (1, 2):
            vector = part.vectors[along]
            if vector.size > 1:
                totals = self._totals(part, along, costs, -REACH, 2 * REACH)
                with_ids = totals + ids[1][64 - REACH : 64 + REACH]
                pays = int(with_ids.min(axis=1).sum()) < int(totals[:, REACH].sum())
                vector[:] = with_ids.argmin(axis=1) - REACH if pays else 0

    def _totals(self, part: _Part, along: int, costs: np.ndarray, first: int, count: int) -> np.ndarray:
        """Return the cost of each entry of a vector at the offsets first ... first + count - 1, int64[entries, count]."""
        from l2codec import _numba_fit

        vectors = list(part.vectors)
        vectors[along] = np.full(vectors[along].size, first)
        vectors[0] = vectors[0] + 2 * REACH
        totals = np.zeros((vectors[along].size, -(-count // CANDIDATES) * CANDIDATES), np.int64)
        _numba_fit.offset_costs(part.symbols, part.starts, part.position.size, *vectors, costs, along, totals)
        return totals[:, :count]

    def _initialise(self) -> None:
        """Spread the rows over the classes by the logarithm of their mean magnitude, then the columns around them."""
        sizes = np.concatenate([np.diff(part.starts) for part in self.parts] or [np.zeros(0, np.int64)])
        scales = np.concatenate([self._log_magnitudes(part, 0, np.diff(part.starts)) for part in self.parts] or [[]])
        if not sizes.sum():
            return
        order = np.argsort(scales, kind="stable")
        position = np.cumsum(sizes[order]) / sizes.sum()
        low, high = scales[order][np.searchsorted(position, [0.02, 0.98])]
        step = max((high - low) / self.n_tables, 1e-6)
        for part in self.parts:
            rows = self._log_magnitudes(part, 0, np.diff(part.starts))
            part.row[:] = np.clip(np.floor((rows - low) / step), 0, self.n_tables - 1)
            for along in (1, 2):
                vector = part.vectors[along]
                if vector.size > 1 and part.symbols.size:
                    sizes = np.full(vector.size, part.symbols.size // vector.size)
                    scale = self._log_magnitudes(part, along, sizes)
                    vector[:] = np.clip(np.rint((scale - np.median(scale)) / step), -REACH, REACH - 1)

    def _log_magnitudes(self, part: _Part, along: int, sizes: np.ndarray) -> np.ndarray:
        """Return log2 of the mean distance from the origin of each row, rounded to be the same everywhere."""
        magnitudes = np.abs(np.arange(self.alphabet) - self.origin).astype(np.int32)
        costs = np.repeat(magnitudes[:, None], self.n_tables + 4 * REACH + CANDIDATES, axis=1)
        sums = self._totals(part, along, costs, 0, 1)[:, 0]
        return np.round(np.log2((sums + 0.5) / (sizes + 1)), 6)


def _base(row: np.ndarray) -> int:
    return int(np.sort(row)[row.size // 2]) if row.size else 0


def _entropy_bits(hist: np.ndarray) -> float:
    used = hist[hist > 0]
    return float((used * (np.log2(used.sum()) - np.log2(used))).sum()) if used.size else 0.0
