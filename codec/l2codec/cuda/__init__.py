"""The CUDA text of the codec, and what a host must know to launch it (README.md beside this file).

Nothing here needs a GPU: descriptors are numpy records, addresses are integers.
"""

import re
from enum import IntEnum
from pathlib import Path

import numpy as np

from l2codec.blocks import symbol_dtype
from l2codec.errors import CodecError, CorruptStreamError
from l2codec.model import ClassMap
from l2codec.tables import TableSet
from l2codec.values import Values

OPTIONS = ("-std=c++17", "--fmad=false", "--ftz=false")
"""Options of the compiler, besides the architecture. Products of floats are those of the specification."""

MODULES = ("tables", "rans_decode", "rans_encode", "range", "huffman", "raw")
LARGEST_DIMENSION = 1 << 31  # rows, columns and positions are fewer, where a kernel needs to know them
COMPACT_BITS = 12  # the most probability bits that Form.COMPACT has room for

_RAW_STEP = 1 << 13  # symbols of a segment of coder `raw`
_WORD_TYPES = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


class UnsupportedStreamError(CodecError):
    """A stream is one that kernels cannot count."""


class Status(IntEnum):
    """What became of a segment: `Status` in common.cuh."""

    GOOD = 0
    BAD_LENGTH = 1
    BAD_POINT = 2
    BAD_STATE = 3
    TOO_SHORT = 4
    WRONG_POINT = 5
    TOO_LONG = 6
    WRONG_END = 7
    OUTSIDE = 8
    BAD_PADDING = 9
    NO_VALUE = 10
    IMPOSSIBLE_SYMBOL = 11


class Form(IntEnum):
    """How tables are laid out for looking symbols up: `Form` in lookups.cuh."""

    COMPACT = 0
    WIDE8 = 1
    WIDE16 = 2
    INTERVALS = 3
    PREFIXES = 4

    @classmethod
    def of_rans(cls, tables: TableSet, n_tables: int) -> "Form":
        """Return the form for decoding `rans` with `n_tables` of these tables: compact for one, where it has room."""
        if tables.alphabet > 256:
            return cls.WIDE16
        return cls.COMPACT if n_tables == 1 and tables.probability_bits <= COMPACT_BITS else cls.WIDE8

    @property
    def kernel_type(self) -> str:
        """The type `Lookup` of rans_decode.cu."""
        return {Form.COMPACT: "Compact", Form.WIDE8: "Wide<u8>", Form.WIDE16: "Wide<u16>"}[self]

    def table_size(self, tables: TableSet) -> int:
        """Return how many u32 one table takes up: `table_size` in lookups.cuh."""
        slots, alphabet = 1 << tables.probability_bits, tables.alphabet
        sizes = {Form.WIDE8: slots // 4 + alphabet, Form.WIDE16: slots // 2 + alphabet, Form.INTERVALS: alphabet}
        return sizes.get(self, slots)


# `Sequence` and `Segment` of common.cuh; u8 is an address, 0 where there is nothing.
SEQUENCE = np.dtype(
    [(name, "<u8") for name in ("words", "codebook", "row_scale", "column_scale", "row", "column", "position", "ends")]
    + [(n, "<u4") for n in ("columns", "positions", "base", "top", "shift", "join", "bfloat16", "values")]
)
SEGMENT = np.dtype(
    [(name, "<u8") for name in ("data", "begin", "end", "first")]
    + [(name, "<u4") for name in ("bytes", "count", "sequence", "lanes")]
)


def read_source(module: str) -> str:
    """Return the text of a module, the files it includes in their places: it depends on nothing else."""
    included: set[str] = set()

    def expand(name: str) -> str:
        if name in included:
            return ""
        included.add(name)
        text = Path(__file__).with_name(name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: expand(match[1]), text)

    return expand(f"{module}.cu")


def sink(values: Values) -> str:
    """Return the type `Sink` that writes values."""
    word = _WORD_TYPES[values.out.itemsize]
    if isinstance(values.codebook, int):
        return f"Field<{word}>" if values.codebook or values.join or values.out.itemsize > 2 else f"Symbol<{word}>"
    return f"Scaled<{word}>" if values.codebook.dtype == np.float32 else f"Word<{word}>"


def symbol_type(alphabet: int) -> str:
    """Return the type of symbols of an alphabet: `Symbol` of it writes them, encoders read them."""
    return _WORD_TYPES[np.dtype(symbol_dtype(alphabet)).itemsize]


def layout_fields(classes: ClassMap | int, values: Values | None = None) -> dict[str, int]:
    """Return the fields of a SEQUENCE that are numbers: where a symbol lies, and what is done with it.

    Raises UnsupportedStreamError for a dimension that kernels cannot count.
    """
    shape = (1, 1, 1) if values is None or values.shape is None else values.shape
    fields = {"values": 1 << 16}
    if isinstance(classes, ClassMap):
        shape = classes.shape
        fields |= {"base": classes.base, "top": classes.n_tables - 1}
    if max(shape) >= LARGEST_DIMENSION:
        raise UnsupportedStreamError(
            f"on a GPU the dimensions of a tensor with classes or scales are below 2**31, not {shape}"
        )
    fields |= {"columns": shape[1], "positions": shape[2]}
    if values is None:
        return fields
    if isinstance(values.codebook, int):
        return fields | {"shift": values.codebook, "join": int(values.join)}
    return fields | {"values": values.codebook.size, "bfloat16": int(values.bfloat16)}


def block_segments(bounds: np.ndarray, count: int, block_bits: int, lanes: int, address: int) -> np.ndarray:
    """Return the SEGMENT of each block of a stream at `address`, of sequence 0; `bounds` are `blocks.boundaries`.

    Raises CorruptStreamError for a block that is longer than any can be.
    """
    if len(bounds) and int(np.diff(bounds).max(initial=0)) >= 1 << 32:
        raise CorruptStreamError(f"a block has {np.diff(bounds).max()} bytes; none has 2**32")
    segments = np.zeros(max(len(bounds) - 1, 0), SEGMENT)
    segments["data"] = address + bounds[:-1]
    segments["bytes"] = np.diff(bounds)
    segments["first"] = np.arange(segments.size, dtype=np.uint64) << np.uint64(block_bits)
    segments["count"] = np.minimum(count - segments["first"].astype(np.int64), 1 << block_bits)
    segments["lanes"] = lanes
    return segments


def split_segments(segments: np.ndarray, interval: int, lanes: int, address: int) -> np.ndarray:
    """Return the segments that resume points, uint32[points, 1 + lanes] at `address`, cut blocks of `rans` into."""
    size = 4 * (1 + lanes)
    parts = []
    for block in segments:
        starts = np.arange(0, int(block["count"]), interval)
        part = np.repeat(block, starts.size)
        part["first"] += starts.astype(np.uint64)
        part["count"] = np.minimum(int(block["count"]) - starts, interval)
        points = address + size * np.arange(starts.size - 1)
        part["begin"][1:], part["end"][:-1] = points, points
        address += size * points.size
        parts.append(part)
    return np.concatenate(parts) if parts else segments


def raw_segments(count: int, width: int, place: int) -> np.ndarray:
    """Return the SEGMENT of each piece of a stream of coder `raw` at a place: it is cut where a byte ends."""
    starts = np.arange(0, count, _RAW_STEP)
    segments = np.zeros(starts.size, SEGMENT)
    segments["data"] = place + starts * width // 8
    segments["first"], segments["count"] = starts, np.minimum(count - starts, _RAW_STEP)
    segments["bytes"] = (segments["count"].astype(np.int64) * width + 7) // 8
    segments["lanes"] = width
    return segments
