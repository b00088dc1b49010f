"""Scales in eighths of an octave."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from l2fmt.transforms import exact_octaves, nearest_octaves, octave_scales

EVERY = np.arange(-128, 128)


def test_scales_are_powers_of_two_rounded_once() -> None:
    with localcontext() as context:
        context.prec = 50
        for offset, scale in zip(EVERY.tolist(), octave_scales(EVERY), strict=True):
            exact = Decimal(2) ** (Decimal(offset) / 8)
            near = [np.nextafter(scale, np.float32(0)), np.nextafter(scale, np.float32(np.inf))]
            assert all(abs(Decimal(float(scale)) - exact) < abs(Decimal(float(other)) - exact) for other in near)


def test_offsets_come_back() -> None:
    for dtype in (np.int8, np.int16, np.int64):
        offsets = EVERY.astype(dtype)
        found = exact_octaves(octave_scales(offsets))
        assert found is not None and np.array_equal(found, EVERY)
    assert exact_octaves(np.array([1, 1.1], np.float32)) is None
    assert exact_octaves(np.array([2.0**16], np.float32)) is None


@pytest.mark.parametrize("per_octave", [1, 2, 4, 8])
def test_nearest(per_octave: int) -> None:
    values = np.exp(np.random.default_rng(1).uniform(-8, 8, 1000))
    offsets = nearest_octaves(values, per_octave)
    assert np.all(offsets % (8 // per_octave) == 0)
    assert np.abs(np.log2(octave_scales(offsets) / values)).max() <= 0.5 / per_octave + 1e-6
    ends = nearest_octaves(np.array([1e-30, 1e30]), per_octave)
    assert ends.tolist() == [-128, 128 - 8 // per_octave]
