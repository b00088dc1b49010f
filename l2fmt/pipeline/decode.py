"""Decode groups into memory of the caller, block by block (spec/container.md 5, 6; spec/transforms.md)."""

from collections.abc import Iterator, Sequence

import numpy as np

import l2codec
from l2codec import ClassMap, CodecError
from l2fmt import _registry
from l2fmt.container.entries import Group, Stream
from l2fmt.container.reader import GroupBytes, Reader
from l2fmt.dtypes import DType
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline.fitting import offset_classes
from l2fmt.transforms import Codebook, from_float32, from_parameters, join_field, to_float32

_SLICE = 1 << 16  # elements dequantized at once: they stay in the processor's cache
_CODER_NAMES = {number: name for name, number in _registry.CODERS.items()}
_RAW = _registry.CODERS["raw"]
_BITS = _registry.TRANSFORMS["bits"]


def decode_tensor(reader: Reader, name: str) -> np.ndarray:
    """Return one tensor (or alias) as `dtype.numpy`; decodes the group it is in.

    Raises LimitExceededError before allocating, CorruptFileError naming the tensor.
    """
    entry = reader.resolve(name)
    return decode_group(reader, entry.group)[entry.name]


def decode_group(reader: Reader, number: int, outs: Sequence[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Decode the tensors of a group: name -> array of its shape, `dtype.numpy`.

    `outs` are one-dimensional contiguous arrays of `dtype.word`, one a tensor, to decode into; what they hold after an
    error means nothing.
    """
    group = reader.index.groups[number]
    reader.limits.check("max_tensor_bytes", max(t.nbytes for t in group.tensors), f"bytes of {group.label}")
    reader.limits.check("max_decoded_bytes", group.nbytes, f"decoded bytes of {group.label}")
    data = reader.read_group(number)
    word = group.dtype.word
    if outs is None:
        outs = [np.empty(t.size * group.dtype.words, word) for t in group.tensors]
    try:
        whole = outs[0] if len(outs) == 1 else np.empty(group.symbols, word)
        if group.transform == _BITS:
            _decode_bits(reader, group, data, whole)
        else:
            _decode_quantized(reader, group, data, whole.view(group.dtype.numpy))
    except CodecError as error:
        raise CorruptFileError(f"{group.label}: {error}") from error
    if len(outs) > 1:
        ends = np.cumsum([out.size for out in outs])
        for out, part in zip(outs, np.split(whole, ends[:-1]), strict=True):
            out[:] = part
    arrays = zip(group.tensors, outs, strict=True)
    return {t.name: out.view(group.dtype.numpy).reshape(t.shape) for t, out in arrays}


def _decode_bits(reader: Reader, group: Group, data: GroupBytes, words: np.ndarray) -> None:
    shift, *widths = group.parameters
    words[:] = 0
    maps = class_maps(reader, group, data)
    for number, (stream, width) in enumerate(zip(group.streams, widths, strict=True)):
        for start, symbols in _symbols(reader, stream, data.streams[number], group.symbols, maps[number]):
            join_field(words[start : start + symbols.size], symbols, shift)
        shift += width


def _decode_quantized(reader: Reader, group: Group, data: GroupBytes, out: np.ndarray) -> None:
    stream = group.streams[0]
    codebook = _codebook(reader, group)
    finite = np.isfinite(codebook) if stream.coder == _RAW else None
    scales = [
        None if raw is None else _scale(raw, dtype, group)
        for raw, dtype in zip((data.row_scales, data.column_scales), group.scales, strict=True)
    ]
    plain = all(scale is None for scale in scales)
    if plain:
        codebook = from_float32(codebook, group.dtype)
    layout = group.layout
    for start, symbols in _symbols(reader, stream, data.streams[0], group.symbols, class_maps(reader, group, data)[0]):
        if finite is not None:
            _check_raw(symbols, finite, group)
        for first in range(0, symbols.size, _SLICE):
            part = symbols[first : first + _SLICE]
            begin = start + first
            target = out[begin : begin + part.size]
            if plain:
                np.take(codebook, part, out=target, mode="clip")  # in range: checked above, or by the tables
                continue
            values = codebook[part]
            index = np.arange(begin, begin + part.size)
            if scales[0] is not None:
                values *= scales[0][index // (layout.columns * layout.positions)]
            if scales[1] is not None:
                values *= scales[1][index // layout.positions % layout.columns]
            target[:] = from_float32(values, group.dtype)


def _check_raw(symbols: np.ndarray, finite: np.ndarray, group: Group) -> None:
    """Check raw symbols, which no table limits, against what values of the codebook are finite."""
    if symbols.size and int(symbols.max()) >= finite.size:
        raise CorruptFileError(f"{group.label}: symbol {symbols.max()} is beyond its codebook of {finite.size}")
    if not finite[symbols].all():
        raise CorruptFileError(f"{group.label}: the value of a symbol is not finite")


def _codebook(reader: Reader, group: Group) -> np.ndarray:
    """Return the float32 value of every symbol the stream can hold; those that no table codes may be anything."""
    stream = group.streams[0]
    if stream.coder == _RAW and not group.symbols:
        return np.empty(0, np.float32)  # a codebook may then be empty
    transform, offset = from_parameters(group.transform, group.parameters)
    if stream.coder == _RAW:
        used = np.zeros(transform.table.size if isinstance(transform, Codebook) else 1 << stream.width, bool)
    else:
        used = (np.isfinite(reader.table_sets[stream.table_set].cost_bits())).any(0)
    with np.errstate(over="ignore"):
        values = transform.values(np.arange(used.size) - offset)
    if not np.isfinite(values[used]).all():
        raise CorruptFileError(f"{group.label}: its codebook has a value that is not finite")
    return values


def _scale(raw: bytes, dtype: DType | None, group: Group) -> np.ndarray:
    assert dtype is not None
    values = to_float32(np.frombuffer(raw, dtype.numpy), dtype)
    if not (np.isfinite(values) & (values > 0)).all():
        raise CorruptFileError(f"{group.label}: a scale is not finite and positive")
    return values


def _symbols(
    reader: Reader, stream: Stream, data: np.ndarray, count: int, classes: ClassMap | int
) -> Iterator[tuple[int, np.ndarray]]:
    if stream.coder == _RAW:
        return l2codec.iter_decode("raw", data, count, width=stream.width)
    tables = reader.table_sets[stream.table_set]
    return l2codec.iter_decode(
        _CODER_NAMES[stream.coder],
        data,
        count,
        tables,
        classes,
        lanes=1 << stream.lane_bits,
        block_bits=stream.block_bits,
    )


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
        offsets = symbols.astype(np.int64) - tables.origin
        if offsets.size and (offsets.min() < -128 or offsets.max() > 127):
            raise CorruptFileError(f"{group.label}: a class offset is beyond one byte")
        vectors = np.split(offsets.astype(np.int8), np.cumsum([size for _, size in lengths])[:-1])
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
