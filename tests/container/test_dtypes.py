"""Element types and what NumPy and torch call them."""

import numpy as np
import pytest
import torch

from l2fmt.dtypes import DTYPES, dtype_by_id, dtype_by_torch_name, dtype_of
from l2fmt.errors import InputError, UnsupportedError


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_dtype(dtype):
    assert dtype.itemsize * 8 == dtype.bits == dtype.word_bits * dtype.words
    assert dtype.numpy.itemsize == dtype.itemsize and dtype.word.itemsize * dtype.words == dtype.itemsize
    assert dtype.numpy.byteorder in "<|=" and dtype.word.kind == "u"
    assert dtype_by_id(dtype.id) is dtype and dtype_by_torch_name(dtype.torch_name) is dtype
    if dtype.numpy.kind != "u" or dtype.kind == "uint":
        assert dtype_of(np.zeros(1, dtype.numpy)) is dtype
        assert dtype_of(np.zeros(1, dtype.numpy.newbyteorder(">"))) is dtype
    if dtype.mantissa_bits is not None:
        assert torch.finfo(getattr(torch, dtype.torch_name)).eps == 2.0**-dtype.mantissa_bits
    assert dtype.is_float == (dtype.kind == "float")


def test_torch_has_every_dtype():
    for dtype in DTYPES.values():
        assert getattr(torch, dtype.torch_name).itemsize == dtype.itemsize


def test_raw_bits_where_numpy_has_no_type():
    assert DTYPES["BF16"].numpy == np.uint16 and DTYPES["F8_E4M3"].numpy == np.uint8
    assert DTYPES["C64"].numpy == np.complex64 and DTYPES["C64"].word == np.uint32


def test_unknown_dtypes():
    with pytest.raises(UnsupportedError, match="dtype id 1000"):
        dtype_by_id(1000)
    for array in (np.zeros(1, np.complex128), np.zeros(1, object), np.zeros(1, "U3"), np.zeros(1, "i4,i4")):
        with pytest.raises(InputError, match="cannot be stored"):
            dtype_of(array)
