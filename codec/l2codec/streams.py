"""A stream to be decoded block by block, in any order and by several threads, to symbols or to what they stand for."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from l2codec import blocks, huffman, range_coder, rans, raw
from l2codec._arguments import Buffer, check_arguments, check_data, check_out
from l2codec.compiled import Kernel
from l2codec.errors import CodecError, CorruptStreamError
from l2codec.model import NO_VECTORS, ClassMap, simplified
from l2codec.registry import coder_name
from l2codec.tables import TableSet
from l2codec.values import Values

BLOCK_CODERS: dict[str, blocks.BlockCoder] = {"rans": rans, "range": range_coder, "huffman": huffman}

_rans_symbols = Kernel("block_decode", "rans_symbols")
_rans_values = Kernel("block_decode", "rans_values")

_STEP = 1 << 14  # symbols that a kernel decodes before it writes their values: they and their classes stay in L1 and L2


class Stream:
    """A stream whose arguments have been checked; arguments and errors are those of `l2codec.decode`.

    `count` symbols below `alphabet` are cut into blocks of `block_size` (`raw`: for decoding only). Threads may decode
    blocks at once; if one of them fails, the whole stream has.
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
            self.alphabet, self.block_size = 1 << self._width, raw.SLICE
            return
        assert tables is not None  # checked with the other arguments
        self._tables = tables
        self._classes = simplified(classes)
        self.alphabet, self.block_size = tables.alphabet, 1 << block_bits
        self._bounds = blocks.boundaries(self._data, count, block_bits)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The dtype of the symbols."""
        return blocks.symbol_dtype(self.alphabet)

    @property
    def blocks(self) -> range:
        """The numbers of the blocks."""
        return range(-(-self.count // self.block_size))

    def decode(self, number: int, out: np.ndarray) -> None:
        """Decode a block to its part of `out`, an array of `dtype` for all symbols; raises CorruptStreamError."""
        check_out(out, self.count, self.dtype)
        span = self._span(number)
        if self._name == "raw":
            for start, symbols in self._raw(span):
                out[start : start + symbols.size] = symbols
        elif self._name == "rans" and isinstance(self._classes, ClassMap):
            self._decode_rans(number, _rans_symbols, (out[span],))
        else:
            self._decode_block(number, out[span])

    def decode_values(self, number: int, values: Values) -> None:
        """Decode a block and write the values of its symbols; raises CorruptStreamError."""
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
        if self._name == "rans":
            symbols = np.empty(min(_STEP, self.count), self.dtype)
            self._decode_rans(number, _rans_values, (symbols, *values.kernel_arguments(likely), values.out[span]))
            return
        symbols = np.empty(span.stop - span.start, self.dtype)
        self._decode_block(number, symbols)
        values.write(symbols, span.start, likely)

    def _span(self, number: int) -> slice:
        if number not in self.blocks:
            raise CodecError(f"there is no block {number} in a stream of {len(self.blocks)}")
        start = number * self.block_size
        return slice(start, min(start + self.block_size, self.count))

    def _raw(self, span: slice) -> Iterator[tuple[int, np.ndarray]]:
        data = self._data[span.start * self._width // 8 : (span.stop * self._width + 7) // 8]
        for start, symbols in raw.iter_decode(data, span.stop - span.start, self._width):
            yield span.start + start, symbols

    def _decode_block(self, number: int, out: np.ndarray) -> None:
        start = number * self.block_size
        classes = self._classes
        if isinstance(classes, ClassMap):
            classes = classes.slice(start, start + out.size)
        try:
            BLOCK_CODERS[self._name].decode_block(self._block(number), self._tables, classes, self._lanes, out)
        except CorruptStreamError as error:
            raise CorruptStreamError(f"block {number}: {error}") from None

    def _decode_rans(self, number: int, kernel: Kernel, arguments: tuple[Any, ...]) -> None:
        """Decode a block in one call of a kernel that takes what rANS needs, what classes need, and `arguments`."""
        classes, tables = self._classes, self._tables
        lookup, scratch, vectors = tables.rans_slots, np.empty(min(_STEP, self.count), np.uint8), NO_VECTORS
        if isinstance(classes, ClassMap):
            vectors = classes.kernel_arguments
        else:
            lookup, scratch = blocks.select(lookup, len(tables), classes)
        try:
            states, words = rans.split_block(self._block(number), self._lanes)
            start = number * self.block_size
            read: Any = kernel(words, states, lookup, tables.probability_bits, start, *vectors, scratch, *arguments)
            if read < 0:
                raise CorruptStreamError("the words end before the symbols")
            rans.check_end(states, words.size - read)
        except CorruptStreamError as error:
            raise CorruptStreamError(f"block {number}: {error}") from None

    def _block(self, number: int) -> np.ndarray:
        return self._data[self._bounds[number] : self._bounds[number + 1]]
