"""Laplace symbols of a given entropy, with one table or with a class map."""

import numpy as np

from l2codec import ClassMap, FrequencyTable, TableSet

ORIGIN, ALPHABET = 15, 31
TABLES, TABLE_BITS = 8, 12


def make_symbols(bits: float, count: int) -> tuple[np.ndarray, TableSet, np.ndarray, TableSet, ClassMap]:
    """Return symbols and the table of all, symbols of several distributions and their tables and classes."""
    symbols = np.random.default_rng(0).choice(ALPHABET, count, p=laplace(scale_of(bits))).astype(np.uint8)
    one = TableSet([FrequencyTable.from_histogram(np.bincount(symbols, minlength=ALPHABET), TABLE_BITS)], ORIGIN)
    classes = random_classes(count)
    several, many = class_tables(classes, count, bits)
    return symbols, one, many, several, classes


def laplace(scale: float) -> np.ndarray:
    weights = np.exp(-np.abs(np.arange(ALPHABET) - ORIGIN) / scale)
    return weights / weights.sum()


def scale_of(bits: float) -> float:
    """Return the scale of the Laplace distribution, cut to the alphabet, that has an entropy."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        p = laplace(middle)
        p = p[p > 0]
        low, high = (middle, high) if -(p * np.log2(p)).sum() < bits else (low, middle)
    return low


def shape_of(count: int) -> tuple[int, int, int]:
    columns = count // 8 if count < 10_000 else 1000
    return (count // (8 * columns), columns, 8)


def random_classes(count: int) -> ClassMap:
    shape = shape_of(count)
    rng = np.random.default_rng(1)
    vectors = [rng.integers(-reach, reach + 1, n) for reach, n in zip((TABLES // 2, 2, 1), shape, strict=True)]
    return ClassMap(shape, TABLES, TABLES // 2, *vectors)


def class_tables(classes: ClassMap, count: int, bits: float) -> tuple[TableSet, np.ndarray]:
    """Return tables whose scales span a factor of 4 around that of the entropy, and symbols drawn from them."""
    scales = scale_of(bits) * np.exp2(np.linspace(-1, 1, TABLES))
    hists = [np.rint(laplace(scale) * 1e9).astype(np.int64) for scale in scales]
    tables = [FrequencyTable.from_histogram(hist, TABLE_BITS) for hist in hists]
    cumulative = np.stack([np.cumsum(table.counts) for table in tables]) / (1 << TABLE_BITS)
    each = classes.slice(0, count)
    draws = np.random.default_rng(2).random(count)
    symbols = np.empty(count, np.uint8)
    for k in range(TABLES):
        chosen = each == k
        symbols[chosen] = np.searchsorted(cumulative[k], draws[chosen], side="right")
    return TableSet(tables, ORIGIN), symbols
