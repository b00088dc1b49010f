"""The class maps of a group, from its class vectors (spec/container.md 6)."""

import numpy as np

import l2codec
from l2codec import ClassMap
from l2fmt.container.entries import Group
from l2fmt.container.reader import GroupBytes, Reader
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline.fitting import offset_classes


def class_maps(reader: Reader, group: Group, data: GroupBytes) -> list[ClassMap | int]:
    """Return the class map of each stream, decoded from the group's class vectors."""
    layout = group.layout
    sizes = (layout.rows, layout.columns, layout.positions)
    present = [[bit for bit in range(3) if stream.class_mask >> bit & 1] for stream in group.streams]
    lengths = [(min(bit, 1), sizes[bit]) for bits in present for bit in bits]
    vectors: list[np.ndarray] = []
    if lengths:
        tables = reader.class_tables
        assert tables is not None  # the index is refused otherwise
        count = sum(size for _, size in lengths)
        symbols = l2codec.decode("huffman", data.class_bytes, count, tables, offset_classes(lengths), block_bits=30)
        offsets = symbols.astype(np.int32) - tables.origin
        if offsets.size and (offsets.min() < -128 or offsets.max() > 127):
            raise CorruptFileError(f"{group.label}: a class offset is beyond one byte")
        rest = offsets.astype(np.int8)
        for _, size in lengths:
            vectors.append(rest[:size])
            rest = rest[size:]
    maps: list[ClassMap | int] = []
    for stream, bits in zip(group.streams, present, strict=True):
        if not bits:
            maps.append(stream.class_base)
            continue
        named = {("row", "column", "position")[bit]: vectors.pop(0) for bit in bits}
        ragged = None if layout.row_lengths is None else np.array(layout.row_lengths, np.int64)
        shape = (layout.rows, layout.columns, layout.positions)
        n_tables = len(reader.table_sets[stream.table_set])
        maps.append(ClassMap(shape, n_tables, stream.class_base, row_lengths=ragged, **named))
    return maps
