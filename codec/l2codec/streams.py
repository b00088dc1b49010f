"""A stream to be decoded part by part, in any order and by several threads, to symbols or to what they stand for."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from l2codec import blocks, huffman, range_coder, rans, raw
from l2codec._arguments import Buffer, check_arguments, check_data, check_out
from l2codec.blocks import kernel_input
from l2codec.compiled import Kernel
from l2codec.errors import CodecError, CorruptStreamError
from l2codec.model import NO_VECTORS, ClassMap, simplified
from l2codec.registry import coder_name
from l2codec.search import NONE as _NO_SEARCH
from l2codec.tables import TableSet
from l2codec.values import Values

BLOCK_CODERS: dict[str, blocks.BlockCoder] = {"rans": rans, "range": range_coder, "huffman": huffman}

_rans_symbols = Kernel("block_decode", "rans_symbols")
_rans_values = Kernel("block_decode", "rans_values")

MOST_LANES = 32
_TOGETHER = 4  # blocks of rANS that a kernel decodes at once
_PART = 1 << 18  # symbols that are worth a call of it
_STEP = 1 << 14  # symbols of each that it decodes before it writes their values: they and their classes stay in L2


class Stream:
    """A stream whose arguments have been checked; arguments and errors are those of `l2codec.decode`.

    `count` symbols below `alphabet` are decoded in parts of `part_size`, a power of two. A part is a block (`raw`: a
    slice); or, where rANS has several, four blocks that are decoded together, or more if they are small. Threads may
    decode parts at once; if one of them fails, the whole stream has.
    """

    def __init__(
        self,
        coder: str | int,
        data: Buffer,
        count: int,
        tables: TableSet | None = None,
        classes: ClassMap | int = 0,
        *,
        lanes: int = 1,
        block_bits: int = 19,
        width: int | None = None,
    ):
        self._name = coder_name(coder)
        self._data = check_data(data)
        check_arguments(self._name, tables, classes, count, lanes, block_bits, width)
        self.count, self._lanes = count, lanes
        if self._name == "raw":
            self._width = width or 0
            raw.check(self._data, count, self._width)
            self.alphabet, self.part_size = 1 << self._width, raw.SLICE
            return
        assert tables is not None  # checked with the other arguments
        self._tables = tables
        self._classes = simplified(classes)
        self.alphabet, self._block_size = tables.alphabet, 1 << block_bits
        self._bounds = blocks.boundaries(self._data, count, block_bits)
        self.part_size = self._block_size
        if self._name == "rans":
            self._words = kernel_input(self._data[: self._data.size // 2 * 2].view("<u2"), np.uint16)
            if count > self._block_size:
                self.part_size = max(_TOGETHER * self._block_size, _PART)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The dtype of the symbols."""
        return blocks.symbol_dtype(self.alphabet)

    @property
    def parts(self) -> range:
        """The numbers of the parts."""
        return range(-(-self.count // self.part_size))

    def decode(self, number: int, out: np.ndarray) -> None:
        """Decode a part to its place in `out`, an array of `dtype` for all symbols; raises CorruptStreamError."""
        check_out(out, self.count, self.dtype)
        span = self._span(number)
        if self._name == "raw":
            for start, symbols in self._raw(span):
                out[start : start + symbols.size] = symbols
        elif self._name == "rans":
            self._decode_run(span, _rans_symbols, [np.empty(_TOGETHER * self._step, self.dtype), out[span]])
        else:
            self._decode_block(span, out[span])

    def decode_values(self, number: int, values: Values) -> None:
        """Decode a part and write the values of its symbols; raises CorruptStreamError."""
        if values.out.size != self.count:
            raise CodecError(f"{values.out.size} values do not fit {self.count} symbols")
        span = self._span(number)
        if self._name == "raw":
            for start, symbols in self._raw(span):
                values.check(symbols, self.alphabet)
                values.write(symbols, start)
            return
        values.check_alphabet(self.alphabet)
        likely = self._tables.origin
        if self._name != "rans":
            symbols = np.empty(span.stop - span.start, self.dtype)
            self._decode_block(span, symbols)
            values.write(symbols, span.start, likely)
            return
        symbols = np.empty(_TOGETHER * self._step, self.dtype)
        self._decode_run(span, _rans_values, [symbols, *values.kernel_arguments(likely), values.out[span]])

    def _span(self, number: int) -> slice:
        if number not in self.parts:
            raise CodecError(f"there is no part {number} in a stream of {len(self.parts)}")
        start = number * self.part_size
        return slice(start, min(start + self.part_size, self.count))

    def _raw(self, span: slice) -> Iterator[tuple[int, np.ndarray]]:
        data = self._data[span.start * self._width // 8 : (span.stop * self._width + 7) // 8]
        for start, symbols in raw.iter_decode(data, span.stop - span.start, self._width):
            yield span.start + start, symbols

    def _decode_block(self, span: slice, out: np.ndarray) -> None:
        number, classes = span.start // self._block_size, self._classes
        if isinstance(classes, ClassMap):
            classes = classes.slice(span.start, span.stop)
        block = self._data[self._bounds[number] : self._bounds[number + 1]]
        try:
            BLOCK_CODERS[self._name].decode_block(block, self._tables, classes, self._lanes, out)
        except CorruptStreamError as error:
            raise CorruptStreamError(f"block {number}: {error}") from None

    @property
    def _step(self) -> int:
        return min(_STEP, self._block_size, self.count)

    def _decode_run(self, span: slice, kernel: Kernel, arguments: list[Any]) -> None:
        """Decode blocks in one call of a kernel that takes what rANS needs, what classes need, and `arguments`."""
        classes, tables, size = self._classes, self._tables, self._block_size
        lookup, vectors, several = tables.rans_slots, NO_VECTORS, isinstance(classes, ClassMap)
        if isinstance(classes, ClassMap):
            vectors = classes.kernel_arguments
        else:
            lookup, _ = blocks.select(lookup, len(tables), classes)
        first, search = span.start // size, tables.search if several else _NO_SEARCH
        bounds = self._bounds[first : -(-span.stop // size) + 1]
        states, at = np.empty((_TOGETHER, self._lanes), np.uint32), np.empty((4, _TOGETHER), np.int64)
        scratch = np.empty((_TOGETHER, self._step if several else 0), np.uint8)
        stream = (self._words, bounds, lookup, search, tables.probability_bits, span.start, min(size, self.count))
        if not kernel(*stream, *vectors, states, at, scratch, *arguments):
            self._raise_error(span)

    def _raise_error(self, span: slice) -> None:
        """Decode blocks, one of which is corrupt, one after the other, to find the first and what is wrong with it."""
        for start in range(span.start, span.stop, self._block_size):
            piece = slice(start, min(start + self._block_size, span.stop))
            self._decode_block(piece, np.empty(piece.stop - piece.start, self.dtype))
        raise CorruptStreamError(f"a block before symbol {span.start} has an odd number of bytes")
