"""What a producer hands over: tensors as integer codes, and tensors kept as floats or integers."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from l2fmt.dtypes import DType
from l2fmt.errors import InputError
from l2fmt.transforms import Transform, round_mantissa


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor as integer codes: what an optimizer produces.

    `codes` holds one signed integer an element, any integer dtype, in C order; `dtype` is that of the decoded tensor,
    one of F16, BF16, F32, F64. `row_scale` (float32[shape[0]]) and `column_scale` (float32[shape[1]]) are optional
    (spec/transforms.md 7).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    codes: np.ndarray
    transform: Transform
    row_scale: np.ndarray | None = None
    column_scale: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.codes.size

    @property
    def scales(self) -> list[np.ndarray]:
        """The scales that there are, float32, each in a shape that multiplies values of `shape`."""
        given = [(axis, s) for axis, s in enumerate((self.row_scale, self.column_scale)) if s is not None]
        return [s.reshape([-1 if i == axis else 1 for i in range(len(self.shape))]) for axis, s in given]

    def __post_init__(self) -> None:
        if self.dtype.name not in ("F16", "BF16", "F32", "F64"):
            raise InputError(f"tensor {self.name!r}: {self.dtype} cannot be quantized, only F16, BF16, F32 and F64")
        if self.codes.dtype.kind not in "iu" or self.codes.size != prod(self.shape):
            found = f"{self.codes.size} of {self.codes.dtype}"
            raise InputError(f"tensor {self.name!r}: {prod(self.shape)} integer codes are needed, not {found}")
        for scale in (self.row_scale, self.column_scale):
            if scale is not None:
                self._check_scale(scale)

    def _check_scale(self, scale: np.ndarray) -> None:
        with np.errstate(over="ignore", under="ignore"):
            stored = np.asarray(scale, np.float32)
        valid = np.isfinite(stored) & (stored > 0)
        if not valid.all():
            found = stored[~valid][0]
            raise InputError(f"tensor {self.name!r}: a scale is {found}; it must be a finite positive float32")


@dataclass(frozen=True, eq=False)
class PlainTensor:
    """A tensor stored by its bits, read when needed: `load()` returns its elements as `dtype.numpy`, the same each
    time.

    With `mantissa_bits` floats are rounded to so many bits of mantissa, otherwise nothing is lost.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    mantissa_bits: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def drop(self) -> int:
        """Low bits of each word that are zero and not stored."""
        if self.mantissa_bits is None or self.dtype.mantissa_bits is None:
            return 0
        return max(self.dtype.mantissa_bits - self.mantissa_bits, 0)

    def words(self) -> np.ndarray:
        """Return the bit patterns to store, one-dimensional, `dtype.word`."""
        array = np.ascontiguousarray(self.load()).reshape(-1)
        if self.drop and self.mantissa_bits is not None:
            array = round_mantissa(array, self.mantissa_bits, self.dtype)
        return array.view(self.dtype.word)
