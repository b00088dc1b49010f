"""Bit patterns: fields are cut and joined without loss, and mantissas rounded as promised."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError
from l2fmt.transforms import field_widths, from_float32, join_field, round_mantissa, split_field, to_float32

FLOATS = ("F16", "BF16", "F32", "F64")


@pytest.mark.parametrize("name", sorted(DTYPES))
@given(data=st.data())
def test_fields_rebuild_every_word(name, data):
    dtype = DTYPES[name]
    words = data.draw(hnp.arrays(dtype.word, st.integers(0, 40)))
    drop = data.draw(st.integers(0, dtype.mantissa_bits - 1)) if dtype.mantissa_bits else 0
    widths = field_widths(dtype, drop)
    assert sum(widths) + drop == dtype.word_bits
    assert max(widths) <= 16
    rebuilt, shift = np.zeros_like(words), drop
    for width in widths:
        field = split_field(words, shift, width)
        assert field.dtype == (np.uint8 if width <= 8 else np.uint16)
        join_field(rebuilt, field, shift)
        shift += width
    assert (rebuilt == (words >> words.dtype.type(drop)) << words.dtype.type(drop)).all()


@pytest.mark.parametrize("name", FLOATS)
@given(data=st.data())
def test_rounding_keeps_the_promised_precision(name, data):
    dtype = DTYPES[name]
    words = data.draw(hnp.arrays(dtype.word, st.integers(1, 60)))
    bits = data.draw(st.integers(1, dtype.mantissa_bits or 1))
    values = words.view(dtype.numpy)
    rounded = round_mantissa(values, bits, dtype)
    low = dtype.word.type((1 << (dtype.mantissa_bits - bits)) - 1)
    assert not (rounded.view(dtype.word) & low).any()
    assert (round_mantissa(rounded, bits, dtype).view(dtype.word) == rounded.view(dtype.word)).all()
    before, after = (_as_double(a, dtype) for a in (values, rounded))
    assert (np.isnan(before) == np.isnan(after)).all()
    finite = np.isfinite(before)
    assert (np.isfinite(after) == finite).all()
    assert (before[~finite & ~np.isnan(before)] == after[~finite & ~np.isnan(before)]).all()
    assert (np.signbit(before) == np.signbit(after)).all()
    tiny = float(np.ldexp(1.0, {"F16": -14, "BF16": -126, "F32": -126, "F64": -1022}[name]))
    normal = finite & (np.abs(before) >= tiny)
    # The largest values may not round up to infinity: they are cut instead, which errs by twice as much at most.
    error = np.abs(after[normal] - before[normal])
    assert (error <= np.abs(before[normal]) * 2.0**-bits).all()
    huge = np.abs(before[normal]) > np.abs(before[normal]).max(initial=0) / 2
    inside = error[~huge] <= np.abs(before[normal][~huge]) * 2.0 ** -(bits + 1)
    assert inside.all()


def _as_double(values, dtype):
    with np.errstate(invalid="ignore"):  # signalling NaNs
        if dtype.name == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return values.astype(np.float64)


def test_rounding_refuses_what_has_no_mantissa():
    with pytest.raises(InputError, match="allowed are 1 to 23"):
        round_mantissa(np.zeros(1, np.float32), 24)
    with pytest.raises(InputError, match="cannot be rounded"):
        round_mantissa(np.zeros(1, np.int32), 4)


@pytest.mark.parametrize(("name", "kind"), [("F16", torch.float16), ("BF16", torch.bfloat16), ("F64", torch.float64)])
@given(words=hnp.arrays(np.uint32, st.integers(0, 60)))
def test_conversion_is_that_of_torch(name, kind, words):
    values = words.view(np.float32)
    ours = from_float32(values, DTYPES[name])
    theirs = torch.from_numpy(values.copy()).to(kind)
    back = to_float32(ours, DTYPES[name])
    finite = ~np.isnan(values)
    assert (back[finite] == theirs.float().numpy()[finite]).all()
    assert np.isnan(back[~finite]).all()


def test_powers_of_two_widen_exactly():
    codes = np.arange(255, dtype=np.uint8)
    assert (to_float32(codes, DTYPES["F8_E8M0"]) == np.ldexp(1.0, codes.astype(int) - 127).astype(np.float32)).all()
