"""Checks of what callers pass, done before any kernel runs."""

import numpy as np

from l2codec import raw
from l2codec.blocks import check_block_bits, kernel_input
from l2codec.errors import CodecError
from l2codec.model import ClassMap, check_classes
from l2codec.tables import TableSet

LANES = (1, 2, 4, 8, 16, 32)

Buffer = bytes | bytearray | memoryview | np.ndarray


def check_arguments(
    name: str,
    tables: TableSet | None,
    classes: ClassMap | int,
    count: int,
    lanes: int,
    block_bits: int,
    width: int | None,
) -> None:
    if count < 0:
        raise CodecError(f"the number of symbols must not be negative, not {count}")
    if name == "raw":
        raw.check_width(width)
        return
    if tables is None:
        raise CodecError(f"coder {name} needs tables")
    if name == "huffman":
        tables.require_dyadic()
    if lanes not in (LANES if name == "rans" else (1,)):
        raise CodecError(f"coder {name} does not have {lanes} lanes")
    check_block_bits(block_bits)
    check_classes(classes, tables, count)


def check_symbols(symbols: np.ndarray) -> np.ndarray:
    """Return symbols as the kernels take them: uint8 or uint16, contiguous, read-only."""
    if symbols.ndim != 1 or symbols.dtype.kind not in "iu":
        raise CodecError(f"symbols must be a 1-D integer array, not {symbols.ndim}-D {symbols.dtype}")
    if symbols.dtype.type in (np.uint8, np.uint16):
        return kernel_input(symbols, symbols.dtype.type)
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < 1 << 16:
        raise CodecError(f"symbols must lie in [0, 65536); found {symbols.min()} to {symbols.max()}")
    return kernel_input(symbols, np.uint16)


def check_data(data: Buffer) -> np.ndarray:
    """Return the bytes of a stream as a read-only uint8 array, a view of them."""
    try:
        view = memoryview(data).cast("B")  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        raise CodecError(f"a stream must be a contiguous buffer of bytes: {error}") from None
    return kernel_input(np.frombuffer(view, np.uint8), np.uint8)


def check_out(out: np.ndarray, count: int, dtype: type) -> None:
    if out.shape != (count,) or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise CodecError(f"out must be a writable, contiguous {np.dtype(dtype)} array of {count} symbols")
    if not out.flags.aligned:
        raise CodecError("out must be aligned")
