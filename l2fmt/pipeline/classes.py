"""The class maps of a group and its octave scales, from its class bytes (spec/container.md 6)."""

from dataclasses import dataclass

import numpy as np

import l2codec
from l2codec import ClassMap, huffman
from l2codec.blocks import symbol_dtype
from l2fmt.container.entries import OCTAVES, Group
from l2fmt.container.reader import GroupBytes, Reader
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline.fitting import offset_classes

_BLOCK_BITS = 30  # of the stream of class vectors


@dataclass(frozen=True)
class Vectors:
    """What the class bytes of a group hold: the class map of each stream, and the offsets of row and column scales,
    int8, where these are octave scales.
    """

    maps: list[ClassMap | int]
    row_scale: np.ndarray | None
    column_scale: np.ndarray | None


def read_vectors(reader: Reader, group: Group, data: GroupBytes) -> Vectors:
    """Decode the class bytes of a group; raises CodecError for a stream that is corrupt."""
    layout, lengths = group.layout, group.vectors
    rest = _offsets(reader, group, data.class_bytes, lengths) if lengths else np.empty(0, np.int8)
    vectors: list[np.ndarray] = []
    for _, size in lengths:
        vectors.append(rest[:size])
        rest = rest[size:]
    maps: list[ClassMap | int] = []
    for stream in group.streams:
        if not stream.class_mask:
            maps.append(stream.class_base)
            continue
        present = [bit for bit in range(3) if stream.class_mask >> bit & 1]
        named = {("row", "column", "position")[bit]: vectors.pop(0) for bit in present}
        ragged = None if layout.row_lengths is None else np.array(layout.row_lengths, np.int64)
        shape = (layout.rows, layout.columns, layout.positions)
        n_tables = len(reader.table_sets[stream.table_set])
        maps.append(ClassMap(shape, n_tables, stream.class_base, row_lengths=ragged, **named))
    row, column = (vectors.pop(0) if kind == OCTAVES else None for kind in group.scales)
    return Vectors(maps, row, column)


def _offsets(reader: Reader, group: Group, data: bytes, lengths: list[tuple[int, int]]) -> np.ndarray:
    """Return the offsets of all class vectors, int8; `lengths` are as for `offset_classes`."""
    tables = reader.class_tables
    assert tables is not None  # the index is refused otherwise
    numbers, sizes = zip(*lengths, strict=True)
    count = sum(sizes)
    if 0 < count <= 1 << _BLOCK_BITS:  # one block, as nearly always: without what a stream of blocks needs
        symbols = np.empty(count, symbol_dtype(tables.alphabet))
        classes = np.repeat(np.array(numbers, np.uint8), sizes)
        huffman.decode_block(np.frombuffer(data, np.uint8), tables, classes, 1, symbols)
    else:
        symbols = l2codec.decode(
            "huffman", data, count, tables, offset_classes(lengths, len(tables)), block_bits=_BLOCK_BITS
        )
    if tables.origin <= 128 and tables.alphabet - tables.origin <= 128:  # no symbol is beyond one byte
        return (symbols.astype(np.uint8) - np.uint8(tables.origin)).view(np.int8)
    offsets = symbols.astype(np.int32) - tables.origin
    if offsets.size and (int(offsets.min()) < -128 or int(offsets.max()) > 127):
        raise CorruptFileError(f"{group.label}: a class offset is beyond one byte")
    return offsets.astype(np.int8)
