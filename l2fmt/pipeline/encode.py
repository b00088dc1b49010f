"""Encode a model: write its groups with fitted tables (spec/container.md 5, 6). Deterministic."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import l2codec
from l2codec import TableSet, resume_points
from l2codec.cuda.device import Device
from l2codec.cuda.encoding import encode as encode_on_device
from l2codec.rans import count_points
from l2fmt import _registry
from l2fmt.container.entries import SCALE_TABLE, Stream, TableSetEntry
from l2fmt.container.sections import RESUME, ResumePoints, build_resume
from l2fmt.container.writer import Writer
from l2fmt.errors import InputError
from l2fmt.pipeline.fitting import class_vectors, encode_class_vectors, fit_class_tables, fit_family
from l2fmt.pipeline.grouping import GroupPlan, SymbolSequence, plan_groups
from l2fmt.pipeline.resume import check_interval, interval_of
from l2fmt.pipeline.scales import StoredScale, stored_scale
from l2fmt.pipeline.tensors import PlainTensor, QuantizedTensor


@dataclass(frozen=True)
class Encoding:
    """How symbols are coded: `coder` is rans, range, huffman or raw; `tables` the most frequency tables of a set.

    `resume_interval` adds resume points to rANS streams, one every so many symbols of a lane (spec/entropy-coding.md
    6.1). `threads` share the work, or `device`, a GPU, encodes; the bytes do not depend on it.
    """

    coder: str = "rans"
    tables: int = 16
    resume_interval: int | None = None
    threads: int = 1
    device: Device | None = None

    def __post_init__(self) -> None:
        if self.coder not in _registry.CODERS:
            raise InputError(f"there is no coder {self.coder!r}; the coders are {', '.join(_registry.CODERS)}")
        if not 1 <= self.tables <= 32:
            raise InputError(f"a set has 1 to 32 frequency tables, not {self.tables}")
        if self.resume_interval is not None:
            check_interval(self.resume_interval)
        if self.threads < 1:
            raise InputError(f"encoding takes at least one thread, not {self.threads}")


def write_model(
    writer: Writer,
    tensors: Iterable[QuantizedTensor | PlainTensor],
    encoding: Encoding | None = None,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Add tensors to a writer, in their order, and return the bytes of the quantized ones and their tables.

    The caller closes the writer. `progress` is called with the share done. Takes memory for the codes of all quantized
    tensors (the caller's), and of plain tensors for one at a time besides a sample.
    """
    encoding = encoding or Encoding()
    tensors = list(tensors)
    groups, families = plan_groups(tensors)
    steps = len(families) + len(groups)
    report = progress or (lambda done: None)
    sets = []
    for key, members in families.items():
        report(len(sets) / steps)
        sets.append(fit_family(key, members, encoding.coder, encoding.tables, encoding.threads))
    class_tables = fit_class_tables([vector for group in groups for vector in _vectors(group, _scales(group))])
    weight_bytes = 0
    if class_tables is not None:
        writer.add_table_set(_entry(class_tables), for_classes=True)
    for (_, members), tables in zip(families.items(), sets, strict=True):
        if any(sequence.classes is not None for sequence in members):
            assert tables is not None
            entry = _entry(tables)
            number = writer.add_table_set(entry)
            weight_bytes += len(entry.data) if isinstance(members[0].tensor, QuantizedTensor) else 0
            for sequence in members:
                sequence.table_set, sequence.tables = number, tables
    resume = []
    for number, group in enumerate(groups):
        report((len(families) + number) / steps)
        length, points = _write_group(writer, number, group, class_tables, encoding)
        resume += points
        weight_bytes += length if isinstance(group.tensors[0], QuantizedTensor) else 0
    if resume:
        writer.add_section(RESUME, build_resume(resume))
    writer.order(tensor.name for tensor in tensors)
    report(1.0)
    return weight_bytes


def _entry(tables: TableSet) -> TableSetEntry:
    return TableSetEntry(tables.probability_bits, tables.alphabet, tables.origin, len(tables), tables.to_bytes())


def _write_group(
    writer: Writer, number: int, group: GroupPlan, class_tables: TableSet | None, encoding: Encoding
) -> tuple[int, list[ResumePoints]]:
    """Write a group; return its bytes, and the resume points of its streams."""
    streams, resume = [], []
    for stream_number, sequence in enumerate(group.sequences):
        symbols = sequence.load()
        stream, data = _encode(symbols, sequence, encoding)
        streams.append((stream, data))
        if encoding.resume_interval and sequence.classes and encoding.coder == "rans":
            every = interval_of(stream, encoding.resume_interval)
            if count_points(symbols.size, stream.block_bits, every):
                points = _resume_points(data, sequence, stream, every)
                resume.append(ResumePoints(number, stream_number, every, *points))
    row, column = scales = _scales(group)
    classes = encode_class_vectors(_vectors(group, scales), class_tables)
    writer.add_group(
        [(t.name, t.dtype, t.shape) for t in group.tensors],
        group.transform,
        group.parameters,
        (row.kind, column.kind),
        streams,
        row.data,
        column.data,
        classes,
    )
    return sum(map(len, [*(data for _, data in streams), row.data, column.data, classes])), resume


def _scales(group: GroupPlan) -> tuple[StoredScale, StoredScale]:
    """Return the row scales and the column scales of a group."""
    first = group.tensors[0]
    return stored_scale(getattr(first, "row_scale", None)), stored_scale(getattr(first, "column_scale", None))


def _vectors(group: GroupPlan, scales: Sequence[StoredScale]) -> list[tuple[int, np.ndarray]]:
    """Return what the class bytes of a group hold, each vector with its table."""
    classes = [v for s in group.sequences if s.classes is not None for v in class_vectors(s.classes)]
    return classes + [(SCALE_TABLE, scale.offsets) for scale in scales if scale.offsets is not None]


def _encode(symbols: np.ndarray, sequence: SymbolSequence, encoding: Encoding) -> tuple[Stream, bytes]:
    classes, tables = sequence.classes, sequence.tables
    if classes is None or tables is None:
        stream = Stream(_registry.CODERS["raw"], width=sequence.width)
        return stream, l2codec.encode("raw", symbols, width=sequence.width)
    mask = sum(bit << i for i, bit in enumerate(v is not None for v in (classes.row, classes.column, classes.position)))
    lanes, block_bits = l2codec.recommended_layout(l2codec.code_length(symbols, tables, classes), symbols.size)
    lanes = lanes if encoding.coder == "rans" else 1
    if encoding.device is None:
        encode = partial(l2codec.encode, threads=encoding.threads)
    else:
        encode = partial(encode_on_device, encoding.device)
    data = encode(encoding.coder, symbols, tables, classes, lanes=lanes, block_bits=block_bits)
    stream = Stream(
        _registry.CODERS[encoding.coder],
        table_set=sequence.table_set,
        class_base=classes.base,
        class_mask=mask,
        block_bits=block_bits,
        lane_bits=lanes.bit_length() - 1,
    )
    return stream, data


def _resume_points(
    data: bytes, sequence: SymbolSequence, stream: Stream, interval: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the word positions and the states at the resume points of a stream, every `interval` symbols."""
    assert sequence.tables is not None and sequence.classes is not None
    points = resume_points(
        data,
        sequence.count,
        sequence.tables,
        sequence.classes,
        lanes=1 << stream.lane_bits,
        block_bits=stream.block_bits,
        interval=interval,
    )
    return points[:, 0], points[:, 1:]
