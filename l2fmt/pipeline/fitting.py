"""Fit the frequency tables and class maps of a family of symbol sequences, and the codes of their class vectors."""

from collections.abc import Sequence

import numpy as np

import l2codec
from l2codec import ClassMap, FrequencyTable, TableSet
from l2fmt.errors import InputError
from l2fmt.pipeline.grouping import SymbolSequence

_SAMPLE = 1 << 23  # symbols of plain tensors that tables are fitted to
_CLASS_PROBABILITY_BITS = (8, 12)  # of the prefix codes of class vectors: whichever takes less in all
_ID_BITS = 2.5  # what an offset of a class vector costs, about


def fit_family(
    key: tuple, members: list[SymbolSequence], coder: str, n_tables: int, threads: int = 1
) -> TableSet | None:
    """Fit the tables of a family and set the class map of each member, or its width where coding does not pay."""
    alphabet = key[-1]
    if coder == "raw" or sum(s.count for s in members) == 0:
        for sequence in members if key[0] == "words" else []:  # codes keep the width of their alphabet
            _choose_raw(sequence, sequence.load())
        return None
    probability_bits = 12 if alphabet <= 256 else 14
    if key[0] == "words":
        tables = _fit_sample(key, members, n_tables, probability_bits, threads)
        for sequence in members:
            symbols = sequence.load()
            classes = l2codec.assign_classes(symbols, sequence.layout, tables)
            if _pays(symbols, tables, classes, sequence):
                sequence.classes = classes
            else:
                _choose_raw(sequence, symbols)
    else:
        loaded = [(s.load(), s.layout) for s in members]
        try:
            tables, maps = l2codec.fit_classes(
                loaded, alphabet, -key[1], n_tables=n_tables, probability_bits=probability_bits, threads=threads
            )
        except l2codec.CodecError as error:  # more different codes than a table has counts
            raise InputError(f"the codes of tensor {members[0].tensor.name!r} and others: {error}") from error
        for sequence, classes in zip(members, maps, strict=True):
            sequence.classes = classes
    if coder == "huffman":
        tables = _dyadic(members, tables)
    return tables


def _choose_raw(sequence: SymbolSequence, symbols: np.ndarray) -> None:
    sequence.classes = None
    sequence.width = int(symbols.max()).bit_length() if symbols.size else 0


def _pays(symbols: np.ndarray, tables: TableSet, classes: ClassMap, sequence: SymbolSequence) -> bool:
    """Whether coding saves at least 1 % of the packed bits: less is not worth its time."""
    ids = sum(v.size for v in (classes.row, classes.column, classes.position) if v is not None)
    raw = symbols.size * (int(symbols.max()).bit_length() if symbols.size else 0)
    return l2codec.code_length(symbols, tables, classes) + _ID_BITS * ids + 24 < 0.99 * raw


def _fit_sample(
    key: tuple, members: list[SymbolSequence], n_tables: int, probability_bits: int, threads: int
) -> TableSet:
    """Fit tables to evenly spread rows of all members; each symbol that occurs anywhere gets a count in every table."""
    total = sum(s.count for s in members)
    used = np.zeros(key[-1], np.int64)
    parts = []
    for sequence in members:
        symbols = sequence.load()
        used += np.bincount(symbols, minlength=used.size)
        if isinstance(sequence.layout, tuple) and total > _SAMPLE and sequence.layout[0] > 1:
            rows = max(1, min(sequence.layout[0], round(sequence.layout[0] * _SAMPLE / total)))
            chosen = np.linspace(0, sequence.layout[0] - 1, rows).astype(np.int64)
            symbols = np.ascontiguousarray(symbols.reshape(sequence.layout[0], -1)[chosen]).reshape(-1)
            parts.append((symbols, (rows, *sequence.layout[1:])))
        else:
            parts.append((symbols, sequence.layout))
    origin = int(used.argmax())
    tables, maps = l2codec.fit_classes(
        parts, used.size, origin, n_tables=n_tables, probability_bits=probability_bits, threads=threads
    )
    histograms = _class_histograms(parts, maps, len(tables), used.size)
    # Counting in 1/256 keeps the sample's proportions while rows that were not sampled can still be coded.
    floors = [FrequencyTable.from_histogram(h * 256 + (used > 0), probability_bits) for h in histograms]
    return TableSet(floors, origin)


def _class_histograms(parts: list, maps: list[ClassMap], n_tables: int, alphabet: int) -> np.ndarray:
    """Return how often each class has each symbol, int64[n_tables, alphabet]."""
    result = np.zeros(n_tables * alphabet, np.int64)
    for (symbols, _), classes in zip(parts, maps, strict=True):
        for start in range(0, symbols.size, 1 << 19):
            stop = min(start + (1 << 19), symbols.size)
            joint = classes.slice(start, stop).astype(np.int64) * alphabet + symbols[start:stop]
            result += np.bincount(joint, minlength=result.size)
    return result.reshape(n_tables, alphabet)


def _dyadic(members: list[SymbolSequence], tables: TableSet) -> TableSet:
    """Return the best prefix codes for the classes that were fitted."""
    coded = [s for s in members if s.classes is not None]
    parts = [(s.load(), s.layout) for s in coded]
    histograms = _class_histograms(parts, [s.classes for s in coded if s.classes], len(tables), tables.alphabet)
    bits = tables.probability_bits
    codes = [
        FrequencyTable.dyadic_from_histogram(h if h.any() else _one(h.size, tables.origin), bits) for h in histograms
    ]
    return TableSet(codes, tables.origin)


def _one(size: int, symbol: int) -> np.ndarray:
    result = np.zeros(size, np.int64)
    result[symbol] = 1
    return result


def class_vectors(classes: ClassMap) -> list[tuple[int, np.ndarray]]:
    """Return the present vectors of a map, each with its table: 0 for rows, 1 for columns and positions."""
    found = ((0, classes.row), (1, classes.column), (1, classes.position))
    return [(table, vector) for table, vector in found if vector is not None]


def fit_class_tables(vectors: Sequence[tuple[int, np.ndarray]]) -> TableSet | None:
    """Return the prefix codes of all class vectors of the file and of its octave scales, each with its table."""
    if not vectors:
        return None
    n_tables = 1 + max(1, *(table for table, _ in vectors))
    low = min(int(v.min()) for _, v in vectors)
    high = max(int(v.max()) for _, v in vectors)
    low, high = min(low, 0), max(high, 0)
    histograms = np.zeros((n_tables, high - low + 1), np.int64)
    for table, vector in vectors:
        histograms[table] += np.bincount(vector.astype(np.int64) - low, minlength=high - low + 1)
    histograms[:, -low] += histograms.sum(1) == 0  # an unused table still has to be one
    tried = (
        TableSet([FrequencyTable.dyadic_from_histogram(h, bits) for h in histograms], -low)
        for bits in _CLASS_PROBABILITY_BITS
        if (histograms > 0).sum(1).max() <= 1 << bits
    )
    return min(tried, key=lambda tables: len(tables.to_bytes()) + _coded_bits(histograms, tables) / 8)


def _coded_bits(histograms: np.ndarray, tables: TableSet) -> int:
    """Return the bits of symbols that occur so often, int64[tables, alphabet], as dyadic tables code them."""
    counts = np.array([table.counts for table in tables.tables], np.int64)
    used = histograms > 0
    return int((histograms[used] * (tables.probability_bits - np.log2(counts[used]))).sum())


def encode_class_vectors(vectors: Sequence[tuple[int, np.ndarray]], tables: TableSet | None) -> bytes:
    """Return the class bytes of a group of these vectors, each with its table."""
    if not vectors or tables is None:
        return b""
    symbols = np.concatenate([v.astype(np.int64) + tables.origin for _, v in vectors]).astype(np.uint8)
    return l2codec.encode("huffman", symbols, tables, offset_classes(vectors, len(tables)), block_bits=30)


def offset_classes(vectors: Sequence[tuple[int, np.ndarray | int]], n_tables: int) -> ClassMap:
    """Return which table codes which offset, for vectors (or their lengths) in order."""
    lengths = np.array([v if isinstance(v, int) else v.size for _, v in vectors], np.int64)
    return ClassMap((0, 0, 0), n_tables, 0, row=np.array([t for t, _ in vectors], np.int8), row_lengths=lengths)
