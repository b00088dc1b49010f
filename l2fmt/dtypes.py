"""The element types of the format, and what NumPy and torch call them (spec/registry.toml, `dtypes`)."""

from dataclasses import dataclass

import numpy as np

from l2fmt import _registry
from l2fmt.errors import InputError, UnsupportedError

# torch, ml_dtypes and NumPy agree on these names.
_ARRAY_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4_X2": "float4_e2m1fn_x2",
}
_MANTISSA_BITS = {"F16": 10, "BF16": 7, "F32": 23, "F64": 52, "C64": 23}
_NOT_IN_NUMPY = {"BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F4_X2"}


@dataclass(frozen=True)
class DType:
    """An element type: `bits` is the size of an element, `kind` one of bool, uint, int, float, complex, packed."""

    name: str
    id: int
    bits: int
    kind: str

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.bits // 8

    @property
    def word_bits(self) -> int:
        """Bits of a word, the unit that the transform `bits` codes (spec/transforms.md 2)."""
        return self.bits // self.words

    @property
    def words(self) -> int:
        """Words of an element: 2 for C64 (real, imaginary), else 1."""
        return 2 if self.kind == "complex" else 1

    @property
    def word(self) -> np.dtype:
        """The little-endian unsigned integer that holds the bits of a word."""
        return np.dtype(f"<u{self.word_bits // 8}")

    @property
    def numpy(self) -> np.dtype:
        """The little-endian NumPy type of the elements; `word`, as raw bits, where NumPy has none."""
        return self.word if self.name in _NOT_IN_NUMPY else np.dtype(_ARRAY_NAMES[self.name]).newbyteorder("<")

    @property
    def torch_name(self) -> str:
        """The attribute of torch that is this type, such as "bfloat16"."""
        return _ARRAY_NAMES[self.name]

    @property
    def is_float(self) -> bool:
        """Whether elements are real floating-point numbers."""
        return self.kind == "float"

    @property
    def mantissa_bits(self) -> int | None:
        """Stored bits of the mantissa of a word; None for 8-bit floats and all that is no float."""
        return _MANTISSA_BITS.get(self.name)

    def __str__(self) -> str:
        return self.name


DTYPES = {name: DType(name, *fields) for name, fields in _registry.DTYPES.items()}
_BY_ID = {dtype.id: dtype for dtype in DTYPES.values()}
_BY_ARRAY_NAME = {dtype.torch_name: dtype for dtype in DTYPES.values()}


def dtype_by_id(dtype_id: int) -> DType:
    """Return the type of that number; raise UnsupportedError if there is none."""
    if dtype_id not in _BY_ID:
        raise UnsupportedError(f"dtype id {dtype_id} is unknown; this reader knows 0 to {max(_BY_ID)}")
    return _BY_ID[dtype_id]


def dtype_by_torch_name(name: str) -> DType:
    """Return the type torch calls `name` (without "torch."); raise InputError if the format lacks it."""
    if name not in _BY_ARRAY_NAME:
        raise InputError(f"dtype {name} cannot be stored; the format has {', '.join(_BY_ARRAY_NAME)}")
    return _BY_ARRAY_NAME[name]


def dtype_of(array: np.ndarray) -> DType:
    """Return the type of an array's elements, those of ml_dtypes included; raise InputError if the format lacks it."""
    return dtype_by_torch_name(array.dtype.name)
