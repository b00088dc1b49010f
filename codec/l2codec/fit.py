"""Fitting tables and class maps to symbols, by alternating minimisation of the code length (informative).

Given tables, every offset of a row, column or position vector is set to the one of least code length, the others
held; given the vectors, the tables are the histograms of the classes. Costs are integers, offsets pay for their own
coding, and ties go to the lower offset: the result is the same on every machine.
"""

from collections.abc import Sequence

import numpy as np

from l2codec._parts import CENTRE, COLUMN, POSITION, ROW, UNIT, Layout, Part, padded
from l2codec.errors import CodecError
from l2codec.model import ClassMap
from l2codec.tables import FrequencyTable, TableSet
from l2codec.threads import results

MAX_FITTED_TABLES = 32  # keeps row offsets from the base within [-31, 31]
SAMPLE = 1 << 21  # symbols of a larger model to which tables are fitted before all of them are gone through
TRIED = (1, 2, 4, 8, 12)  # numbers of tables tried besides the largest, where tables weigh something
LEAST_SYMBOLS = 500  # for each table that is tried beyond the first: fewer hardly ever pay for one
SPREADS = ((0.02, 0.98), (0.1, 0.98))  # quantiles of the rows' scales between which the tables are spread at first
KEPT = 3  # starts that are followed to the end
NEW_SYMBOL_BITS = 6  # what a symbol that is new to a table costs there beyond its code
IMPOSSIBLE_BITS = 1 << 12


def fit_classes(
    sequences: Sequence[tuple[np.ndarray, Layout]],
    alphabet: int,
    origin: int,
    *,
    n_tables: int = 16,
    probability_bits: int = 12,
    passes: int = 12,
    threads: int = 1,
) -> tuple[TableSet, list[ClassMap]]:
    """Return tables, at most `n_tables`, and one class map a sequence, of about the least total size.

    Args:
        sequences: (symbols, layout): 1-D uint8 or uint16 below `alphabet`, and their (rows, columns, positions) or the
            int64 lengths of their ragged rows.
        origin: the symbol of the value 0, about which magnitudes are measured.
        passes: alternations from each start. A large model is sampled for them, then gone through in a third as many.
        threads: how many share the work; the result does not depend on it.

    The size counts the tables and the vectors, so that few symbols get few tables, and a vector that does not pay is
    left out. Memory beyond the symbols is in proportion to the vectors. Offsets lie within [-31, 31].
    """
    if not 1 <= n_tables <= MAX_FITTED_TABLES:
        raise CodecError(f"classes can be fitted for 1 to {MAX_FITTED_TABLES} tables, not {n_tables}")
    parts = [Part.of(symbols, layout, alphabet) for symbols, layout in sequences]
    total = sum(part.symbols.size for part in parts)
    n_tables = min(n_tables, 1 + total // LEAST_SYMBOLS)
    sampled = total > 2 * SAMPLE
    early = max(1, passes // 3)
    starts = [
        (k, spread)
        for k in ([n_tables] if sampled else sorted({k for k in TRIED if k < n_tables} | {n_tables}))
        for spread in (SPREADS if k > 2 else SPREADS[:1])
    ]

    def begin(start: tuple[int, tuple[float, float]]) -> _Fit:
        trial = [part.sample(SAMPLE / total if sampled else 1.0, alphabet) for part in parts]
        fit = _Fit(trial, alphabet, origin, start[0], probability_bits)
        fit.spread(start[1])
        fit.alternate(early)
        return fit

    fits = sorted(results(begin, starts, threads), key=_Fit.bits)[:KEPT]
    results(lambda fit: fit.alternate(passes - early), fits, threads)
    best = min(fits, key=_Fit.bits)
    if sampled:
        for part, trial in zip(parts, best.parts, strict=True):
            part.start_from(trial)
        best.parts = parts
        best.alternate(early, threads)
    return best.result()


def assign_classes(symbols: np.ndarray, layout: Layout, tables: TableSet, *, passes: int = 5) -> ClassMap:
    """Return the class map of about the least code length of a sequence for given tables; else as `fit_classes`."""
    part = Part.of(symbols, layout, tables.alphabet)
    costs = padded(np.minimum(tables.cost_bits(), IMPOSSIBLE_BITS))
    ids = (1 + np.abs(np.arange(2 * CENTRE) - CENTRE)) * UNIT  # as good a guess as any
    part.row[:] = len(tables) // 2
    for _ in range(passes if symbols.size else 0):
        part.improve(costs, len(tables), ids, ids)
    return part.class_map(0, len(tables))


class _Fit:
    """Tables, by their histograms, and the parts whose vectors select them."""

    def __init__(self, parts: list[Part], alphabet: int, origin: int, n_tables: int, probability_bits: int):
        self.parts, self.origin, self.probability_bits = parts, origin, probability_bits
        self.hist = np.zeros((n_tables, alphabet), np.int64)
        self.recount()

    def recount(self, threads: int = 1) -> None:
        """Set `hist`, the symbols of each class, and `ids`, what offsets cost, from the vectors of all parts."""
        shares = [self.parts[first::threads] for first in range(threads)]
        self.hist[:] = sum(results(self._count, shares, threads))
        self.ids = self._id_costs()

    def _count(self, parts: Sequence[Part]) -> np.ndarray:
        hist = np.zeros_like(self.hist)
        for part in parts:
            part.count(hist)
        return hist

    def spread(self, quantiles: tuple[float, float]) -> None:
        """Spread the rows over the classes by the logarithm of their mean magnitude, the other vectors around them."""
        magnitudes = np.abs(np.arange(self.hist.shape[1]) - self.origin)
        costs = padded(np.broadcast_to(magnitudes, self.hist.shape) / UNIT)
        sizes = [_entry_sizes(part) for part in self.parts]
        scales = [_log_magnitudes(part, ROW, costs, size) for part, size in zip(self.parts, sizes, strict=True)]
        every, weights = np.concatenate([[], *scales]), np.concatenate([[], *sizes])
        if not weights.any():
            return
        order = np.argsort(every, kind="stable")
        share = np.cumsum(weights[order]) / weights.sum()
        low, high = every[order][np.searchsorted(share, quantiles)]
        step = max((high - low) / len(self.hist), 1e-6)
        for part, rows in zip(self.parts, scales, strict=True):
            part.row[:] = np.clip(np.floor((rows - low) / step), 0, len(self.hist) - 1)
            for along in (COLUMN, POSITION):
                vector = part.vectors[along]
                if vector.size:
                    scale = _log_magnitudes(part, along, costs, part.symbols.size // vector.size)
                    vector[:] = np.clip(np.rint((scale - np.median(scale)) / step), -8, 7)
        self.recount()

    def alternate(self, passes: int, threads: int = 1) -> None:
        """Improve all vectors and recount the tables, `passes` times."""
        if len(self.hist) == 1 or not self.hist.any():
            return
        for _ in range(passes):
            smooth = self.hist + 0.25
            used = self.hist.any(axis=0)
            bits = np.log2(smooth[:, used].sum(axis=1, keepdims=True)) - np.log2(smooth)
            costs = padded(np.minimum(bits, self.probability_bits + NEW_SYMBOL_BITS))
            coded = [part for part in self.parts if part.symbols.size]
            results(lambda part, costs=costs: part.improve(costs, len(self.hist), *self.ids), coded, threads)
            self.recount(threads)

    def _id_costs(self) -> np.ndarray:
        """Return what offsets cost, those of rows and the others, int64[2, 2 CENTRE] at index CENTRE + offset."""
        hists = np.full((2, 2 * CENTRE), 0.25)
        for part in self.parts:
            hists[0] += np.bincount(part.row - part.base + CENTRE, minlength=2 * CENTRE)
            for vector in (part.column, part.position):
                if vector.any():
                    hists[1] += np.bincount(vector + CENTRE, minlength=2 * CENTRE)
        bits = np.log2(hists.sum(axis=1, keepdims=True)) - np.log2(hists)
        return np.rint(np.clip(bits, 1, 12) * UNIT).astype(np.int64)

    def result(self) -> tuple[TableSet, list[ClassMap]]:
        """Return (tables, maps); tables that nothing uses are left out at the ends and trivial in between."""
        used = np.flatnonzero(self.hist.any(axis=1))
        lowest, highest = (int(used[0]), int(used[-1])) if used.size else (0, 0)
        hist = self.hist[lowest : highest + 1].copy()
        hist[~hist.any(axis=1), self.origin] = 1
        tables = TableSet([FrequencyTable.from_histogram(h, self.probability_bits) for h in hist], self.origin)
        return tables, [part.class_map(lowest, len(tables)) for part in self.parts]

    def bits(self) -> float:
        """Return the size of everything: symbols, tables and the vectors at the entropy of their offsets."""
        tables, maps = self.result()
        first = int(self.hist.any(axis=1).argmax())  # the table that is now number 0
        hist = self.hist[first : first + len(tables)]
        bits = float(hist[hist > 0] @ tables.cost_bits()[hist > 0]) + 8 * len(tables.to_bytes())
        others = [vector for m in maps for vector in (m.column, m.position)]
        return bits + _entropy_bits([m.row for m in maps]) + _entropy_bits(others)


def _entry_sizes(part: Part) -> np.ndarray:
    """Return how many symbols each entry of the row vector is for."""
    return np.diff(part.starts) if part.row.size > 1 else np.array([part.symbols.size])


def _log_magnitudes(part: Part, along: int, costs: np.ndarray, sizes: np.ndarray | int) -> np.ndarray:
    """Return log2 of the mean magnitude of each entry, rounded to be the same everywhere."""
    sums = part.totals(along, costs, 0, 1)[:, 0]
    return np.round(np.log2((sums + 0.5) / (sizes + 1)), 6)


def _entropy_bits(vectors: list[np.ndarray | None]) -> float:
    """Return the entropy of the entries of all vectors, in bits."""
    entries = np.concatenate([np.empty(0, np.int64), *(v for v in vectors if v is not None)])
    hist = np.unique(entries, return_counts=True)[1]
    return float((hist * np.log2(entries.size / hist)).sum())
