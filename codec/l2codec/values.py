"""What symbols stand for: words, or floats with scales, written where the caller wants them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from l2codec.compiled import Kernel
from l2codec.errors import CodecError, CorruptStreamError

_write_values = Kernel("values", "write_values")

_NO_FLOATS = np.empty(0, np.float32)
_WINDOW = 64  # words of a table that a kernel may keep in registers
_FEW_ROWS = 16  # of which one takes much of the memory of all


@dataclass(frozen=True, eq=False)
class Values:
    """The values of the symbols of a sequence, and the memory they are written to.

    Args:
        out: one word a symbol, one-dimensional: uint8, uint16, uint32 or uint64.
        codebook: the word of each symbol, in the dtype of `out`; or its value as float32, which is multiplied by the
            scales, rounded to float32 each time, and becomes a word as the float of its width, rounded to nearest
            even; or an integer, the number of bits that the symbol itself is shifted left by.
        row_scale, column_scale: float32[rows] and float32[columns], for a codebook of floats.
        shape: (rows, columns, positions) of the sequence where it has scales.
        bfloat16: words of 16 bits are those of bfloat16 instead of float16.
        join: the bits of shifted symbols are added to those that `out` holds.
        valid: bool[symbols of the codebook], which of them have a value. Only coder `raw` can produce others; the
            caller sees to it that no table codes them.
    """

    out: np.ndarray
    codebook: np.ndarray | int
    row_scale: np.ndarray | None = None
    column_scale: np.ndarray | None = None
    shape: tuple[int, int, int] | None = None
    bfloat16: bool = False
    join: bool = False
    valid: np.ndarray | None = None

    def __post_init__(self):
        out, codebook = self.out, self.codebook
        if out.dtype.kind != "u" or out.ndim != 1 or not out.flags.carray:
            raise CodecError(f"values go to a writable, contiguous 1-D array of words, not {out.ndim}-D {out.dtype}")
        if isinstance(codebook, int):
            if not 0 <= codebook < 8 * out.itemsize:
                raise CodecError(f"symbols cannot be shifted by {codebook} bits in words of {8 * out.itemsize}")
        elif codebook.ndim != 1 or codebook.dtype not in (out.dtype, np.float32):
            raise CodecError(
                f"a codebook for {out.dtype} holds that or float32, not {codebook.ndim}-D {codebook.dtype}"
            )
        elif codebook.dtype == np.float32 and out.itemsize == 1:
            raise CodecError("values that are floats make words of at least 16 bits")
        if self.join and not isinstance(codebook, int):
            raise CodecError("only shifted symbols are joined")
        if self.valid is not None and (isinstance(codebook, int) or self.valid.shape != codebook.shape):
            raise CodecError("which symbols are valid is said for each one of the codebook")
        rows, columns, positions = self.shape or (1, out.size, 1)
        if rows * columns * positions != out.size:
            raise CodecError(f"{out.size} values do not have the shape {self.shape}")
        for scale, size in ((self.row_scale, rows), (self.column_scale, columns)):
            if scale is not None and (scale.shape != (size,) or scale.dtype != np.float32 or not self._has_floats):
                raise CodecError(f"scales are float32 of shape [{rows}] and [{columns}], with a codebook of float32")

    @property
    def _has_floats(self) -> bool:
        return isinstance(self.codebook, np.ndarray) and self.codebook.dtype == np.float32

    def check_alphabet(self, alphabet: int) -> None:
        """Raise CodecError unless all symbols below `alphabet` have a word."""
        if isinstance(self.codebook, int):
            if (alphabet - 1) << self.codebook >> 8 * self.out.itemsize:
                raise CodecError(f"symbols below {alphabet} do not fit {self.out.dtype} from bit {self.codebook} on")
        elif self.codebook.size < alphabet:
            raise CodecError(f"a codebook of {self.codebook.size} does not fit an alphabet of {alphabet}")

    def kernel_arguments(self, likely: int = 0) -> tuple[np.ndarray, ...]:
        """Return what `kernels.values.write_values` needs to know: all but symbols and memory.

        Some of it is scratch, so that each thread needs its own. `likely` is in the middle of the likely symbols.
        """
        _, columns, positions = self.shape or (1, self.out.size, 1)
        column_scale = self._column_scale
        if column_scale is not None and column_scale.size == columns * positions:
            columns, positions = columns * positions, 1
        shift, size = (self.codebook, 0) if isinstance(self.codebook, int) else (0, self.codebook.size)
        window = max(0, min(likely, size - _WINDOW // 2) - _WINDOW // 2)
        layout = np.array([columns, positions, shift, self.join, self.bfloat16, window], np.int64)
        padded = max(size, _WINDOW) if size else 0
        words, floats = np.zeros(padded, self.out.dtype), np.zeros(padded if self._has_floats else 0, np.float32)
        (floats if self._has_floats else words)[:size] = self.codebook if size else 0
        scales = (_NO_FLOATS if s is None else np.ascontiguousarray(s) for s in (self.row_scale, column_scale))
        return layout, words, floats, *scales

    @cached_property
    def _column_scale(self) -> np.ndarray | None:
        """The scales of columns, each repeated for its positions unless that would take much memory."""
        if self.column_scale is None or self.shape is None or self.shape[0] < _FEW_ROWS:
            return self.column_scale
        return np.repeat(self.column_scale, self.shape[2])

    def write(self, symbols: np.ndarray, start: int, likely: int = 0) -> None:
        """Write the values of symbols, uint8 or uint16, which all have one and begin with number `start`."""
        _write_values(symbols, start, *self.kernel_arguments(likely), self.out[start : start + symbols.size])

    def check(self, symbols: np.ndarray, alphabet: int) -> None:
        """Raise CorruptStreamError unless all symbols, which lie below `alphabet`, have a value."""
        if isinstance(self.codebook, int):
            self.check_alphabet(alphabet)
            return
        if self.codebook.size < alphabet and symbols.size and int(symbols.max()) >= self.codebook.size:
            raise CorruptStreamError(f"symbol {symbols.max()} is beyond the codebook of {self.codebook.size}")
        if self.valid is not None and not self.valid.all() and not self.valid[symbols].all():
            raise CorruptStreamError("a symbol has no value")
