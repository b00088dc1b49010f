"""Decode groups into memory of the caller, block by block (spec/container.md 5, 6; spec/transforms.md)."""

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from l2codec import CodecError, Stream, Values
from l2codec.threads import Step, run
from l2fmt import _registry
from l2fmt.container.entries import Group
from l2fmt.container.reader import GroupBytes, Reader
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline.classes import read_vectors
from l2fmt.pipeline.dequantize import field_values, quantized_values
from l2fmt.pipeline.scales import StoredScale, scale_values

S = TypeVar("S", bound=Stream)

_CODER_NAMES = {number: name for name, number in _registry.CODERS.items()}
_RAW = _registry.CODERS["raw"]
_BITS = _registry.TRANSFORMS["bits"]


def decode_tensor(reader: Reader, name: str) -> np.ndarray:
    """Return one tensor (or alias) as `dtype.numpy`; decodes the group it is in.

    Raises LimitExceededError before allocating, CorruptFileError naming the tensor.
    """
    entry = reader.resolve(name)
    return decode_group(reader, entry.group)[entry.name]


def decode_group(
    reader: Reader, number: int, outs: Sequence[np.ndarray] | None = None, threads: int = 1
) -> dict[str, np.ndarray]:
    """Decode the tensors of a group: name -> array of its shape, `dtype.numpy`.

    `outs` are one-dimensional contiguous arrays of `dtype.word`, one a tensor, to decode into; what they hold after an
    error means nothing.
    """
    group = reader.index.groups[number]
    check_limits(reader, group)
    if outs is None:
        outs = [np.empty(t.size * group.dtype.words, group.dtype.word) for t in group.tensors]
    run([partial(open_group, reader, number, outs)], threads)
    arrays = zip(group.tensors, outs, strict=True)
    return {t.name: out.view(group.dtype.numpy).reshape(t.shape) for t, out in arrays}


def open_group(reader: Reader, number: int, outs: Sequence[np.ndarray]) -> tuple[Sequence[Step], Step]:
    """Read a group and return the steps that decode its parts to `outs`, for `l2codec.threads.run`, and a last one.

    Arguments and errors are those of `decode_group`.
    """
    group = reader.index.groups[number]
    check_limits(reader, group)
    data = reader.read_group(number)
    whole = outs[0] if len(outs) == 1 else np.empty(group.symbols, group.dtype.word)
    try:
        streams = coded_parts(reader, group, data, Stream, whole)
    except CodecError as error:
        raise CorruptFileError(f"{group.label}: {error}") from error
    size = max(stream.part_size for stream, _ in streams)  # each a power of two: steps are whole parts of all streams
    steps = [partial(_decode_part, group, streams, first, first + size) for first in range(0, group.symbols, size)]
    return steps, partial(_distribute, whole, outs)


def check_limits(reader: Reader, group: Group) -> None:
    """Raise LimitExceededError if the reader must not decode a group."""
    reader.limits.check("max_tensor_bytes", max(t.nbytes for t in group.tensors), f"bytes of {group.label}")
    reader.limits.check("max_decoded_bytes", group.nbytes, f"decoded bytes of {group.label}")


def coded_parts(
    reader: Reader, group: Group, data: GroupBytes, kind: type[S], words: np.ndarray
) -> list[tuple[S, Values]]:
    """Return the streams of a group, each with what its symbols stand for in `words`; raises CodecError for one that is
    corrupt.
    """
    vectors = read_vectors(reader, group, data)
    table_sets = reader.table_sets  # all must be valid, whether or not this group refers to them (container.md 4)
    streams = []
    for stream, part, classes in zip(group.streams, data.streams, vectors.maps, strict=True):
        if stream.coder == _RAW:
            streams.append(kind("raw", part, group.symbols, width=stream.width))
            continue
        layout = {"lanes": 1 << stream.lane_bits, "block_bits": stream.block_bits}
        tables = table_sets[stream.table_set]
        streams.append(kind(_CODER_NAMES[stream.coder], part, group.symbols, tables, classes, **layout))
    if group.transform == _BITS:
        return list(zip(streams, field_values(group, words), strict=True))
    coded = group.streams[0]
    tables = None if coded.coder == _RAW else table_sets[coded.table_set]
    alphabet = tables.alphabet if tables else 1 << coded.width
    rows = StoredScale(group.scales[0], data.row_scales, vectors.row_scale)
    columns = StoredScale(group.scales[1], data.column_scales, vectors.column_scale)
    scales = (scale_values(rows, group.label), scale_values(columns, group.label))
    return [(streams[0], quantized_values(group, alphabet, tables, *scales, words))]


def _decode_part(group: Group, streams: list[tuple[Stream, Values]], first: int, stop: int) -> None:
    """Decode symbols `first` to `stop`, in whole parts, of all streams."""
    try:
        for stream, values in streams:
            size = stream.part_size
            for number in stream.parts[first // size : -(-stop // size)]:
                stream.decode_values(number, values)
    except CodecError as error:
        raise CorruptFileError(f"{group.label}: {error}") from error


def _distribute(whole: np.ndarray, outs: Sequence[np.ndarray]) -> None:
    """Copy the words of tensors that are coded together to each of them."""
    if len(outs) > 1:
        ends = np.cumsum([out.size for out in outs])
        for out, part in zip(outs, np.split(whole, ends[:-1]), strict=True):
            out[:] = part
