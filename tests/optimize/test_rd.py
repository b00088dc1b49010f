"""Method `rd`: budgets, edge cases, determinism."""

import numpy as np
import pytest

from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError, TargetError
from l2fmt.optimize import Budget, Task, WeightTensor, get_method
from l2fmt.optimize.rd import RateDistortion
from l2fmt.pipeline import Size, write_files

F32 = DTYPES["F32"]


def model(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    shapes = shapes or {"conv": (16, 8, 3, 3), "linear": (32, 64), "table": (300, 16)}
    tensors = []
    for i, (name, shape) in enumerate(shapes.items()):
        weights = (rng.laplace(0, 0.02 * 3**i, shape)).astype(np.float32)
        tensors.append(WeightTensor(name, F32, shape, lambda weights=weights: weights))
    return tensors


def measure(codes, vectors=None):
    return write_files(None, codes, {}, {})


def silent(stage, done):
    assert 0 <= done <= 1


def quantize(tensors, **budget):
    return RateDistortion().quantize(Task(tensors, Budget(**budget), measure, silent)).codes


def relative_errors(tensors, codes):
    for tensor, code in zip(tensors, codes, strict=True):
        weights = tensor.load().reshape(-1).astype(np.float64)
        values = code.transform.values(code.codes).astype(np.float64)
        yield ((values - weights) ** 2).sum() / max((weights**2).sum(), 1e-300)


@pytest.mark.parametrize("share", [0.4, 0.3, 0.1])
def test_file_bytes_are_met(share):
    tensors = model()
    original = sum(t.load().nbytes for t in tensors)
    target = int(original * share)
    found = measure(quantize(tensors, file_bytes=target)).file_bytes
    assert 0.98 * target <= found <= target  # a few KB have few codes to trade


def test_weight_bits_are_met():
    tensors = model()
    size = sum(t.load().size for t in tensors)
    found = measure(quantize(tensors, weight_bits=3.0)).weight_bytes
    assert 2.9 <= 8 * found / size <= 3.0


@pytest.mark.parametrize("error", [0.1, 1e-2, 1e-4])
def test_no_tensor_errs_more_than_allowed(error):
    tensors = model()
    found = list(relative_errors(tensors, quantize(tensors, max_error=error)))
    assert max(found) <= error
    assert max(found) >= 0.8 * error


def test_the_default_needs_no_budget():
    tensors = model()
    found = list(relative_errors(tensors, quantize(tensors)))
    assert np.mean(found) == pytest.approx(RateDistortion().default_error, rel=0.5)


def test_what_cannot_be_reached_is_said():
    tensors = model()
    with pytest.raises(TargetError, match="cannot be reached"):
        quantize(tensors, file_bytes=100)
    with pytest.raises(TargetError, match="the finest steps give"):
        quantize(tensors, file_bytes=10**6)
    with pytest.raises(TargetError, match=r"can be reached, or use lossless"):
        quantize(tensors, max_error=1e-12)


def test_equal_input_gives_equal_codes():
    first, second = (quantize(model(), file_bytes=9000) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.codes.tobytes() == b.codes.tobytes()
        assert a.transform == b.transform


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros((4, 5)),
        np.full((4, 5), 0.25),
        np.array([[1e-25]]),
        np.array([[3e38, -3e38]]),
        np.eye(6) * 1e-3,
        np.array([[1e4] + [1e-4] * 50]),
    ],
    ids=["zeros", "constant", "one", "huge", "sparse", "outlier"],
)
def test_odd_tensors_come_back_close(weights):
    weights = weights.astype(np.float32)
    tensors = [WeightTensor("odd", F32, weights.shape, lambda: weights), *model()]
    for budget in ({}, {"max_error": 1e-3}, {"file_bytes": 8000}):
        code = quantize(tensors, **budget)[0]
        values = code.transform.values(code.codes).reshape(weights.shape)
        assert np.isfinite(values).all()
        assert np.abs(values - weights).max() <= np.abs(weights).max() * 1.01


def test_no_tensors_no_codes():
    assert quantize([]) == []


def test_methods_are_found_by_name():
    assert get_method("rd").name == "rd"
    with pytest.raises(InputError, match="the methods are rd"):
        get_method("magic")
    with pytest.raises(InputError, match="only one budget"):
        Budget(file_bytes=1, max_error=0.1)
    with pytest.raises(InputError, match="must be positive"):
        Budget(weight_bits=-1)
    assert Size(1, 0).file_bytes == 1
