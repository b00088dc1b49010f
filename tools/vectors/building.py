"""Builds small files from integers alone: nothing is fitted, so that the bytes change only with the format.

What a file must decode to is computed here from the specification, not by decoding it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import l2codec
from l2codec import ClassMap, FrequencyTable, TableSet
from l2fmt.container import Header, Reader, Stream, TableSetEntry, Writer
from l2fmt.container.entries import OCTAVES, SCALE_TABLE
from l2fmt.dtypes import DTYPES

CODERS = {"raw": 0, "rans": 1, "range": 2, "huffman": 3}
Tensor = tuple[str, str, tuple[int, ...]]  # name, dtype, shape


class Draws:
    """A stream of integers that is the same everywhere and for ever (Knuth's 64-bit linear congruential generator)."""

    def __init__(self, seed: int):
        self._state = seed

    def below(self, bound: int, count: int) -> list[int]:
        """Return `count` integers in [0, bound), `bound` at most 2^31."""
        result = []
        for _ in range(count):
            self._state = (self._state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            result.append((self._state >> 33) * bound >> 31)
        return result

    def offsets(self, reach: int, count: int) -> list[int]:
        """Return `count` integers in [-reach, reach]."""
        return [value - reach for value in self.below(2 * reach + 1, count)]


def geometric_counts(alphabet: int, origin: int, bits: int, decay: tuple[int, int]) -> list[int]:
    """Return counts that fall by the fraction `decay` with each step away from the origin, none of them 0."""
    numerator, denominator = decay
    weights = [
        (numerator ** abs(s - origin) << 20) // denominator ** abs(s - origin) if s != origin else 1 << 20
        for s in range(alphabet)
    ]
    counts = [1 + weight * ((1 << bits) - alphabet) // sum(weights) for weight in weights]
    counts[origin] += (1 << bits) - sum(counts)
    return counts


def dyadic_counts(alphabet: int, origin: int, bits: int) -> list[int]:
    """Return counts of 1/2, 1/4, ... from the origin on, cyclically, until nothing is left."""
    counts, left = [0] * alphabet, 1 << bits
    for i in range(alphabet):
        share = left if left == 1 or i == alphabet - 1 else left // 2
        counts[(origin + i) % alphabet] = share
        left -= share
    return counts


@dataclass(frozen=True)
class Coded:
    """A stream, its bytes, its symbols in order, and its class vectors: (1 if not of rows, offsets)."""

    stream: Stream
    data: bytes
    symbols: list[int]
    vectors: tuple[tuple[int, list[int]], ...] = ()


class FileBuilder:
    """Collects groups of a file and what its tensors must decode to."""

    def __init__(
        self, seed: int, metadata: dict[str, str] | None = None, class_tables: bool = False, octaves: bool = False
    ):
        self.draws = Draws(seed)
        self.writer = Writer(None, metadata=metadata)
        self.sets: list[TableSet] = []
        self.expected: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
        self.class_set: TableSet | None = None
        if class_tables or octaves:
            counts = [[64] * 16, [8] * 8 + [512] + [64] * 7]  # offsets -8 to 7 of rows, and of columns and positions
            counts += [[32] * 8 + [256, 256] + [128, 64, 32, 16, 8, 8]] * octaves
            self.class_set = self.sets[self.tables(counts, 10, 8, for_classes=True)]

    def tables(self, counts: Sequence[Sequence[int]], bits: int, origin: int, *, for_classes: bool = False) -> int:
        """Add a table set and return its number."""
        tables = TableSet([FrequencyTable(row, bits) for row in counts], origin)
        entry = TableSetEntry(bits, tables.alphabet, origin, len(tables), tables.to_bytes())
        self.sets.append(tables)
        return self.writer.add_table_set(entry, for_classes=for_classes)

    def raw(self, symbols: Sequence[int], width: int) -> Coded:
        """Return a stream of coder raw."""
        symbols = list(symbols)
        return Coded(Stream(0, width=width), l2codec.encode("raw", np.array(symbols, np.uint16), width=width), symbols)

    def coded(
        self,
        coder: str,
        number: int,
        layout: tuple[int, int, int] | list[int],
        *,
        symbols: Sequence[int] | None = None,
        base: int = 0,
        row: list[int] | None = None,
        column: list[int] | None = None,
        position: list[int] | None = None,
        lanes: int = 1,
        block_bits: int = 8,
    ) -> Coded:
        """Return a stream of another coder with table set `number`, of symbols drawn from their tables if none are
        given. `layout` is (rows, columns, positions), or the list of the lengths of ragged rows.
        """
        tables = self.sets[number]
        given: dict[str, Any] = {"row": row, "column": column, "position": position}
        arrays = {name: None if v is None else np.array(v, np.int8) for name, v in given.items()}
        if isinstance(layout, list):
            lengths = np.array(layout, np.int64)
            classes = ClassMap((0, 0, 0), len(tables), base, row_lengths=lengths, row=arrays["row"])
        else:
            classes = ClassMap(layout, len(tables), base, **arrays)
        if symbols is None:
            symbols = self._drawn(tables, classes.slice(0, classes.size).tolist())
        data = l2codec.encode(coder, np.array(symbols, np.uint16), tables, classes, lanes=lanes, block_bits=block_bits)
        mask = sum(1 << bit for bit, vector in enumerate(given.values()) if vector is not None)
        stream = Stream(CODERS[coder], 0, 0, number, base, mask, block_bits, lanes.bit_length() - 1)
        vectors = tuple((min(bit, 1), v) for bit, v in enumerate(given.values()) if v is not None)
        return Coded(stream, data, list(symbols), vectors)

    def _drawn(self, tables: TableSet, classes: list[int]) -> list[int]:
        cumulative = [np.cumsum(table.counts.astype(np.int64)) for table in tables.tables]
        slots = self.draws.below(1 << tables.probability_bits, len(classes))
        return [int(np.searchsorted(cumulative[k], slot, side="right")) for k, slot in zip(classes, slots, strict=True)]

    def group(
        self,
        tensors: Sequence[Tensor],
        transform: int,
        parameters: Sequence[Any],
        coded: Sequence[Coded],
        scales: tuple[str | None, str | None] = (None, None),
        scale_bytes: tuple[bytes, bytes] = (b"", b""),
        octaves: tuple[list[int] | None, list[int] | None] = (None, None),
    ) -> None:
        """Add a group with the class vectors of its streams and its octave scales, given by their offsets."""
        vectors = [vector for part in coded for vector in part.vectors]
        vectors += [(SCALE_TABLE, offsets) for offsets in octaves if offsets is not None]
        data = b""
        if vectors and self.class_set is not None:
            lengths = np.array([len(v) for _, v in vectors], np.int64)
            numbers = np.array([number for number, _ in vectors], np.int8)
            kinds = ClassMap((0, 0, 0), len(self.class_set), 0, numbers, row_lengths=lengths)
            symbols = np.array([offset + self.class_set.origin for _, v in vectors for offset in v], np.uint16)
            data = l2codec.encode("huffman", symbols, self.class_set, kinds, block_bits=30)
        row, column = (
            DTYPES[dtype] if dtype else OCTAVES if offsets is not None else None
            for dtype, offsets in zip(scales, octaves, strict=True)
        )
        self.writer.add_group(
            [(name, DTYPES[dtype], shape) for name, dtype, shape in tensors],
            transform,
            parameters,
            (row, column),
            [(part.stream, part.data) for part in coded],
            *scale_bytes,
            data,
        )

    def words(self, name: str, dtype: str, shape: tuple[int, ...], words: Sequence[int]) -> None:
        """Say what a tensor must decode to: its words."""
        array = np.array(list(words), DTYPES[dtype].word)
        self.expected[name] = (dtype, shape, array.tobytes())

    def values(self, name: str, dtype: str, shape: tuple[int, ...], values: np.ndarray) -> None:
        """Say what a tensor must decode to: float32 values, converted by torch."""
        import torch  # takes seconds to load, and whoever only takes files apart has no use for it

        converted = torch.from_numpy(values).to(getattr(torch, DTYPES[dtype].torch_name))
        raw = converted.view(torch.uint8).numpy().tobytes() if values.size else b""
        self.expected[name] = (dtype, shape, raw)

    def finish(self, *, deflated: bool = False) -> bytes:
        """Return the file, its index plain unless `deflated`: deflated bytes differ between builds of zlib."""
        self.writer.close()
        data = self.writer.getvalue()
        return data if deflated else with_plain_index(data)


def with_plain_index(data: bytes) -> bytes:
    """Return a file with its index stored as it is."""
    with Reader(data) as reader:
        return assembled(reader.index.to_bytes(), data[reader.header.payload_offset :])


def assembled(index: bytes, payload: bytes, **fields: int) -> bytes:
    """Return a file of a plain index and a payload; `fields` are those of the header that are to be different."""
    values = {
        "index_length": len(index),
        "inflated_index_length": len(index),
        "index_checksum": zlib.crc32(index),
        "file_length": 48 + len(index) + len(payload),
    }
    return Header(**(values | fields)).pack() + index + payload


def changed_header(data: bytes, **fields: int) -> bytes:
    """Return a file with some fields of its header changed, and its header checksum right."""
    return replace(Header.parse(data[:48]), **fields).pack() + data[48:]
