"""Encode a model: choose table sets, class maps and coders, and write the groups (spec/container.md 5, 6).

Symbols of one kind share a table set in the whole file: the codes of quantized weights, and each field of the words of plain
tensors of one dtype. Everything is deterministic.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

import l2codec
from l2codec import ClassMap, FrequencyTable, TableSet
from l2codec.resume import resume_points
from l2fmt import _registry
from l2fmt.container.entries import Stream, TableSetEntry
from l2fmt.container.sections import RESUME, ResumePoints, build_resume
from l2fmt.container.writer import Writer
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError
from l2fmt.pipeline.tensors import PlainTensor, QuantizedTensor
from l2fmt.transforms import Codebook, field_widths, split_field

_GROUPED = 1 << 14  # plain tensors below so many elements share a group, so that they share its fixed cost
_GROUP_LIMIT = 1 << 20  # elements of a shared group: what reading one of its tensors decodes
_SAMPLE = 1 << 23  # symbols of plain tensors that tables are fitted to
_ID_BITS = 2.5  # what an offset of a class vector costs, about
_BITS = _registry.TRANSFORMS["bits"]
_F32 = DTYPES["F32"]


@dataclass(frozen=True)
class Encoding:
    """How symbols are coded: `coder` is rans, range, huffman or raw; `tables` the most frequency tables of a set.

    `resume_interval` (symbols, a multiple of 32) adds resume points to rANS streams longer than it (spec/entropy-coding.md 6.1).
    """

    coder: str = "rans"
    tables: int = 16
    resume_interval: int | None = None

    def __post_init__(self) -> None:
        if self.coder not in _registry.CODERS:
            raise InputError(f"there is no coder {self.coder!r}; the coders are {', '.join(_registry.CODERS)}")
        if not 1 <= self.tables <= 32:
            raise InputError(f"a set has 1 to 32 frequency tables, not {self.tables}")
        if self.resume_interval is not None and (self.resume_interval < 256 or self.resume_interval % 32):
            raise InputError(f"the resume interval is a multiple of 32 from 256 on, not {self.resume_interval}")


@dataclass
class _Sequence:
    """The symbols of one stream to be: `load()` returns them, uint8 or uint16; `layout` as `l2codec.fit_classes` takes it."""

    load: Callable[[], np.ndarray]
    layout: tuple[int, int, int] | np.ndarray
    count: int
    tensor: QuantizedTensor | PlainTensor  # whose symbols these are, the first if several
    width: int = 16  # of coder raw, which codes what has no classes
    classes: ClassMap | None = None
    tables: TableSet | None = None
    table_set: int = 0


@dataclass
class _Group:
    """A group to be written: tensors and sequences, one a stream."""

    tensors: Sequence[QuantizedTensor | PlainTensor]
    sequences: list[_Sequence]
    transform: int
    parameters: list


def write_model(writer: Writer, tensors: Iterable[QuantizedTensor | PlainTensor], encoding: Encoding | None = None) -> int:
    """Add tensors to a writer, in their order, and return the bytes of the quantized ones and their tables; the caller closes it.

    Memory: the codes of all quantized tensors (the caller's), and of plain tensors one at a time besides a sample.
    """
    encoding = encoding or Encoding()
    tensors = list(tensors)
    families: dict[tuple, list[_Sequence]] = {}
    groups = [_quantized_group(t, families) for t in _families_of(tensors, families)]
    groups += [_plain_group(members, families) for members in _shared_groups(tensors)]
    sets = [_fit(key, members, encoding) for key, members in families.items()]
    class_tables = _class_tables(families)
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
        length, points = _write_group(writer, number, group, class_tables, encoding)
        resume += points
        weight_bytes += length if isinstance(group.tensors[0], QuantizedTensor) else 0
    if resume:
        writer.add_section(RESUME, build_resume(resume))
    writer.order(tensor.name for tensor in tensors)
    return weight_bytes


def _entry(tables: TableSet) -> TableSetEntry:
    return TableSetEntry(tables.probability_bits, tables.alphabet, tables.origin, len(tables), tables.to_bytes())


# Quantized tensors.


def _families_of(tensors: list, families: dict) -> list[tuple[QuantizedTensor, tuple]]:
    """Return the quantized tensors, each with the key of its family: (kind, lowest code, alphabet)."""
    ranges = {}
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor):
            codes = tensor.codes
            ranges[id(tensor)] = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    result = []
    # Codes that fit a byte are kept apart from wider ones: they decode faster, and their tables stay small.
    formula = [t for t in tensors if isinstance(t, QuantizedTensor) and not isinstance(t.transform, Codebook)]
    narrow = [t for t in formula if -127 <= ranges[id(t)][0] and ranges[id(t)][1] <= 127]
    keys = {}
    for part in (narrow, [t for t in formula if t not in narrow]):
        if part:
            low = min(0, *(ranges[id(t)][0] for t in part))
            high = max(0, *(ranges[id(t)][1] for t in part))
            if high - low >= _registry.MAX_ALPHABET:
                raise InputError(f"tensor {part[0].name!r} and others have codes from {low} to {high}: the step is too fine")
            keys |= {id(t): ("codes", low, high - low + 1) for t in part}
    for tensor in tensors:
        if not isinstance(tensor, QuantizedTensor):
            continue
        if isinstance(tensor.transform, Codebook):
            low, size = tensor.transform.lowest, tensor.transform.table.size
            first, last = ranges[id(tensor)]
            if first < low or last >= low + size:
                raise InputError(f"tensor {tensor.name!r} has codes from {first} to {last}; its codebook has {low} to {low + size - 1}")
            keys[id(tensor)] = ("codebook", low, size)
        result.append((tensor, keys[id(tensor)]))
    return result


def _quantized_group(found: tuple[QuantizedTensor, tuple], families: dict) -> _Group:
    tensor, key = found
    _, low, alphabet = key
    dtype = np.uint8 if alphabet <= 256 else np.uint16

    def load() -> np.ndarray:
        return (tensor.codes.reshape(-1) - low).astype(dtype)

    sequence = _Sequence(load, _layout(tensor.shape), tensor.codes.size, tensor, (alphabet - 1).bit_length())
    families.setdefault(key, []).append(sequence)
    return _Group([tensor], [sequence], tensor.transform.id, tensor.transform.parameters(-low))


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) < 2:
        return (1, int(np.prod(shape)), 1)
    return (shape[0], shape[1], int(np.prod(shape[2:])))


# Plain tensors.


def _shared_groups(tensors: list) -> list[list[PlainTensor]]:
    """Put small plain tensors of one dtype and precision into shared groups, each larger one into its own."""
    groups: list[list[PlainTensor]] = []
    open_groups: dict[tuple, list[PlainTensor]] = {}
    for tensor in tensors:
        if not isinstance(tensor, PlainTensor):
            continue
        key = (tensor.dtype.name, tensor.drop)
        if tensor.size >= _GROUPED:
            groups.append([tensor])
        elif key in open_groups and sum(t.size for t in open_groups[key]) + tensor.size <= _GROUP_LIMIT:
            open_groups[key].append(tensor)
        else:
            open_groups[key] = [tensor]
            groups.append(open_groups[key])
    return groups


def _plain_group(members: list[PlainTensor], families: dict) -> _Group:
    dtype, drop = members[0].dtype, members[0].drop
    if len(members) == 1:
        shape = members[0].shape
        layout = _layout(shape if dtype.words == 1 else (*shape, dtype.words))
    else:
        layout = np.array([t.size * dtype.words for t in members], np.int64)
    count = sum(t.size for t in members) * dtype.words
    sequences = []
    shift = drop
    for field, width in enumerate(widths := field_widths(dtype, drop)):

        def load(shift: int = shift, width: int = width) -> np.ndarray:
            return np.concatenate([split_field(t.words(), shift, width) for t in members])

        sequence = _Sequence(load, layout, count, members[0], width)
        families.setdefault(("words", dtype.name, drop, field, 1 << width), []).append(sequence)
        sequences.append(sequence)
        shift += width
    return _Group(members, sequences, _BITS, [drop, *widths])


# Tables.


def _fit(key: tuple, members: list[_Sequence], encoding: Encoding) -> TableSet | None:
    """Fit the tables of a family and set the class map of each member, or its width where coding does not pay."""
    alphabet = key[-1]
    if encoding.coder == "raw" or sum(s.count for s in members) == 0:
        for sequence in members:
            _choose_raw(sequence, sequence.load())
        return None
    probability_bits = 12 if alphabet <= 256 else 14
    if key[0] == "words":
        tables = _fit_sample(key, members, encoding, probability_bits)
        for sequence in members:
            symbols = sequence.load()
            classes = l2codec.assign_classes(symbols, sequence.layout, tables)
            if _pays(symbols, tables, classes, sequence):
                sequence.classes = classes
            else:
                _choose_raw(sequence, symbols)
    else:
        loaded = [(s.load(), s.layout) for s in members]
        tables, maps = l2codec.fit_classes(
            loaded, alphabet, -key[1], n_tables=encoding.tables, probability_bits=probability_bits
        )
        for sequence, classes in zip(members, maps, strict=True):
            sequence.classes = classes
    if encoding.coder == "huffman":
        tables = _dyadic(members, tables)
    return tables


def _choose_raw(sequence: _Sequence, symbols: np.ndarray) -> None:
    sequence.classes = None
    sequence.width = int(symbols.max()).bit_length() if symbols.size else 0


def _pays(symbols: np.ndarray, tables: TableSet, classes: ClassMap, sequence: _Sequence) -> bool:
    """Whether coding saves at least 1 % of the packed bits: less is not worth its time."""
    ids = sum(v.size for v in (classes.row, classes.column, classes.position) if v is not None)
    raw = symbols.size * (int(symbols.max()).bit_length() if symbols.size else 0)
    return l2codec.code_length(symbols, tables, classes) + _ID_BITS * ids + 24 < 0.99 * raw


def _fit_sample(key: tuple, members: list[_Sequence], encoding: Encoding, probability_bits: int) -> TableSet:
    """Fit tables to evenly spread rows of all members; every symbol that occurs anywhere gets a count in every table."""
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
    tables, maps = l2codec.fit_classes(parts, used.size, origin, n_tables=encoding.tables, probability_bits=probability_bits)
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


def _dyadic(members: list[_Sequence], tables: TableSet) -> TableSet:
    """Return the best prefix codes for the classes that were fitted."""
    coded = [s for s in members if s.classes is not None]
    parts = [(s.load(), s.layout) for s in coded]
    histograms = _class_histograms(parts, [s.classes for s in coded if s.classes], len(tables), tables.alphabet)
    bits = tables.probability_bits
    codes = [FrequencyTable.dyadic_from_histogram(h if h.any() else _one(h.size, tables.origin), bits) for h in histograms]
    return TableSet(codes, tables.origin)


def _one(size: int, symbol: int) -> np.ndarray:
    result = np.zeros(size, np.int64)
    result[symbol] = 1
    return result


# Class vectors.


def _vectors(classes: ClassMap) -> list[tuple[int, np.ndarray]]:
    """Return the present vectors of a map, each with the table that codes it: 0 for rows, 1 for columns and positions."""
    found = ((0, classes.row), (1, classes.column), (1, classes.position))
    return [(table, vector) for table, vector in found if vector is not None]


def _class_tables(families: dict[tuple, list[_Sequence]]) -> TableSet | None:
    """Return the prefix codes of all class vectors of the file."""
    vectors = [v for members in families.values() for s in members if s.classes is not None for v in _vectors(s.classes)]
    if not vectors:
        return None
    low = min(int(v.min()) for _, v in vectors)
    high = max(int(v.max()) for _, v in vectors)
    low, high = min(low, 0), max(high, 0)
    histograms = np.zeros((2, high - low + 1), np.int64)
    for table, vector in vectors:
        histograms[table] += np.bincount(vector.astype(np.int64) - low, minlength=high - low + 1)
    histograms[:, -low] += histograms.sum(1) == 0  # an unused table still has to be one
    return TableSet([FrequencyTable.dyadic_from_histogram(h, 8) for h in histograms], -low)


def _class_bytes(group: _Group, tables: TableSet | None) -> bytes:
    vectors = [v for s in group.sequences if s.classes is not None for v in _vectors(s.classes)]
    if not vectors or tables is None:
        return b""
    symbols = np.concatenate([v.astype(np.int64) + tables.origin for _, v in vectors]).astype(np.uint8)
    return l2codec.encode("huffman", symbols, tables, offset_classes(vectors), block_bits=30)


def offset_classes(vectors: Sequence[tuple[int, np.ndarray | int]]) -> ClassMap:
    """Return which table codes which offset, for vectors (or their lengths) in order."""
    lengths = np.array([v if isinstance(v, int) else v.size for _, v in vectors], np.int64)
    return ClassMap((0, 0, 0), 2, 0, row=np.array([t for t, _ in vectors], np.int8), row_lengths=lengths)


# Groups.


def _write_group(
    writer: Writer, number: int, group: _Group, class_tables: TableSet | None, encoding: Encoding
) -> tuple[int, list[ResumePoints]]:
    """Write a group; return its bytes, and the resume points of its streams."""
    streams, resume = [], []
    for stream_number, sequence in enumerate(group.sequences):
        symbols = sequence.load()
        stream, data = _encode(symbols, sequence, encoding)
        streams.append((stream, data))
        if encoding.resume_interval and sequence.classes and encoding.coder == "rans" and symbols.size > encoding.resume_interval:
            resume.append(ResumePoints(number, stream_number, encoding.resume_interval, *_resume_points(data, sequence, stream, encoding)))
    first = group.tensors[0]
    scales = [getattr(first, name, None) for name in ("row_scale", "column_scale")]
    scale_bytes = [b"" if scale is None else np.asarray(scale, "<f4").tobytes() for scale in scales]
    classes = _class_bytes(group, class_tables)
    writer.add_group(
        [(t.name, t.dtype, t.shape) for t in group.tensors],
        group.transform,
        group.parameters,
        (None if scales[0] is None else _F32, None if scales[1] is None else _F32),
        streams,
        *scale_bytes,
        classes,
    )
    return sum(map(len, [*(data for _, data in streams), *scale_bytes, classes])), resume


def _encode(symbols: np.ndarray, sequence: _Sequence, encoding: Encoding) -> tuple[Stream, bytes]:
    classes, tables = sequence.classes, sequence.tables
    if classes is None or tables is None:
        stream = Stream(_registry.CODERS["raw"], width=sequence.width)
        return stream, l2codec.encode("raw", symbols, width=sequence.width)
    mask = sum(bit << i for i, bit in enumerate(v is not None for v in (classes.row, classes.column, classes.position)))
    lanes, block_bits = l2codec.recommended_layout(l2codec.code_length(symbols, tables, classes), symbols.size)
    lanes = lanes if encoding.coder == "rans" else 1
    data = l2codec.encode(encoding.coder, symbols, tables, classes, lanes=lanes, block_bits=block_bits)
    stream = Stream(
        _registry.CODERS[encoding.coder],
        table_set=sequence.table_set,
        class_base=classes.base,
        class_mask=mask,
        block_bits=block_bits,
        lane_bits=lanes.bit_length() - 1,
    )
    return stream, data


def _resume_points(data: bytes, sequence: _Sequence, stream: Stream, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Return the word positions and the states at the resume points of a stream."""
    assert sequence.tables is not None and sequence.classes is not None and encoding.resume_interval is not None
    points = resume_points(
        data,
        sequence.count,
        sequence.tables,
        sequence.classes,
        lanes=1 << stream.lane_bits,
        block_bits=stream.block_bits,
        interval=encoding.resume_interval,
    )
    return points[:, 0], points[:, 1:]
