"""The estimate of the size, and the two rules for the weight of the rate."""

import math

import numpy as np
import pytest
import torch

from l2fmt.optimize.learning.counter import count_bits, relaxation_of
from l2fmt.optimize.learning.rate import Balance, Counting, Gate, RateEstimate


def test_the_estimate_goes_through_what_was_measured():
    estimate = RateEstimate()
    estimate.calibrate(bits=8000.0, size=1500, weight_bytes=1100)
    assert estimate.size(8000.0) == 1500
    assert estimate.size(4000.0) == 1500 - 1100 / 2
    assert estimate.size(8800.0) == pytest.approx(1500 + 110)
    kept = RateEstimate()
    kept.state = estimate.state
    assert kept.size(5000.0) == estimate.size(5000.0)


def test_no_bits_at_all():
    estimate = RateEstimate()
    estimate.calibrate(bits=0.0, size=200, weight_bytes=40)
    assert estimate.size(0.0) == 200 and estimate.size(80.0) == 210


def test_every_tensor_has_tables_of_its_own():
    generator = torch.Generator().manual_seed(0)
    codes = {name: torch.randn(n, 4, generator=generator) * n / 20 for name, n in {"a": 20, "b": 100, "c": 7}.items()}
    for resolution in (None, 64.0):
        for leaf in codes.values():
            leaf.requires_grad_().grad = None
        counting = Counting("cosine", resolution, 0.5, True)
        bits = counting.bits(codes)
        one_by_one = [
            count_bits(c, relaxation_of(c, resolution) if resolution else 0.5, "cosine", query_path=True).item()
            for c in codes.values()
        ]
        assert bits.item() == pytest.approx(sum(one_by_one), rel=1e-9)
        bits.backward()
        for leaf in codes.values():
            assert leaf.grad is not None and leaf.grad.abs().max() > 0
        fewer = {"c": codes["c"]}
        assert counting.bits(fewer).item() == pytest.approx(one_by_one[2], rel=1e-9)
    assert float(Counting("cosine", None, 0.5, True).bits({})) == 0


def test_the_published_rule():
    gate = Gate(4.0)
    assert gate(0.3) == gate(0.0) == 4.0
    assert gate(-1e-9) == gate(-0.5) == 0.04


@pytest.mark.parametrize("start", [1e-4, 0.1, 100.0])
@pytest.mark.parametrize("excess", [-0.2, 0.4])
def test_the_balance_holds_a_plant_at_its_target(start, excess):
    """A model whose size follows the weight late, and whose distortion pulls back the harder the smaller it is."""
    balance, sizes = Balance(start), []
    for _ in range(3000):
        weight = balance(excess)
        excess += min(max(0.01 * (0.5 * math.exp(-6 * excess) - weight), -0.01), 0.01)
        sizes.append(excess)
    assert np.abs(sizes[-500:]).max() < 2e-3


def test_the_balance_begins_at_its_weight_and_stays_finite():
    assert Balance(0.7)(0.0) == pytest.approx(0.7)
    assert Balance(0.7)(0.1) > 0.7 > Balance(0.7)(-0.1)
    for excess in (1e9, -1e9):
        balance = Balance(0.1)
        weights = [balance(excess) for _ in range(1000)]
        assert all(0 < weight < math.inf for weight in weights)
