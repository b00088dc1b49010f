"""The search for a size, on made-up curves of size against scale."""

import math

import pytest

from l2fmt.errors import TargetError
from l2fmt.optimize.search import search_size

WEIGHTS = 100_000


def curve(bits_at, overhead=2000):
    """Return a `produce` whose result is the scale, and the list of scales it was called with."""
    calls = []

    def produce(scale):
        calls.append(scale)
        return scale, int(overhead + WEIGHTS / 8 * bits_at(math.log2(scale)))

    return produce, calls


def high_rate(x):
    return max(4.0 - x, 0.0)


def bent(x):  # falls slower and slower, as entropy does
    return math.log2(1 + 2 ** (4 - x))


@pytest.mark.parametrize("bits_at", [high_rate, bent])
@pytest.mark.parametrize("target", [5_000, 12_000, 40_000, 90_000])
@pytest.mark.parametrize("guess", [0.01, 1.0, 100.0])
def test_lands_just_below_the_target(bits_at, target, guess):
    produce, calls = curve(bits_at)
    scale = search_size(produce, target, WEIGHTS, lambda bits: guess * 2.0 ** (4 - bits), 1e-6)
    size = produce(scale)[1]
    assert target * 0.995 <= size <= target
    assert len(calls) <= 15


@pytest.mark.parametrize(
    ("left", "better", "trials"),
    [(10, 0, 1), (14, 0, 1), (40, 12, 2), (40, 30, 2), (40, -5, 2)],  # over the target: the first is taken after all
)
def test_one_more_trial_where_much_is_left_over(left, better, trials):
    sizes = iter([10_000 - left, 10_000 - better])
    found = []

    def produce(scale):
        found.append(next(sizes))
        return found[-1], found[-1]

    size = search_size(produce, 10_000, WEIGHTS, lambda bits: 1.0, 1e-6)
    assert len(found) == trials and size == max(s for s in found if s <= 10_000)


@pytest.mark.parametrize("bits_at", [high_rate, bent])
@pytest.mark.parametrize("target", [12_000, 20_000, 40_000, 90_000])
def test_a_good_guess_leaves_little_over_in_few_trials(bits_at, target):
    produce, calls = curve(bits_at)
    scale = search_size(produce, target, WEIGHTS, lambda bits: 1.1 * 2.0 ** (4 - bits), 1e-6)
    assert len(calls) <= 6 and produce(scale)[1] >= target * (1 - 0.0015)


def test_says_what_is_reachable_below():
    produce, _ = curve(high_rate, overhead=2000)
    with pytest.raises(TargetError, match=r"1,500 bytes cannot be reached: the smallest result has 2,\d\d\d bytes"):
        search_size(produce, 1500, WEIGHTS, lambda bits: 2.0 ** (4 - bits), 1e-6)


def test_says_what_is_reachable_above():
    produce, _ = curve(high_rate)
    with pytest.raises(TargetError, match="the finest steps give"):
        search_size(produce, 500_000, WEIGHTS, lambda bits: 2.0 ** (4 - bits), 0.01)


def test_a_jump_over_the_target_gives_the_best_below():
    def produce(scale):
        return scale, 900 if scale > 1 else 2000

    assert search_size(produce, 1000, WEIGHTS, lambda bits: 1.0, 1e-6) > 1
