"""A stream to be decoded part by part, in any order and by several threads, to symbols or to what they stand for."""

from collections.abc import Iterator
from contextlib import contextmanager
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
_rans_symbols_of_two = Kernel("block_decode", "rans_symbols_of_two")
_rans_values_of_two = Kernel("block_decode", "rans_values_of_two")

MOST_LANES = 32
_STEP = 1 << 14  # symbols that a kernel decodes before it writes their values: they and their classes stay in L1 and L2


class Stream:
    """A stream whose arguments have been checked; arguments and errors are those of `l2codec.decode`.

    `count` symbols below `alphabet` are decoded in parts of `part_size`, a power of two. A part is a block (`raw`: a
    slice); or two blocks of rANS, where decoding them together is faster. Threads may decode parts at once; if one of
    them fails, the whole stream has.
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
        self.part_size = self._block_size << self._is_decoded_in_pairs()

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
        elif len(pieces := self._pieces(span)) == 2:
            self._decode_two(pieces, _rans_symbols_of_two, [out[piece] for piece in pieces])
        elif self._name == "rans" and isinstance(self._classes, ClassMap):
            self._decode_rans(span, _rans_symbols, [out[span]])
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
        pieces = self._pieces(span)
        # Two blocks get half of it each: a whole block, or a multiple of all lanes.
        longest = pieces[0].stop - pieces[0].start
        symbols = np.empty(min(_STEP, len(pieces) * longest), self.dtype)
        arguments = [symbols, *values.kernel_arguments(likely), *(values.out[piece] for piece in pieces)]
        if len(pieces) == 2:
            self._decode_two(pieces, _rans_values_of_two, [span.start, *arguments])
        else:
            self._decode_rans(span, _rans_values, arguments)

    def _is_decoded_in_pairs(self) -> bool:
        """Whether two blocks at once are faster: with one table in the nearest cache, and vectors for all lanes."""
        one_table = not isinstance(self._classes, ClassMap) and self._tables.rans_slots.ndim == 1
        return self._name == "rans" and one_table and self._lanes == MOST_LANES and self.count > self._block_size

    def _span(self, number: int) -> slice:
        if number not in self.parts:
            raise CodecError(f"there is no part {number} in a stream of {len(self.parts)}")
        start = number * self.part_size
        return slice(start, min(start + self.part_size, self.count))

    def _pieces(self, span: slice) -> list[slice]:
        """Return the symbols of each block of a part."""
        starts = range(span.start, span.stop, self._block_size)
        return [slice(start, min(start + self._block_size, span.stop)) for start in starts]

    def _raw(self, span: slice) -> Iterator[tuple[int, np.ndarray]]:
        data = self._data[span.start * self._width // 8 : (span.stop * self._width + 7) // 8]
        for start, symbols in raw.iter_decode(data, span.stop - span.start, self._width):
            yield span.start + start, symbols

    def _decode_block(self, span: slice, out: np.ndarray) -> None:
        classes = self._classes
        if isinstance(classes, ClassMap):
            classes = classes.slice(span.start, span.stop)
        with self._block(span) as block:
            BLOCK_CODERS[self._name].decode_block(block, self._tables, classes, self._lanes, out)

    def _decode_rans(self, span: slice, kernel: Kernel, arguments: list[Any]) -> None:
        """Decode a block in one call of a kernel that takes what rANS needs, what classes need, and `arguments`."""
        classes, tables = self._classes, self._tables
        lookup, scratch, vectors = tables.rans_slots, np.empty(min(_STEP, self.count), np.uint8), NO_VECTORS
        if isinstance(classes, ClassMap):
            vectors = classes.kernel_arguments
        else:
            lookup, scratch = blocks.select(lookup, len(tables), classes)
        with self._block(span) as block:
            states, words = rans.split_block(block, self._lanes)
            bits = tables.probability_bits
            read: Any = kernel(words, states, lookup, bits, span.start, *vectors, scratch, *arguments)
            rans.check_read(states, words, read)

    def _decode_two(self, spans: list[slice], kernel: Kernel, arguments: list[Any]) -> None:
        """Decode two blocks of one table in one call of a kernel that takes what rANS needs, and `arguments`."""
        tables, inputs, ends = self._tables, [], np.empty(2, np.int64)
        assert not isinstance(self._classes, ClassMap)  # else parts are single blocks
        for span in spans:
            with self._block(span) as block:
                inputs.append(rans.split_block(block, self._lanes))
        (states, words), (states2, words2) = inputs
        lookup, no_classes = blocks.select(tables.rans_slots, len(tables), self._classes)
        kernel(words, states, words2, states2, lookup, no_classes, tables.probability_bits, *arguments, ends)
        found = zip(spans, inputs, ends.tolist(), strict=True)
        # A block whose words end too soon comes first: the kernel may have left the other one unfinished.
        for span, (states, words), read in sorted(found, key=lambda block: block[2] >= 0):
            with self._block(span):
                rans.check_read(states, words, read)

    @contextmanager
    def _block(self, span: slice) -> Iterator[np.ndarray]:
        """Give the bytes of the block of these symbols; what is found wrong with it gets its number."""
        number = span.start // self._block_size
        try:
            yield self._data[self._bounds[number] : self._bounds[number + 1]]
        except CorruptStreamError as error:
            raise CorruptStreamError(f"block {number}: {error}") from None
