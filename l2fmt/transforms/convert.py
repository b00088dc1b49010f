"""Between float32 and the bit patterns of the float dtypes, exactly as spec/transforms.md 1 says."""

import numpy as np

from l2fmt.dtypes import DType


def to_float32(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Return F16, BF16, F32, F64 or F8_E8M0 elements, held as `dtype.numpy`, as float32 (F64 is rounded)."""
    if dtype.name == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype.name == "F8_E8M0":
        with np.errstate(over="ignore"):  # 255, a NaN, comes out as infinity: as little a scale
            return np.ldexp(np.float32(1), array.astype(np.int32) - 127).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite; signalling NaNs
        return array.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Return float32 values as `dtype.numpy` elements of F16, BF16, F32 or F64, rounded to nearest even."""
    if dtype.name == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        # A carry out of the largest finite mantissa gives infinity, as it must; a NaN must stay one.
        return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype.numpy, copy=False)
