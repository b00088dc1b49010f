"""Coder `huffman`: canonical prefix codes from dyadic tables (spec/entropy-coding.md 8)."""

import numpy as np

from l2codec.blocks import Classes, kernel_input, select
from l2codec.compiled import Kernel
from l2codec.errors import CorruptStreamError, ImpossibleSymbolError
from l2codec.tables import TableSet

_huffman_encode = Kernel("huffman", "huffman_encode")
_huffman_decode = Kernel("huffman", "huffman_decode")
_huffman_decode_bursts = Kernel("huffman", "huffman_decode_bursts")


def encode_block(symbols: np.ndarray, tables: TableSet, classes: Classes, lanes: int) -> bytes:
    """Encode one block: a string of bits, most significant first; `lanes` does not apply."""
    lookup, classes = select(tables.codes, len(tables), classes)
    words = np.empty(symbols.size * tables.probability_bits // 32 + 1, np.uint32)
    bits = int(_huffman_encode(symbols, classes, lookup, tables.alphabet, words))
    if bits < 0:
        raise ImpossibleSymbolError.at(symbols, -1 - bits)
    return words[: (bits + 31) // 32].astype(">u4").tobytes()[: (bits + 7) // 8]


def decode_block(block: np.ndarray, tables: TableSet, classes: Classes, lanes: int, out: np.ndarray) -> None:
    """Decode one block to fill `out`; `lanes` does not apply."""
    tables.require_dyadic()
    lookup, of_symbols = select(tables.windows, len(tables), classes)
    padding = bytes(8 + -block.size % 4)  # a window may reach into the two words that follow
    words = kernel_input(np.frombuffer(block.tobytes() + padding, ">u4"), np.uint32)
    arguments = (of_symbols, tables.probability_bits, out)
    if isinstance(classes, int) and out.dtype == np.uint8 and out.size >= lookup.size:  # else the lookup costs too much
        bursts, sizes = tables.bursts(classes)
        bits = _huffman_decode_bursts(words, 8 * block.size, lookup, bursts, sizes, *arguments)
    else:
        bits = _huffman_decode(words, 8 * block.size, lookup, *arguments)
    if bits < 0:
        raise CorruptStreamError("a code word runs beyond the block")
    if block.size != (bits + 7) // 8:
        raise CorruptStreamError(f"the block has {block.size} bytes instead of {(bits + 7) // 8}")
    if bits % 8 and int(block[-1]) & (0xFF >> bits % 8):
        raise CorruptStreamError("the unused bits of the last byte are not zero")
