"""Rounding to a size, on codes made up for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from l2fmt.errors import TargetError
from l2fmt.optimize.learning.counter import hard_bits
from l2fmt.optimize.learning.landing import land
from l2fmt.optimize.search import TOLERANCE

HEADERS = 300


def made_up(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.laplace(size=shape) * 1.5).astype(np.float32) for shape in ((64, 8, 3, 3), (40, 64), (700,))]


def measure(codes: list[np.ndarray]) -> int:
    """Return a size that plain entropy coding would reach."""
    return HEADERS + int(sum(hard_bits(torch.from_numpy(q).float()) for q in codes) / 8)


def nearest(codes: list[np.ndarray]) -> int:
    return measure([np.rint(c).astype(np.int32) for c in codes])


@pytest.mark.parametrize("share", [0.85, 0.97, 0.995, 1.0, 1.004, 1.02])
def test_the_size_is_met_from_above_and_below(share):
    codes = made_up()
    target = int(nearest(codes) * share)
    found = land(codes, target, measure)
    assert target * (1 - TOLERANCE) <= measure(found) <= target
    for q, c in zip(found, codes, strict=True):
        assert q.dtype == np.int32 and q.shape == c.shape
        assert (np.abs(q - np.rint(c)) <= 1).all()


def test_what_fits_is_rounded_to_the_nearest():
    codes = made_up()
    found = land(codes, nearest(codes), measure)
    assert all(np.array_equal(q, np.rint(c)) for q, c in zip(found, codes, strict=True))


def test_codes_near_a_border_move_first():
    codes = made_up()
    found = land(codes, int(nearest(codes) * 0.98), measure)
    moved, near = [], []
    for q, c in zip(found, codes, strict=True):
        changed = q != np.rint(c)
        moved.append(np.abs(c - np.rint(c))[changed])
        near.append(np.abs(c - np.rint(c)).ravel())
    assert np.concatenate(moved).mean() > 0.4 > np.concatenate(near).mean()


def test_equal_input_gives_equal_codes():
    first, second = (land(made_up(), int(nearest(made_up()) * 0.95), measure) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_size_far_below_is_refused():
    target = 400
    with pytest.raises(TargetError, match=r"^400 bytes cannot be reached: training ended at [\d,]+, and rounding"):
        land(made_up(), target, measure)


def test_a_size_far_above_is_not_met_and_not_exceeded():
    codes = made_up()
    target = nearest(codes) * 4
    assert nearest(codes) < measure(land(codes, target, measure)) <= target


def jumping(grain: int) -> Callable[[list[np.ndarray]], int]:
    return lambda codes: -(-measure(codes) // grain) * grain


@pytest.mark.parametrize("share", [0.9, 1.05])
def test_sizes_that_jump_stay_below(share):
    codes, size = made_up(), jumping(600)
    target = int(nearest(codes) * share) // 600 * 600 + 300
    assert target - 600 <= size(land(codes, target, size)) < target * (1 - TOLERANCE)


def test_zeros_and_extremes():
    codes = [np.zeros((4, 4), np.float32), np.full((2, 3), 2000.0, np.float32), made_up()[1]]
    target = int(nearest(codes) * 0.95)
    assert target * (1 - TOLERANCE) <= measure(land(codes, target, measure)) <= target
