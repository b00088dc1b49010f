"""Random streams to code, made from a few parameters so that hypothesis can shrink them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from l2codec import ClassMap, FrequencyTable, TableSet, decode, encode


@dataclass
class Case:
    """A sequence, its model, and the keyword arguments that code it."""

    coder: str
    symbols: np.ndarray
    tables: TableSet
    classes: ClassMap | int
    layout: dict[str, int]

    def encode(self, **extra: Any) -> bytes:
        return encode(self.coder, self.symbols, self.tables, self.classes, **self.layout, **extra)

    def decode(self, data: bytes, **extra: Any) -> np.ndarray:
        return decode(self.coder, data, self.symbols.size, self.tables, self.classes, **self.layout, **extra)


def build(
    coder: str, alphabet: int, probability_bits: int, n_tables: int, lanes: int, block_bits: int, count: int, seed: int
) -> Case:
    rng = np.random.default_rng(seed)
    make = FrequencyTable.dyadic_from_histogram if coder == "huffman" else FrequencyTable.from_histogram
    tables = []
    for _ in range(n_tables):
        hist = np.floor(rng.exponential(rng.choice([1, 30, 3000]), alphabet)).astype(np.int64)
        hist[rng.permutation(alphabet)[: max(0, alphabet - (1 << probability_bits))]] = 0  # what fits the table
        hist[rng.integers(alphabet)] += 1 if not hist.any() else 0
        tables.append(make(hist, probability_bits))
    table_set = TableSet(tables, int(rng.integers(alphabet)))
    classes = class_map(count, n_tables, rng)
    used = [np.flatnonzero(table.counts) for table in tables]
    skew = [rng.choice(u, 1 + int(rng.integers(u.size))) for u in used]
    each = [classes] * count if isinstance(classes, int) else classes.slice(0, count).tolist()
    picks = rng.integers(1 << 30, size=count).tolist()
    symbols = np.array([skew[k][pick % skew[k].size] for k, pick in zip(each, picks, strict=True)], np.int64)
    symbols = symbols.astype(np.uint8 if alphabet <= 256 else np.uint16)
    layout = {"lanes": lanes if coder == "rans" else 1, "block_bits": block_bits}
    return Case(coder, symbols, table_set, classes, layout)


def class_map(count: int, n_tables: int, rng: np.random.Generator) -> ClassMap | int:
    """Return any kind of classes for `count` symbols."""
    base = int(rng.integers(n_tables))
    kind = rng.integers(4)
    if kind == 0:
        return base
    if kind == 1:  # ragged rows, some of them empty
        ends = np.sort(rng.integers(0, count + 1, 3))
        lengths = np.diff(ends, prepend=0, append=count)
        return ClassMap((0, 0, 0), n_tables, base, rng.integers(-3, 4, lengths.size), row_lengths=lengths)
    positions = next(p for p in (9, 4, 3, 2, 1) if count % p == 0)
    columns = next(c for c in (16, 7, 5, 3, 2, 1) if count // positions % c == 0)
    shape = (count // positions // columns, columns, positions)
    vectors = [rng.integers(-3, 4, n) if rng.integers(2) else None for n in shape]
    return ClassMap(shape, n_tables, base, *vectors)


@pytest.fixture(scope="session")
def build_case() -> Callable[..., Case]:
    return build


@pytest.fixture(scope="session")
def build_class_map() -> Callable[..., ClassMap | int]:
    return class_map
