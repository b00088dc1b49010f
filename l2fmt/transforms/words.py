"""Floats as bit patterns: words cut into fields, and rounding to fewer mantissa bits (spec/transforms.md 2)."""

import numpy as np

from l2fmt.dtypes import DType
from l2fmt.errors import InputError

# Sign and exponent together are the last field: the sign of a tensor that has only one then costs nothing.
_WIDTHS = {
    "F64": (8, 8, 8, 8, 8, 8, 4, 12),
    "F32": (8, 8, 7, 9),
    "C64": (8, 8, 7, 9),
    "F16": (10, 6),
    "BF16": (7, 9),
}


def field_widths(dtype: DType, drop: int = 0) -> tuple[int, ...]:
    """Return the widths of the fields, low to high, that a writer cuts a word of `dtype` into without its low `drop`
    bits.
    """
    widths = _WIDTHS.get(dtype.name, (8,) * (dtype.word_bits // 8))
    kept = []
    for width in widths:
        kept.append(width - min(drop, width))
        drop -= min(drop, width)
    return tuple(width for width in kept if width)


def split_field(words: np.ndarray, shift: int, width: int) -> np.ndarray:
    """Return bits `shift` to `shift + width` of each word, uint8 (width up to 8) or uint16."""
    narrow = np.uint8 if width <= 8 else np.uint16
    if shift % 8 == 0 and width in (8, 16):  # whole bytes: a strided copy
        bytes_ = words.view(np.uint8).reshape(-1, words.itemsize)[:, shift // 8 : (shift + width) // 8]
        return np.ascontiguousarray(bytes_).view(narrow).reshape(-1)
    kind = words.dtype.type
    return ((words >> kind(shift)) & kind((1 << width) - 1)).astype(narrow)


def join_field(words: np.ndarray, field: np.ndarray, shift: int) -> None:
    """Set bits from `shift` on, zero so far, of each word to `field`, in place."""
    widened = field.astype(words.dtype)
    widened <<= words.dtype.type(shift)
    words |= widened


def round_mantissa(values: np.ndarray, bits: int, dtype: DType | None = None) -> np.ndarray:
    """Return floats rounded to nearest (ties to even) with `bits` mantissa bits; the relative error is at most
    2^-(bits+1).

    `values` holds elements of `dtype` (default: that of the array) as `dtype.numpy`. What would overflow, and
    infinities and NaNs, keep all bits that the rounding leaves them: an infinity stays one, a NaN stays a NaN.
    """
    from l2fmt.dtypes import dtype_of

    dtype = dtype or dtype_of(values)
    if dtype.mantissa_bits is None or dtype.word_bits > 64 or not 1 <= bits <= dtype.mantissa_bits:
        raise InputError(f"{dtype} cannot be rounded to {bits} mantissa bits; allowed are 1 to {dtype.mantissa_bits}")
    drop = dtype.mantissa_bits - bits
    words = np.ascontiguousarray(values).view(dtype.word)
    if drop == 0:
        return words.view(values.dtype).copy()
    kind = dtype.word.type
    low = kind((1 << drop) - 1)
    rounded = words + (kind((1 << (drop - 1)) - 1) + ((words >> kind(drop)) & kind(1)))
    rounded &= ~low
    exponent = kind(((1 << (dtype.word_bits - 1 - dtype.mantissa_bits)) - 1) << dtype.mantissa_bits)
    special = (words & exponent) == exponent
    overflow = ((rounded & exponent) == exponent) & ~special
    rounded = np.where(overflow, words & ~low, rounded)
    quiet = kind(1 << (dtype.mantissa_bits - 1))  # the top mantissa bit, so that a NaN is not cut down to an infinity
    nan = special & ((words & ~exponent & ~kind(1 << (dtype.word_bits - 1))) != 0)
    rounded = np.where(special, (words & ~low) | np.where(nan, quiet, kind(0)), rounded)
    return rounded.astype(dtype.word, copy=False).view(values.dtype)
