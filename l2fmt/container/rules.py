"""Which entries of an index are valid (spec/container.md 4 to 6, spec/transforms.md): one function an entry.

Reader and writer call the same functions. Each raises CorruptFileError, or UnsupportedError for an unknown id, with a
sentence that names the entry, the field, what was found and what is allowed. Types are checked strictly, because the
fields come from a file: a bool is no integer, an integer no float.
"""

import math
import re
import reprlib
import struct
from collections.abc import Callable, Sequence

import numpy as np

from l2fmt import _registry
from l2fmt._registry import BITS, CODEBOOK, CODERS, GEOMETRIC, JOINT, RANS, RAW, UNIFORM
from l2fmt.container.entries import OCTAVES, Group, Section, Stream, TableSetEntry, TensorEntry
from l2fmt.errors import CorruptFileError, UnsupportedError

MAX_SIZE = (1 << 63) - 1
MAX_U32 = (1 << 32) - 1
_MAX_DIMENSION = 1 << _registry.MAX_DIMENSION_BITS
_QUANTIZED_DTYPES = ("F16", "BF16", "F32", "F64")
_SCALE_KINDS = ("F32", "F16", "BF16", "F8_E8M0", OCTAVES.name)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxlong = 80


def show(value: object) -> str:
    """Return a short form of any value from a file for an error message: bounded in length and depth, escaped."""
    return _repr.repr(value)


def check_name(name: object, what: str) -> None:
    """Check the name of a tensor or alias, or the kind of a section."""
    if not isinstance(name, str):
        raise CorruptFileError(f"{what} {show(name)} must be a string")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise CorruptFileError(f"{what} {show(name)} is not valid Unicode") from error
    if not 1 <= size <= _registry.MAX_NAME_BYTES:
        raise CorruptFileError(f"{what} {show(name)} has {size} bytes; allowed are 1 to {_registry.MAX_NAME_BYTES}")
    if _CONTROL.search(name):
        raise CorruptFileError(f"{what} {show(name)} contains a control character")


def check_tensor(tensor: TensorEntry) -> None:
    """Check a tensor by itself; its group is for the index to check."""
    check_name(tensor.name, "tensor name")
    where = f"tensor {tensor.name!r}"
    if len(tensor.shape) > _registry.MAX_RANK:
        raise CorruptFileError(f"{where} has {len(tensor.shape)} dimensions; allowed are {_registry.MAX_RANK}")
    extent = tensor.dtype.itemsize
    for dimension in tensor.shape:
        check_integer(dimension, 0, _MAX_DIMENSION, f"{where}: dimension")
        extent *= dimension or 1
    if extent > MAX_SIZE:
        raise CorruptFileError(f"{where}: the dimensions {tensor.shape} multiply to 2^63 bytes or more")


def check_table_set(entry: TableSetEntry, number: int) -> None:
    """Check the fields of a table set; the tables themselves are checked when they are expanded."""
    where = f"table set {number}"
    check_integer(entry.probability_bits, *_registry.PROBABILITY_BITS, f"{where}: probability bits")
    check_integer(entry.alphabet, 1, _registry.MAX_ALPHABET, f"{where}: alphabet")
    check_integer(entry.origin, 0, entry.alphabet - 1, f"{where}: origin")
    check_integer(entry.n_tables, 1, _registry.MAX_TABLES, f"{where}: number of tables")
    if not isinstance(entry.data, bytes):
        raise CorruptFileError(f"{where}: the tables are {show(entry.data)}; they must be a byte string")


def check_section(section: Section) -> None:
    """Check the fields of an optional section."""
    check_name(section.kind, "section kind")
    check_integer(section.length, 0, MAX_SIZE, f"section {section.kind!r}: length")
    check_integer(section.checksum, 0, MAX_U32, f"section {section.kind!r}: checksum")


def check_group(group: Group, table_sets: Sequence[TableSetEntry]) -> None:
    """Check a group of checked tensors and every reference to a table set."""
    where = group.label
    for tensor in group.tensors:
        if tensor.dtype != group.dtype:
            raise CorruptFileError(
                f"{where}: {tensor.name!r} is {tensor.dtype}, its group {group.dtype}; a group has one dtype"
            )
    if group.size * group.dtype.itemsize > MAX_SIZE:
        raise CorruptFileError(f"{where}: the group decodes to 2^63 bytes or more")
    for number, stream in enumerate(group.streams):
        _check_stream(stream, f"{where}, stream {number}", group.symbols, table_sets)
    check_integer(group.transform, 0, MAX_SIZE, f"{where}: transform")
    if group.transform not in _TRANSFORM_RULES:
        raise UnsupportedError(
            f"{where}: transform {group.transform} is unknown; this reader knows 0 to {max(_TRANSFORM_RULES)}"
        )
    _TRANSFORM_RULES[group.transform](group, where, table_sets)
    _check_scales(group, where)
    _check_classes(group, where)
    check_integer(group.checksum, 0, MAX_U32, f"{where}: checksum")


def check_integer(value: object, low: int, high: int, what: str) -> int:
    """Return a value that is an integer in `[low, high]`."""
    if type(value) is not int or not low <= value <= high:
        raise CorruptFileError(f"{what} is {show(value)}; allowed are integers from {low} to {high}")
    return value


def _check_stream(stream: Stream, where: str, symbols: int, table_sets: Sequence[TableSetEntry]) -> None:
    check_integer(stream.length, 0, MAX_SIZE, f"{where}: length")
    check_integer(stream.coder, 0, MAX_SIZE, f"{where}: coder")
    if stream.coder not in CODERS.values():
        raise UnsupportedError(f"{where}: coder {stream.coder} is unknown; this reader knows {CODERS}")
    if stream.coder == RAW:
        check_integer(stream.width, 0, _registry.MAX_RAW_WIDTH, f"{where}: width")
        expected = -(-symbols * stream.width // 8)
        if stream.length != expected:
            raise CorruptFileError(
                f"{where}: {symbols} raw symbols of {stream.width} bits take {expected} bytes, not {stream.length}"
            )
        return
    check_integer(stream.table_set, 0, len(table_sets) - 1, f"{where}: table set")
    check_integer(stream.class_base, 0, table_sets[stream.table_set].n_tables - 1, f"{where}: class base")
    check_integer(stream.class_mask, 0, 7, f"{where}: class mask")
    check_integer(stream.block_bits, *_registry.BLOCK_BITS, f"{where}: block bits")
    check_integer(stream.lane_bits, 0, _registry.MAX_LANE_BITS if stream.coder == RANS else 0, f"{where}: lane bits")
    if not symbols and stream.length:
        raise CorruptFileError(f"{where}: a stream of no symbols is empty, not {stream.length} bytes")


def _check_scales(group: Group, where: str) -> None:
    if group.scales == (None, None):
        return
    for scale in group.scales:
        if scale is not None and scale.name not in _SCALE_KINDS:
            raise CorruptFileError(f"{where}: scales are {scale}; allowed are {', '.join(_SCALE_KINDS)}")
    if group.transform == BITS or len(group.tensors) != 1 or len(group.tensors[0].shape) < 2 or not group.size:
        raise CorruptFileError(
            f"{where}: scales are only for one quantized tensor of two or more dimensions that is not empty"
        )


def _check_classes(group: Group, where: str) -> None:
    check_integer(group.class_bytes, 0, MAX_SIZE, f"{where}: class bytes")
    masks = [stream.class_mask for stream in group.streams]
    if not any(masks):
        if group.class_bytes and OCTAVES not in group.scales:
            raise CorruptFileError(f"{where}: class bytes are {group.class_bytes}; no stream has class vectors")
    elif not group.size:
        # An empty tensor may have 2^48 rows: their offsets could cost no byte.
        raise CorruptFileError(f"{where}: a group without elements has class vectors")
    elif len(group.tensors) > 1 and max(masks) > 1:
        raise CorruptFileError(f"{where}: class mask is {max(masks)}; a group of several tensors has row vectors only")


def _check_bits(group: Group, where: str, table_sets: Sequence[TableSetEntry]) -> None:
    parameters, word_bits = group.parameters, group.dtype.word_bits
    if len(parameters) < 2 or len(parameters) != len(group.streams) + 1:
        raise CorruptFileError(
            f"{where}: bits has {len(parameters)} parameters and {len(group.streams)} streams; "
            "they must be a drop and the width of each of at least one stream"
        )
    drop, *widths = parameters
    check_integer(drop, 0, word_bits, f"{where}: drop")
    for number, (width, stream) in enumerate(zip(widths, group.streams, strict=True)):
        check_integer(width, 1, _registry.MAX_RAW_WIDTH, f"{where}: width of field {number}")
        _check_alphabet(stream, f"{where}, stream {number}", 1 << width, table_sets)
    if drop + sum(widths) != word_bits:
        raise CorruptFileError(
            f"{where}: drop and widths {parameters} add up to {drop + sum(widths)} bits; "
            f"a word of {group.dtype} has {word_bits}"
        )


def _check_alphabet(stream: Stream, where: str, allowed: int, table_sets: Sequence[TableSetEntry]) -> None:
    found = 1 << stream.width if stream.coder == RAW else table_sets[stream.table_set].alphabet
    if found > allowed:
        raise CorruptFileError(f"{where} can hold {found} different symbols; allowed are {allowed}")


def _check_quantized(group: Group, where: str, n_parameters: int) -> None:
    if group.dtype.name not in _QUANTIZED_DTYPES:
        raise CorruptFileError(
            f"{where} is {group.dtype}; a quantized tensor must be one of {', '.join(_QUANTIZED_DTYPES)}"
        )
    if len(group.streams) != 1:
        raise CorruptFileError(f"{where}: a quantized group has 1 stream, not {len(group.streams)}")
    if len(group.parameters) != n_parameters:
        raise CorruptFileError(f"{where}: the transform has {n_parameters} parameters, not {len(group.parameters)}")


def _check_formula(n_floats: int) -> Callable[[Group, str, Sequence[TableSetEntry]], None]:
    """Return the rule of a transform whose parameters are an offset and positive floats."""

    def check(group: Group, where: str, table_sets: Sequence[TableSetEntry]) -> None:
        _check_quantized(group, where, 1 + n_floats)
        check_integer(group.parameters[0], 0, _registry.MAX_ALPHABET - 1, f"{where}: offset")
        for value in group.parameters[1:]:
            if type(value) is not float or not 0 < value < math.inf or not _is_binary32(value):
                raise CorruptFileError(f"{where}: parameter {show(value)} must be a finite positive binary32 float")

    return check


def _is_binary32(value: float) -> bool:
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0] == value
    except OverflowError:
        return False


def _check_codebook(group: Group, where: str, table_sets: Sequence[TableSetEntry]) -> None:
    _check_quantized(group, where, 1)
    (values,) = group.parameters
    if not isinstance(values, bytes) or len(values) % 4:
        raise CorruptFileError(f"{where}: the codebook must be a byte string of f32 values")
    (stream,) = group.streams
    found = len(values) // 4
    if stream.coder == RAW:
        # The decoder refuses symbols beyond the codebook.
        if not min(group.size, 1) <= found <= 1 << stream.width:
            raise CorruptFileError(
                f"{where}: the codebook has {found} values; {stream.width} raw bits allow {1 << stream.width}"
            )
    elif found != (alphabet := table_sets[stream.table_set].alphabet):
        raise CorruptFileError(f"{where}: the codebook has {found} values; the alphabet {alphabet}")
    if not np.isfinite(np.frombuffer(values, "<f4")).all():
        raise CorruptFileError(f"{where}: the codebook has a value that is not finite")


_TRANSFORM_RULES: dict[int, Callable[[Group, str, Sequence[TableSetEntry]], None]] = {
    BITS: _check_bits,
    UNIFORM: _check_formula(1),
    JOINT: _check_formula(2),
    GEOMETRIC: _check_formula(2),
    CODEBOOK: _check_codebook,
}
