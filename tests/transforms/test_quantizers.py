"""The decode arithmetic, against definitions written one rounding at a time, and plain rounding against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2fmt import _registry
from l2fmt.errors import CorruptFileError, InputError
from l2fmt.transforms import Codebook, Geometric, Joint, Uniform, exponential, from_parameters, logarithmic

f32 = np.float32
positive = st.floats(2.0**-60, 2.0**60, width=32)
CODES = np.array([-4000, -129, -3, -2, -1, 0, 1, 2, 3, 17, 129, 4000])


@given(positive)
def test_uniform_is_one_rounded_product(step):
    expected = [f32(q) * f32(step) for q in CODES.tolist()]
    assert Uniform(step).values(CODES).tobytes() == np.array(expected, f32).tobytes()


@given(positive, positive)
def test_joint_rounds_product_then_sum(step, threshold):
    values = Joint(step, threshold).values(CODES)
    for q, value in zip(CODES.tolist(), values, strict=True):
        cell = f32(abs(q) - 0.5) * f32(step)
        expected = f32(0) if q == 0 else f32(np.sign(q)) * (f32(threshold) + cell)
        assert value == expected
    assert not np.signbit(values[CODES == 0]).any()


@given(st.floats(2.0**-10, 1024, width=32), st.floats(1 + 2.0**-20, 1.5, width=32))
def test_geometric_multiplies_one_power_at_a_time(scale, growth):
    codes = np.arange(-40, 41)
    power, grid = np.float64(1), []
    for _ in range(41):
        grid.append(f32(np.float64(f32(scale)) * (power - 1)))
        power = power * np.float64(f32(growth))
    expected = np.array([-grid[-q] if q < 0 else grid[q] for q in codes.tolist()], f32)
    assert Geometric(scale, growth).values(codes).tobytes() == expected.tobytes()


def test_zero_codes_are_positive_zero():
    for transform in (Uniform(0.5), Joint(0.5, 0.1), Geometric(1.0, 1.1)):
        assert np.signbit(transform.values(np.array([0]))).sum() == 0


@pytest.mark.parametrize(
    "transform",
    [
        Uniform(0.037),
        Geometric(0.2, 1.2),
        logarithmic(0.3, 0.05),
        exponential(0.8, 0.02, 120),
        Codebook(np.array([0.3, -0.7, 0.0, 0.1])),
    ],
)
def test_codes_pick_a_value_near_the_weight(transform):
    weights = np.random.default_rng(0).normal(0, 0.3, 500).astype(f32)
    codes = transform.codes(weights)
    low = transform.lowest if isinstance(transform, Codebook) else -200
    high = low + transform.table.size if isinstance(transform, Codebook) else 201
    grid = transform.values(np.arange(low, high)).astype(np.float64)
    found = np.abs(transform.values(codes) - weights)
    best = np.abs(grid[None] - weights[:, None]).min(1)
    # Nearest in the transformed domain is nearest up to the growth of a cell.
    assert (found <= best * 1.3 + 1e-7).all()
    if isinstance(transform, Uniform):
        assert np.allclose(found, best, atol=1e-7)


def test_codebook_without_a_rule_is_exactly_nearest():
    table = np.random.default_rng(1).normal(size=37).astype(f32)
    weights = np.random.default_rng(2).normal(size=1000).astype(f32)
    codes = Codebook(table).codes(weights)
    assert (np.abs(table[codes] - weights) == np.abs(table[None] - weights[:, None]).min(1)).all()


def test_joint_cells():
    transform = Joint(step=0.1, threshold=0.06)
    weights = np.array([0, 0.0599, 0.0601, 0.1599, 0.1601, -0.07, -0.0599], f32)
    assert transform.codes(weights).tolist() == [0, 0, 1, 1, 2, -1, 0]


@pytest.mark.parametrize(
    "transform", [Uniform(0.1), Joint(0.1, 0.2), Geometric(0.5, 1.25), Codebook(np.array([1.0, 2.0]))]
)
def test_parameters_round_trip(transform):
    offset = 0 if isinstance(transform, Codebook) else 7
    found, found_offset = from_parameters(transform.id, transform.parameters(offset))
    codes = np.array([0, 1])
    assert found_offset == offset
    assert found.values(codes).tobytes() == transform.values(codes).tobytes()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e-60])
def test_parameters_must_be_positive_and_finite(bad):
    with pytest.raises(InputError, match="step must be a positive"):
        Uniform(bad)
    with pytest.raises(CorruptFileError, match="threshold"):
        from_parameters(_registry.TRANSFORMS["joint"], [0, 1.0, bad])


def test_unknown_parameters_are_corrupt():
    with pytest.raises(CorruptFileError, match="does not have 3 parameters"):
        from_parameters(_registry.TRANSFORMS["uniform"], [0, 1.0, 2.0])
    with pytest.raises(CorruptFileError, match="finite"):
        from_parameters(_registry.TRANSFORMS["codebook"], [np.array([np.nan], "<f4").tobytes()])
