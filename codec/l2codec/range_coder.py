"""Coder `range`: a range coder compatible with constriction's default one (spec/entropy-coding.md 7)."""

import numpy as np

from l2codec.blocks import Classes, kernel_input, select
from l2codec.compiled import Kernel
from l2codec.errors import CorruptStreamError, ImpossibleSymbolError
from l2codec.tables import TableSet

_range_encode = Kernel("range_coder", "range_encode")
_range_decode = Kernel("range_coder", "range_decode")


def encode_block(symbols: np.ndarray, tables: TableSet, classes: Classes, lanes: int) -> bytes:
    """Encode one block: u32 words, most significant first; `lanes` does not apply."""
    lookup, classes = select(tables.intervals, len(tables), classes)
    words = np.empty(symbols.size + 1, np.uint32)  # a symbol of at most 14 bits puts out at most one word
    used = int(_range_encode(symbols, classes, lookup, tables.alphabet, tables.probability_bits, words))
    if used < 0:
        raise ImpossibleSymbolError.at(symbols, -1 - used)
    return words[:used].astype("<u4").tobytes()


def decode_block(block: np.ndarray, tables: TableSet, classes: Classes, lanes: int, out: np.ndarray) -> None:
    """Decode one block to fill `out`; `lanes` does not apply."""
    if block.size % 4:
        raise CorruptStreamError(f"{block.size} bytes are not a whole number of words of 4")
    leaders, _ = select(tables.leaders, len(tables), classes)
    lookup, classes = select(tables.slots, len(tables), classes)
    words = kernel_input(block.view("<u4"), np.uint32)
    read = int(_range_decode(words, lookup, leaders, classes, tables.probability_bits, out))
    if read == -1:
        raise CorruptStreamError("a point lies outside the range")
    if read == -2:
        raise CorruptStreamError("the point at the end is not below 2**33")
    if words.size not in (read + 1, read + 2):
        raise CorruptStreamError(f"the block has {words.size} words instead of {read + 1} or {read + 2}")
