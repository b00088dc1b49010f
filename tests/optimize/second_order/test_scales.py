"""Scales of rows and columns: what they save, when they pay, and that they are another way to write the problem."""

import numpy as np
import pytest
import torch

from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.factor import Factor
from l2fmt.optimize.second_order.rounding import CodeCosts, Rounder, Rounding
from l2fmt.optimize.second_order.scales import paying_scales, saving
from l2fmt.transforms import exact_octaves
from tests.optimize.second_order.factors import natural

UNEVEN = np.exp(np.random.default_rng(3).normal(0, 1.2, 60))


def test_scales_even_out_what_counts() -> None:
    for weights_each, eighths in ((40, 4), (4000, 1)):
        scales = paying_scales(UNEVEN, weights_each)
        assert scales is not None
        offsets = exact_octaves(scales)
        assert offsets is not None and np.gcd.reduce(offsets) == eighths  # coarser for fewer weights
        evened = UNEVEN * scales.astype(np.float64) ** 2
        assert evened.max() / evened.min() < 2 ** (2 * eighths / 8) + 0.01
        ideal = 0.5 * np.log2(UNEVEN.mean() / np.exp(np.log(UNEVEN).mean()))
        assert 0.8 * ideal < saving(UNEVEN, scales) <= ideal * (1 + 1e-9)


def test_scales_that_do_not_pay_are_left_out() -> None:
    assert paying_scales(np.ones(50), 10_000) is None
    assert paying_scales(UNEVEN, 4) is None
    assert paying_scales(1 + 0.01 * UNEVEN, 100) is None


def test_what_is_saved_is_the_rate_at_one_distance() -> None:
    """Fine uniform steps on Gaussian columns: distance is the weighted mean of step^2 / 12, bits are log2(1 / step)."""
    scales = paying_scales(UNEVEN, 4000)
    assert scales is not None
    plain_step = 0.01
    plain = (UNEVEN * plain_step**2 / 12).mean()
    step = plain_step * np.sqrt(plain / (UNEVEN * (plain_step * scales) ** 2 / 12).mean())
    bits = np.log2(1 / plain_step) - np.log2(1 / (step * scales.astype(np.float64))).mean()
    assert saving(UNEVEN, scales) == pytest.approx(bits, rel=1e-6)


def uneven_problem(
    groups: int, rows: int, channels: int, positions: int, spread: float = 0.8
) -> tuple[np.ndarray, Curvature]:
    random = np.random.default_rng(0)
    columns = channels * positions
    inputs = random.normal(size=(groups, 400, columns)) @ random.normal(size=(groups, columns, columns))
    inputs *= np.repeat(np.exp(random.normal(0, spread, channels)), positions)
    hessian = torch.from_numpy(inputs.transpose(0, 2, 1) @ inputs / 400)
    hessian += 0.05 * hessian.diagonal(dim1=1, dim2=2).diag_embed()  # what is added to all layers is next to nothing
    sensitivity = torch.from_numpy(np.exp(random.normal(0, 1.5, rows * groups)))
    return random.normal(size=(rows * groups, columns)).astype(np.float32), Curvature(hessian, sensitivity)


@pytest.mark.parametrize(("groups", "positions"), [(1, 1), (1, 4), (2, 1)])
def test_rounding_with_scales_is_rounding_of_scaled_weights(groups: int, positions: int) -> None:
    weights, curvature = uneven_problem(groups, 64 // groups, 48 // positions, positions)
    scaled = Rounder.of(weights, curvature, Rounding(scales=True, by_importance=False), positions)
    assert scaled.row_scale is not None and scaled.column_scale is not None
    assert scaled.row_scale.shape == (64,) and scaled.column_scale.shape == (48 // positions,)
    rows, columns = scaled.row_scale[:, None], np.repeat(scaled.column_scale, positions)
    wide = torch.from_numpy(columns.astype(np.float64))
    other = Rounder.of(
        weights / rows / columns,
        Curvature(curvature.hessian * wide * wide[:, None], curvature.sensitivity * torch.from_numpy(rows[:, 0]) ** 2),
        Rounding(by_importance=False),
    )
    assert other.row_scale is None and scaled.level == pytest.approx(other.level, rel=0.02)
    bits, classes = np.abs(np.arange(-30, 31, dtype=np.float32))[None], np.zeros(weights.size, np.uint8)
    step = 0.3
    slope = 0.1 * scaled.level * step**2
    found, expected = (r.round(step, CodeCosts(bits, classes, slope), 1) for r in (scaled, other))
    assert (found != expected).mean() < 0.06  # the little that is added counts differently


@pytest.mark.parametrize(("groups", "positions"), [(1, 1), (1, 4), (2, 1)])
def test_factors_with_scales_are_those_of_scaled_weights(groups: int, positions: int) -> None:
    weights, curvature = uneven_problem(groups, 64 // groups, 48 // positions, positions, 1.0)
    scaled = Rounder.of(weights, curvature, Rounding(scales=True), positions)
    assert scaled.row_scale is not None and scaled.column_scale is not None
    assert scaled.row_scale.shape == (64,) and scaled.column_scale.shape == (48 // positions,)
    rows, columns = scaled.row_scale[:, None], np.repeat(scaled.column_scale, positions)
    assert scaled.weights.reshape(weights.shape) == pytest.approx(weights / rows / columns, rel=1e-5)
    plain = Factor.of(curvature.hessian, 0.0, 0.0), Factor.of(curvature.sensitivity.reshape(groups, -1), 0.0, 0.0)
    wide = columns.astype(np.float64)
    assert natural(scaled.columns) == pytest.approx(natural(plain[0]) * wide * wide[:, None])
    assert natural(scaled.rows) == pytest.approx(
        natural(plain[1]) * rows.reshape(groups, -1, 1).astype(np.float64) ** 2
    )

    typical = np.exp(np.linalg.slogdet(natural(scaled.columns))[1].mean() / weights.shape[1])
    assert scaled.level == pytest.approx(typical * scaled.rows.pivots.mean())

    step = 0.3
    codes = scaled.round(step, CodeCosts.none(30, weights.size), 1)
    errors = (codes * step - scaled.weights.reshape(weights.shape)).reshape(groups, -1, weights.shape[1])
    by_scaled = np.einsum("gri,gij,grj,grr->", errors, natural(scaled.columns), errors, natural(scaled.rows))
    errors = ((codes * step) * rows * columns - weights).astype(np.float32)
    assert by_scaled == pytest.approx(curvature.distance(errors), rel=0.01), "but for the little that is added"


def test_scales_lessen_the_distance_that_the_same_rate_leaves() -> None:
    weights, curvature = uneven_problem(1, 64, 48, 1)
    costs = CodeCosts.none(4000, weights.size)
    distances = []
    for positions in (None, 1):
        rounder = Rounder.of(weights, curvature, Rounding(scales=True), positions)
        scale = np.ones_like(weights)
        for axis, own in enumerate((rounder.row_scale, rounder.column_scale)):
            scale = scale if own is None else scale * np.expand_dims(own, 1 - axis)
        step = 0.1 / float(np.exp(np.log(scale).mean()))  # the same rate, if steps are fine
        codes = rounder.round(step, costs, 2)
        distances.append(curvature.distance((codes * step * scale).astype(np.float32) - weights))
    assert distances[1] < 0.6 * distances[0]
