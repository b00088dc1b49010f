"""The compiled rounding: its objective never rises, it agrees with a plain version, and sums of errors vanish."""

import numpy as np
import pytest

from l2fmt.optimize._rounding import round_correlated

f32 = np.float32


def objective(codes, scaled, kernel, row, trade_off, costs, classes, limit):
    error = codes - scaled.astype(np.float64)
    bits = costs[classes, codes + limit]
    squares = (error**2).sum() + kernel * (error.sum(2) ** 2).sum() + row * (error.sum((1, 2)) ** 2).sum()
    return squares + trade_off * bits.sum()


def plain_version(scaled, codes, kernel, row, trade_off, costs, classes, limit, passes):
    """Do the same by brute force: for each code in turn the best of its candidates, the objective computed anew."""
    codes = codes.copy()
    for r in range(codes.shape[0]):
        for _ in range(passes):
            for c in range(codes.shape[1]):
                for p in range(codes.shape[2]):
                    one = slice(r, r + 1)
                    others = codes[one] - scaled[one]
                    others[0, c, p] = 0
                    shift = kernel * others[0, c].sum() + row * others.sum()
                    target = scaled[r, c, p] - shift / (1 + kernel + row)
                    nearest = int(np.clip(np.rint(target), -limit, limit))
                    inward = nearest - int(np.sign(nearest))
                    totals = []
                    for candidate in (nearest, inward, 0):
                        codes[r, c, p] = candidate
                        part = (codes[one], scaled[one], kernel, row, trade_off, costs, classes[one], limit)
                        totals.append((objective(*part), candidate))
                    codes[r, c, p] = min(totals, key=lambda t: t[0])[1]
    return codes


def problem(seed, shape, limit=8, tables=3):
    rng = np.random.default_rng(seed)
    weights = rng.laplace(0, 1.2, shape).astype(f32)
    costs = (np.abs(np.arange(-limit, limit + 1))[None] * np.array([0.5, 1, 2])[:tables, None] + 1).astype(f32)
    classes = rng.integers(0, tables, shape).astype(np.uint8)
    return weights, costs, classes


def rounded(weights, costs, classes, limit, kernel, row, trade_off, passes=2):
    codes = np.clip(np.rint(weights), -limit, limit).astype(np.int32)
    kernel, row, trade_off = f32(kernel), f32(row), f32(trade_off)
    round_correlated(weights, f32(1), costs, classes, limit, kernel, row, trade_off, passes, codes)
    return codes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("kernel", "row", "trade_off"), [(0, 0, 0.1), (0.3, 0.3, 0), (0.3, 0.3, 0.1155), (1, 0.1, 0.3)]
)
def test_agrees_with_the_plain_version(seed, kernel, row, trade_off):
    weights, costs, classes = problem(seed, (3, 4, 9))
    start = np.clip(np.rint(weights), -8, 8).astype(np.int32)
    slow = plain_version(weights.astype(np.float64), start, kernel, row, trade_off, costs, classes, 8, 2)
    fast = rounded(weights, costs, classes, 8, kernel, row, trade_off)
    arguments = (weights, kernel, row, trade_off, costs, classes, 8)
    assert objective(fast, *arguments) == pytest.approx(objective(slow, *arguments), rel=1e-4)
    assert (fast != slow).mean() < 0.02  # ties may fall either way in float32


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_plain_rounding(seed):
    weights, costs, classes = problem(seed, (8, 16, 9))
    arguments = (weights, 0.3, 0.3, 0.1155, costs, classes, 8)
    plain = np.clip(np.rint(weights), -8, 8).astype(np.int32)
    assert objective(rounded(weights, costs, classes, 8, 0.3, 0.3, 0.1155), *arguments) < objective(plain, *arguments)


def test_sums_of_errors_vanish():
    weights, costs, classes = problem(7, (16, 32, 9))
    error = rounded(weights, costs, classes, 8, 0.3, 0.3, 0.0) - weights
    before = np.rint(weights) - weights
    assert np.abs(error.sum((1, 2))).mean() < 0.2 * np.abs(before.sum((1, 2))).mean()
    assert np.abs(error.sum(2)).mean() < 0.7 * np.abs(before.sum(2)).mean()


def test_codes_stay_within_the_limit():
    weights = np.full((2, 2, 3), 100.0, f32)
    codes = rounded(weights, np.zeros((1, 7), f32), np.zeros(weights.shape, np.uint8), 3, 0.3, 0.3, 0.0)
    assert (codes == 3).all()
