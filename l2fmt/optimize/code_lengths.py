"""What codes will cost: the class model fitted to them, and the bits of every code in each of its tables."""

from collections.abc import Sequence

import numpy as np

import l2codec
from l2codec import ClassMap, TableSet

_UNSEEN_BITS = 4.0  # what a code without a count costs beyond the rarest one


def as_rows(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (rows, columns, positions) of a weight tensor, as the class model sees it."""
    if len(shape) < 2:
        return (1, int(np.prod(shape)), 1)
    return (shape[0], shape[1], int(np.prod(shape[2:])))


def fit_tables(codes: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]) -> tuple[TableSet, list[ClassMap]]:
    """Fit the class model that will code these codes."""
    low = min(int(c.min(initial=0)) for c in codes)
    high = max(int(c.max(initial=0)) for c in codes)
    dtype = np.uint8 if high - low < 256 else np.uint16
    sequences = [((c - low).astype(dtype), as_rows(shape)) for c, shape in zip(codes, shapes, strict=True)]
    bits = 12 if dtype == np.uint8 else 14
    return l2codec.fit_classes(sequences, high - low + 1, -low, probability_bits=bits, passes=3)


def code_costs(tables: TableSet, limit: int) -> np.ndarray:
    """Return the bits of codes -limit to limit in each table, float32[K, 2 limit + 1]; finite for codes without a
    count.
    """
    bits = tables.cost_bits()
    bits = np.where(np.isfinite(bits), bits, tables.probability_bits + _UNSEEN_BITS)
    symbols = np.arange(-limit, limit + 1) + tables.origin
    inside = (symbols >= 0) & (symbols < tables.alphabet)
    result = np.full((len(tables), symbols.size), tables.probability_bits + _UNSEEN_BITS, np.float32)
    result[:, inside] = bits[:, symbols[inside]]
    return result
