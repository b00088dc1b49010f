"""Check the resume points of a file against the streams they belong to (spec/container.md 8)."""

import numpy as np

import l2codec
from l2codec import CodecError
from l2fmt.container import Reader, parse_resume
from l2fmt.container.sections import RESUME
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline.classes import class_maps


def check_resume(reader: Reader) -> int:
    """Decode every stream that has resume points and compare; return how many points there are.

    Raises CorruptFileError naming the tensor whose points a decoder must not start from.
    """
    section = reader.section(RESUME)
    if section is None:
        return 0
    total = 0
    for record in parse_resume(reader.read_section(section), reader.index):
        group = reader.index.groups[record.group]
        stream = group.streams[record.stream]
        data = reader.read_group(record.group)
        try:
            found = l2codec.resume_points(
                data.streams[record.stream],
                group.symbols,
                reader.table_sets[stream.table_set],
                class_maps(reader, group, data)[record.stream],
                lanes=1 << stream.lane_bits,
                block_bits=stream.block_bits,
                interval=record.interval,
            )
        except CodecError as error:
            raise CorruptFileError(f"{group.label}: {error}") from error
        if not np.array_equal(found, np.column_stack([record.positions, record.states])):
            where = f"section {RESUME!r}, {group.label}, stream {record.stream}"
            raise CorruptFileError(f"{where}: a resume point is not where the stream passes")
        total += len(found)
    return total
