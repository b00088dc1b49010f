"""The differentiable transforms against their formulas, finite differences, and the transforms of the file."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from l2fmt.errors import InputError
from l2fmt.optimize.learning.quantizers import (
    MAX_CODE,
    ExpQuantizer,
    JointQuantizer,
    LinearQuantizer,
    LogQuantizer,
    Quantizer,
    make_quantizer,
    transform_names,
)

KINDS = ("linear", "joint", "log", "exp")
# Wide and narrow dead zones both.
EXAMPLES = [
    ("linear", {"step": 0.07}),
    ("joint", {"step": 0.07, "threshold": 0.1}),
    ("joint", {"step": 0.07, "threshold": 0.02}),
    ("log", {"step": 0.05, "scale": 0.3}),
    ("exp", {"step": 0.05, "scale": 0.9}),
]
CLASSES = {"linear": LinearQuantizer, "joint": JointQuantizer, "log": LogQuantizer, "exp": ExpQuantizer}


def formula(kind: str, w: np.ndarray, step: float, threshold: float = 0.0, scale: float = 0.0) -> np.ndarray:
    """Return T(w) in float64, as the paper writes it."""
    size, sign = np.abs(w), np.sign(w)
    match kind:
        case "linear":
            return w / step
        case "joint":
            return np.where(size <= threshold, w / (2 * threshold), sign * (0.5 + (size - threshold) / step))
        case "log":
            return sign * np.log(1 + size / scale) / step
        case _:
            return sign * (np.exp(size / scale) - 1) / step


def inverse(kind: str, c: np.ndarray, step: float, threshold: float = 0.0, scale: float = 0.0) -> np.ndarray:
    """Return the inverse of T in float64."""
    size, sign = np.abs(c), np.sign(c)
    match kind:
        case "linear":
            return c * step
        case "joint":
            return np.where(size <= 0.5, 2 * threshold * c, sign * (threshold + (size - 0.5) * step))
        case "log":
            return sign * (np.exp(size * step) - 1) * scale
        case _:
            return sign * np.log(size * step + 1) * scale


def weights(count: int = 200, spread: float = 0.4) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0)) * spread


def gradients(quantizer: Quantizer, w: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return d value_i / d w_i, and d value_i / d parameter of every weight by name."""
    leaf = w.clone().requires_grad_()
    values, _ = quantizer(leaf)
    named = dict(quantizer.named_parameters())
    rows = [torch.autograd.grad(v, [leaf, *named.values()], retain_graph=True, allow_unused=True) for v in values]
    of_weights = np.array([float(row[0][i]) for i, row in enumerate(rows)])
    found = {name: np.array([0.0 if r[k] is None else float(r[k]) for r in rows]) for k, name in enumerate(named, 1)}
    # Parameters are held as logarithms: d/d log p = p d/dp.
    return of_weights, {n.removeprefix("log_"): g / math.exp(float(named[n].detach())) for n, g in found.items()}


@pytest.mark.parametrize(("kind", "parameters"), EXAMPLES)
def test_codes_and_values_follow_the_formulas(kind, parameters):
    quantizer, w = CLASSES[kind](**parameters), weights()
    codes = quantizer.codes(w).detach()
    np.testing.assert_allclose(codes, formula(kind, w.double().numpy(), **parameters), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        quantizer.values(codes).detach(), inverse(kind, codes.double().numpy(), **parameters), rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(quantizer.values(codes).detach(), w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "parameters"), EXAMPLES)
def test_a_decoded_weight_is_in_the_cell_of_the_weight(kind, parameters):
    quantizer, w = CLASSES[kind](**parameters), weights()
    values, codes = quantizer(w)
    q = quantizer.integers(w)
    assert q.dtype == torch.int32 and torch.equal(q, codes.detach().round().int())
    kept = q != 0
    assert kept.any() and not kept.all()
    assert torch.equal(quantizer.integers(values.detach())[kept], q[kept])
    assert (values[~kept] == 0).all()
    near, far = (inverse(kind, q.abs().double().numpy() + side, **parameters) for side in (-0.5, 0.5))
    size = w.abs().double().numpy()
    assert (size <= far + 1e-6).all() and (size[kept] >= near[kept] - 1e-6).all()
    if kind in ("linear", "joint"):
        assert float((values - w).detach()[kept].abs().max()) <= parameters["step"] / 2 + 1e-6


@pytest.mark.parametrize(("kind", "parameters"), EXAMPLES)
def test_gradients_are_those_of_frozen_rounding(kind, parameters):
    quantizer, w = CLASSES[kind](**parameters), weights(40)
    if kind in ("log", "exp"):
        w = w[quantizer.integers(w) != 0]  # pruned ones: the test below
    of_weights, of_parameters = gradients(quantizer, w)
    exact = w.double().numpy()
    codes = formula(kind, exact, **parameters)
    offset = np.rint(codes) - codes

    def frozen(w: np.ndarray, **changed: float) -> np.ndarray:
        c = formula(kind, w, **{**parameters, **changed})
        # The region of the inverse is that of the integer code; near it the formula continues.
        if kind == "joint":
            step, threshold = ({**parameters, **changed}[name] for name in ("step", "threshold"))
            beyond = np.sign(w) * (threshold + (np.abs(c + offset) - 0.5) * step)
            return np.where(np.rint(codes) == 0, 2 * threshold * (c + offset), beyond)
        return inverse(kind, c + offset, **{**parameters, **changed})

    h = 1e-6
    expected = (frozen(exact + h) - frozen(exact - h)) / (2 * h)
    np.testing.assert_allclose(of_weights, expected, rtol=1e-3, atol=1e-4)
    for name, value in parameters.items():
        up, down = (frozen(exact, **{name: value + side}) for side in (h, -h))
        np.testing.assert_allclose(of_parameters[name], (up - down) / (2 * h), rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_weight_keeps_its_gradient(kind):
    """Else a weight that once rounded to 0 could never come back."""
    w = torch.tensor([0.01, -0.01, 0.0])
    quantizer = make_quantizer(kind, torch.tensor([-1.0, 1.0]), 0.1)
    assert not quantizer.integers(w).any()
    np.testing.assert_allclose(gradients(quantizer, w)[0], 1, rtol=0.05)


@pytest.mark.parametrize("threshold", [0.1, 0.02])
def test_the_gradients_of_the_joint_transform_as_stated(threshold):
    step = 0.07
    quantizer, w = JointQuantizer(step=step, threshold=threshold), weights(60)
    of_weights, of_parameters = gradients(quantizer, w)
    codes = formula("joint", w.double().numpy(), step, threshold)
    q, kept = np.rint(codes), np.abs(w.numpy()) > threshold
    np.testing.assert_allclose(of_weights, 1, rtol=1e-4)
    of_step = np.where(kept, np.sign(q) * (np.abs(q) - np.abs(codes)), 0)
    of_threshold = np.where(kept, 0, -w.numpy() / threshold)
    np.testing.assert_allclose(of_parameters["step"], of_step, atol=2e-4)
    np.testing.assert_allclose(of_parameters["threshold"], of_threshold, atol=2e-4)


def test_the_gradients_of_the_linear_transform_as_stated():
    quantizer, w = LinearQuantizer(step=0.07), weights(60)
    of_weights, of_parameters = gradients(quantizer, w)
    codes = w.double().numpy() / 0.07
    np.testing.assert_allclose(of_weights, 1, rtol=1e-5)
    np.testing.assert_allclose(of_parameters["step"], np.rint(codes) - codes, atol=1e-4)


@pytest.mark.parametrize(("kind", "parameters"), EXAMPLES)
def test_the_file_decodes_to_what_training_saw(kind, parameters):
    quantizer, w = CLASSES[kind](**parameters), weights(2000)
    values, _ = quantizer(w)
    q = quantizer.integers(w).numpy()
    decoded = quantizer.transform(int(np.abs(q).max())).values(q)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, values.detach().numpy(), rtol=2e-6 if kind in ("linear", "joint") else 2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [None, 0.05, 0.4])
def test_a_new_quantizer_exports_what_it_decodes(kind, step):
    w = weights(2000)
    quantizer = make_quantizer(kind, w, step)
    q = quantizer.integers(w).numpy()
    decoded = quantizer.transform(int(np.abs(q).max())).values(q)
    np.testing.assert_allclose(decoded, quantizer(w)[0].detach().numpy(), rtol=3e-5, atol=1e-7)
    near_zero = float(quantizer.values(torch.tensor(1.0)).detach())
    first = step or float(w.max() - w.min()) / 256
    assert near_zero == pytest.approx(first, rel=0.3)


def test_joint_with_half_a_step_as_threshold_is_linear():
    w = weights(500)
    joint, linear = JointQuantizer(step=0.08, threshold=0.04), LinearQuantizer(step=0.08)
    assert torch.equal(joint.integers(w), linear.integers(w))
    for ours, theirs in zip(joint(w), linear(w), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


DEGENERATE = {
    "constant": torch.full((4, 5), 0.3),
    "constant, negative": torch.full((4, 5), -2.0),
    "zeros": torch.zeros(4, 5),
    "single": torch.tensor([[0.7]]),
    "single zero": torch.zeros(1),
    "empty": torch.zeros(0, 3),
    "dead rows": torch.cat([torch.zeros(3, 5), weights(10).reshape(2, 5)]),
    "an outlier": torch.cat([weights(99), torch.tensor([1e6])]),
    "huge": weights(50) * 1e30,
    "tiny": weights(50) * 1e-28,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_nothing_is_ever_not_a_number(kind, case):
    w = DEGENERATE[case].clone().requires_grad_()
    quantizer = make_quantizer(kind, w.detach())
    values, codes = quantizer(w)
    assert torch.isfinite(values).all() and torch.isfinite(codes).all()
    peak = float(w.detach().abs().max()) if w.numel() else 1.0
    (values.sum() / (peak or 1.0) + codes.sum()).backward()
    for leaf in (w, *quantizer.parameters()):
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    q = quantizer.integers(w)
    assert int(q.abs().max() if w.numel() else 0) <= MAX_CODE
    decoded = quantizer.transform(int(q.abs().max()) if w.numel() else 0).values(q.numpy())
    assert np.isfinite(decoded).all()
    if case.startswith(("zeros", "single zero")):
        assert not q.any()
    elif case.startswith(("constant", "single")):
        torch.testing.assert_close(values, w, rtol=2e-2, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.2, 2.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_parameters_stay_positive_however_far_training_goes(kind, rate, sign):
    w = weights(100)
    quantizer = make_quantizer(kind, w)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=rate)
    for _ in range(20):
        optimizer.zero_grad()
        (sign * torch.stack(list(quantizer.parameters())).sum()).backward()
        optimizer.step()
    for name in quantizer.parameter_names:
        assert 0 < float(quantizer.parameter(name).detach()) < math.inf
    if rate < 1:
        assert all(torch.isfinite(part).all() for part in quantizer(w))


def test_codes_are_bounded_and_may_come_back():
    w = torch.tensor([1e4, -1e4, 0.5], requires_grad=True)
    quantizer = LinearQuantizer(step=1.0)
    values, codes = quantizer(w)
    assert quantizer.integers(w).tolist() == [MAX_CODE, -MAX_CODE, 0]
    assert values.tolist() == [MAX_CODE, -MAX_CODE, 0] and codes.tolist() == [1e4, -1e4, 0.5]
    values.sum().backward()
    assert w.grad is not None and w.grad.tolist() == [1, 1, 1]


def test_names():
    assert set(transform_names()) == set(KINDS)
    with pytest.raises(InputError, match=r"there is no transform 'cubic'; the transforms are .*linear"):
        make_quantizer("cubic", weights())
