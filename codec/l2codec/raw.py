"""Coder `raw`: symbols of a fixed width, packed least significant bit first (spec/entropy-coding.md 5)."""

from collections.abc import Iterator

import numpy as np

from l2codec.compiled import Kernel
from l2codec.errors import CodecError, CorruptStreamError, ImpossibleSymbolError

_unpack_symbols = Kernel("raw", "unpack_symbols")

MAX_WIDTH = 16
SLICE = 1 << 19  # symbols unpacked at once; a multiple of 8, so that every slice begins with a whole byte


def encode(symbols: np.ndarray, width: int) -> bytes:
    """Pack uint8 or uint16 symbols below `2**width`."""
    check_width(width)
    if symbols.size and int(symbols.max()) >> width:
        raise ImpossibleSymbolError(f"symbol {symbols.max()} does not fit {width} bits")
    return b"".join(_pack(symbols[start : start + SLICE], width) for start in range(0, symbols.size, SLICE))


def iter_decode(data: np.ndarray, count: int, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, symbols) in slices of 2**19; `data` is uint8 and has been checked by `check`."""
    for start in range(0, count, SLICE):
        stop = min(start + SLICE, count)
        yield start, _unpack(data[start * width // 8 : (stop * width + 7) // 8], stop - start, width)


def check(data: np.ndarray, count: int, width: int) -> None:
    """Raise CorruptStreamError unless `data` has the length that `count` symbols take, and zero padding."""
    check_width(width)
    expected, used = (count * width + 7) // 8, count * width % 8
    if data.size != expected:
        raise CorruptStreamError(f"{count} raw symbols of {width} bits take {expected} bytes, not {data.size}")
    if used and int(data[-1]) >> used:
        raise CorruptStreamError("the unused bits of the last byte are not zero")


def check_width(width: int | None) -> None:
    if width is None or not 0 <= width <= MAX_WIDTH:
        raise CodecError(f"raw symbols need a width in [0, {MAX_WIDTH}], not {width}")


def _pack(symbols: np.ndarray, width: int) -> bytes:
    if width in (8, 16):
        return symbols.astype("<u1" if width == 8 else "<u2").tobytes()
    bits = np.unpackbits(symbols.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return np.packbits(bits[:, :width], bitorder="little").tobytes()


def _unpack(data: np.ndarray, count: int, width: int) -> np.ndarray:
    if width == 8:
        return data.copy()
    symbols = np.zeros(count, np.uint8 if width <= 8 else np.uint16)
    if width:
        _unpack_symbols(data, width, symbols)
    return symbols
