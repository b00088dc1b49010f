"""The stream layer that the table-driven coders share: blocks and their lengths (spec/entropy-coding.md 4)."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from l2codec.errors import CodecError, CorruptStreamError
from l2codec.model import ClassMap, iter_classes, simplified
from l2codec.tables import TableSet
from l2codec.threads import results

MIN_BLOCK_BITS, MAX_BLOCK_BITS = 8, 30
CONSTANT = np.empty(0, np.uint8)  # what a kernel gets instead of classes when all symbols have the same

Classes = np.ndarray | int
"""The classes of a block: uint8, one a symbol; or the class of all of them."""


class BlockCoder(Protocol):
    """What a coder module provides; its arguments have been checked."""

    def encode_block(self, symbols: np.ndarray, tables: TableSet, classes: Classes, lanes: int) -> bytes:
        """Encode the uint8 or uint16 symbols of one block; raises ImpossibleSymbolError."""
        ...

    def decode_block(self, block: np.ndarray, tables: TableSet, classes: Classes, lanes: int, out: np.ndarray) -> None:
        """Decode the bytes of one block to fill `out`, uint8 or uint16; raises CorruptStreamError."""
        ...


def encode(
    coder: BlockCoder,
    symbols: np.ndarray,
    tables: TableSet,
    classes: ClassMap | int,
    lanes: int,
    block_bits: int,
    threads: int = 1,
) -> bytes:
    """Encode a sequence as a stream; threads share the blocks."""
    classes = simplified(classes)

    def encode_block(start: int) -> bytes:
        part = symbols[start : start + (1 << block_bits)]
        of_part = classes.slice(start, start + part.size) if isinstance(classes, ClassMap) else classes
        return coder.encode_block(part, tables, of_part, lanes)

    blocks = results(encode_block, range(0, symbols.size, 1 << block_bits), threads)
    if len(blocks) > 1:
        blocks.insert(0, np.array([len(block) for block in blocks], "<u4").tobytes())
    return b"".join(blocks)


def boundaries(data: np.ndarray, count: int, block_bits: int) -> np.ndarray:
    """Return where the blocks of a stream begin and where the last one ends, int64; raises CorruptStreamError."""
    n_blocks = -(-count // (1 << block_bits))
    if n_blocks == 0 and data.size:
        raise CorruptStreamError(f"a stream of no symbols has {data.size} bytes")
    if n_blocks <= 1:
        return np.array([0, data.size][: n_blocks + 1])
    if data.size < 4 * n_blocks:
        raise CorruptStreamError(f"the lengths of {n_blocks} blocks do not fit a stream of {data.size} bytes")
    lengths = np.frombuffer(data[: 4 * n_blocks].tobytes(), "<u4")
    bounds = np.cumsum(np.concatenate([[4 * n_blocks], lengths]), dtype=np.int64)
    if int(bounds[-1]) != data.size:
        raise CorruptStreamError(f"the blocks end at byte {bounds[-1]} of a stream of {data.size}")
    return bounds


def iter_decode(
    coder: BlockCoder,
    data: np.ndarray,
    count: int,
    tables: TableSet,
    classes: ClassMap | int,
    lanes: int,
    block_bits: int,
    out: np.ndarray | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, symbols) block by block, in `out` if it is given, else in a buffer that is reused."""
    bounds = boundaries(data, count, block_bits)
    buffer = np.empty(min(1 << block_bits, count) if out is None else 0, symbol_dtype(tables.alphabet))
    for number, (start, stop, part) in enumerate(iter_classes(classes, count, 1 << block_bits)):
        symbols = buffer[: stop - start] if out is None else out[start:stop]
        try:
            coder.decode_block(data[bounds[number] : bounds[number + 1]], tables, part, lanes, symbols)
        except CorruptStreamError as error:
            raise CorruptStreamError(f"block {number}: {error}") from None
        yield start, symbols


def check_block_bits(block_bits: int) -> None:
    if not MIN_BLOCK_BITS <= block_bits <= MAX_BLOCK_BITS:
        raise CodecError(f"block bits must lie in [{MIN_BLOCK_BITS}, {MAX_BLOCK_BITS}], not {block_bits}")


def symbol_dtype(alphabet: int) -> type[np.uint8] | type[np.uint16]:
    """Return the dtype in which symbols of an alphabet are decoded."""
    return np.uint8 if alphabet <= 256 else np.uint16


def kernel_input(array: np.ndarray, dtype: type) -> np.ndarray:
    """Return `array` in a form for which a kernel has been compiled: native, contiguous, aligned and read-only."""
    usable = array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
    result = array.view() if usable else np.require(array, dtype, ["C", "A"]).view()
    result.flags.writeable = False
    return result


def select(lookup: np.ndarray, n_tables: int, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Return (lookup, classes) for a kernel; if all symbols have one class, its part of the lookup and no classes."""
    if isinstance(classes, np.ndarray):
        return lookup, classes
    size = len(lookup) // n_tables
    return lookup[classes * size : (classes + 1) * size], CONSTANT
