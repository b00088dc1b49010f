"""The entropy counter against its definition, which compares every symbol with every code, and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from l2fmt.errors import InputError
from l2fmt.optimize.learning import counter
from l2fmt.optimize.learning.counter import count_bits, hard_bits, relaxation_of

KERNELS = ("cosine", "linear", "triangle")
RELAXATIONS = (0.1, 0.25, 0.5, 0.9, 2.3)
INTEGRALS = {
    "cosine": lambda t: (1 + torch.sin(math.pi / 2 * t)) / 2,
    "linear": lambda t: (1 + t) / 2,
    "triangle": lambda t: torch.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2),
}


def naive_bits(symbols: Tensor, codes: Tensor, relaxation: float, kernel: str) -> Tensor:
    """Return -sum log2 P(symbol) with the mass of all codes between the symbol's boundaries, one by one."""

    def below(places: Tensor) -> Tensor:
        distances = (places[:, None] - codes[None, :]) / relaxation
        return INTEGRALS[kernel](distances.clamp(-1, 1)).sum(1)

    return -torch.log2((below(symbols + 0.5) - below(symbols - 0.5)) / len(codes)).sum()


def gaussian(count: int, spread: float = 2.5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator, dtype=torch.float64) * spread


def smooth(codes: Tensor, relaxation: float) -> Tensor:
    """Return those codes whose small changes cross no kink: not where rounding jumps, nor where a kernel ends."""
    clear = torch.ones_like(codes, dtype=torch.bool)
    for edge in (0.0, relaxation, -relaxation):
        place = codes - 0.5 + edge
        clear &= (place - place.round()).abs() > 1e-3
    return codes[clear]


def bits_and_gradient(codes: Tensor, *arguments, **options) -> tuple[float, Tensor]:
    leaf = codes.clone().requires_grad_()
    bits = count_bits(leaf, *arguments, **options)
    bits.backward()
    assert leaf.grad is not None
    return bits.item(), leaf.grad


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_definition(kernel, relaxation):
    codes = gaussian(300)
    moved = codes.clone().requires_grad_()
    asked = codes.clone().requires_grad_()
    value = naive_bits(codes.round(), moved, relaxation, kernel)
    value.backward()
    naive_bits(codes.round() + asked - codes, codes, relaxation, kernel).backward()
    assert moved.grad is not None and asked.grad is not None

    bits, associated = bits_and_gradient(codes, relaxation, kernel, query_path=False)
    both_bits, both = bits_and_gradient(codes, relaxation, kernel)
    assert bits == both_bits == pytest.approx(value.item(), rel=1e-12)
    for gradient, expected in ((associated, moved.grad), (both - associated, asked.grad)):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_finite_differences(kernel, relaxation):
    """Small changes round to the same symbols, so that differences see all of the path through the counts, only it."""
    codes = smooth(gaussian(50), relaxation).requires_grad_()
    assert len(codes) > 40

    def bits(query_path):
        return lambda c: count_bits(c, relaxation, kernel, query_path=query_path)

    assert torch.autograd.gradcheck(bits(False), (codes,))
    assert bits_and_gradient(codes.detach(), relaxation, kernel, query_path=False)[1].abs().max() > 0.1
    assert not torch.autograd.gradcheck(bits(True), (codes,), raise_exception=False)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("codes", [[0.5, 1.5, 2.5, -0.5, 0.5], [-3.0, 0.0, 0.0, 2.0, 7.0], [0.25, 0.75, -0.75, 1.0]])
def test_codes_on_edges(codes, kernel):
    codes = torch.tensor(codes, dtype=torch.float64)
    for relaxation in (0.25, 0.5, 1.5):
        expected = naive_bits(codes.round(), codes, relaxation, kernel).item()
        bits, gradient = bits_and_gradient(codes, relaxation, kernel)
        assert bits == pytest.approx(expected, rel=1e-12)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("relaxation", [0.3, 1.7])
def test_blocks_add_up(relaxation, monkeypatch):
    codes = gaussian(2000)
    whole = bits_and_gradient(codes, relaxation)
    monkeypatch.setattr(counter, "_CPU_BLOCK", 1)
    parts = bits_and_gradient(codes, relaxation)
    assert parts[0] == pytest.approx(whole[0], rel=1e-13)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("query_path", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_classes_are_separate_tables(dtype, query_path):
    codes = gaussian(600).view(20, 30)
    classes = (torch.arange(600) * 7 % 5).view(20, 30)
    classes = torch.where(classes == 3, 4, classes).to(dtype)  # class 3 is empty
    options = {"query_path": query_path, "kernel": "triangle"}
    bits, gradient = bits_and_gradient(codes, 0.6, classes=classes, n_classes=6, **options)
    separate = 0.0
    for number in range(6):
        part_bits, part_gradient = bits_and_gradient(codes[classes == number], 0.6, **options)
        separate += part_bits
        torch.testing.assert_close(gradient[classes == number], part_gradient, rtol=1e-10, atol=1e-12)
    assert bits == pytest.approx(separate, rel=1e-12)
    parts = [hard_bits(codes[classes == number]) for number in range(6)]
    assert hard_bits(codes, classes, 6) == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize("relaxation", [0.4, 1.2])
def test_order_shape_place_and_scale_of_the_loss(relaxation):
    codes = gaussian(360)
    bits, gradient = bits_and_gradient(codes, relaxation)
    order = torch.randperm(360, generator=torch.Generator().manual_seed(1))
    for other, back in (
        (codes[order], lambda g: g[order.argsort()]),
        (codes + 1000, lambda g: g),
        (codes.flip(0).neg(), lambda g: g.flip(0).neg()),
        (codes.view(3, 4, 30).transpose(0, 2), lambda g: g.transpose(0, 2).reshape(360)),
    ):
        other_bits, other_gradient = bits_and_gradient(other, relaxation)
        assert other_gradient.shape == other.shape
        assert other_bits == pytest.approx(bits, rel=1e-10)
        torch.testing.assert_close(back(other_gradient), gradient, rtol=1e-8, atol=1e-9)
    leaf = codes.clone().requires_grad_()
    (3 * count_bits(leaf, torch.tensor(relaxation, dtype=torch.float64))).backward()
    torch.testing.assert_close(leaf.grad, 3 * gradient)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_is_close_to_float64(kernel):
    codes = gaussian(100_000).float()
    for relaxation in (0.3, 2.3):
        bits, gradient = bits_and_gradient(codes, relaxation, kernel)
        exact_bits, exact = bits_and_gradient(codes.double(), relaxation, kernel)
        assert gradient.dtype == torch.float32
        assert bits == pytest.approx(exact_bits, rel=1e-8)
        assert (gradient - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_relaxation_it_is_the_entropy(kernel):
    codes = gaussian(5000)
    exact = hard_bits(codes)
    _, counts = np.unique(codes.round().numpy(), return_counts=True)
    assert exact == pytest.approx(-(counts * np.log2(counts / 5000)).sum(), rel=1e-12)
    errors = [abs(count_bits(codes, relaxation, kernel).item() - exact) for relaxation in (0.5, 0.05, 1e-3, 1e-6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-4 * exact and errors[3] < 1e-6 * exact


def test_results_repeat():
    codes = gaussian(200_000).float()
    first, second = (bits_and_gradient(codes, 0.5) for _ in range(2))
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("codes", [[], [2.3], [0.5], [1.7] * 9, [0.0] * 9, [-2.5] * 4])
def test_equal_codes_cost_nothing(codes, dtype):
    codes = torch.tensor(codes, dtype=dtype)
    for relaxation in (relaxation_of(codes, 64), 0.5, 2.3):
        bits, gradient = bits_and_gradient(codes, relaxation)
        assert bits == 0
        assert gradient.dtype == dtype
        assert torch.equal(gradient, torch.zeros_like(codes))
    assert hard_bits(codes) == 0


def test_result_is_a_float64_scalar():
    for codes in (torch.zeros(3), gaussian(9).float()):
        bits = count_bits(codes, 0.5)
        assert bits.shape == () and bits.dtype == torch.float64 and not bits.requires_grad


def test_one_symbol_with_spread_mass():
    bits, gradient = bits_and_gradient(torch.tensor([-0.1, 0.0, 0.1, 0.45, -0.45]), 0.5)
    assert bits > 0  # what the outer codes have beyond the boundaries is lost
    assert gradient[3] > 0 > gradient[4]  # so that descent pulls them inward
    assert hard_bits(torch.tensor([-0.1, 0.45])) == 0


def test_wide_relaxation():
    codes = gaussian(200)
    expected = naive_bits(codes.round(), codes, 60.0, "cosine").item()
    assert count_bits(codes, 60.0).item() == pytest.approx(expected, rel=1e-10)
    bits, gradient = bits_and_gradient(gaussian(3000, spread=30).float(), 100.0)
    assert math.isfinite(bits) and gradient.isfinite().all()


def test_relaxation_of_codes():
    codes = torch.tensor([-3.0, 1.0, 5.0], requires_grad=True)
    relaxation = relaxation_of(codes, 64)
    assert relaxation.item() == 8 / 64 and not relaxation.requires_grad
    assert 0 < relaxation_of(torch.full((5,), 2.0), 64) < 1e-3
    assert relaxation_of(torch.empty(0), 64) > 0


@pytest.mark.parametrize(
    ("codes", "relaxation", "options", "message"),
    [
        ([0.0, 1.0], 0.5, {"kernel": "gauss"}, "kernel 'gauss'; the kernels are cosine, linear, triangle"),
        ([0.0, 1.0], 0.0, {}, "relaxation must be positive"),
        ([0.0, 1.0], math.nan, {}, "relaxation must be positive"),
        ([0.0, math.nan], 0.5, {}, "codes must be finite"),
        ([0.0, math.inf], 0.5, {}, "codes must be finite"),
        ([-math.inf, -math.inf], 0.5, {}, "codes must be finite"),
        ([0.0, 2.0**20], 0.5, {}, "at most 1048576 counts"),
        ([0.0, 1e30], 0.5, {}, "at most 1048576 counts"),
        ([0.0, 1.0], 1e9, {}, "at most 1048576 counts"),
        ([0.0, 2.0**18], 0.5, {"n_classes": 5}, "in 5 classes"),
        ([0.0, 1.0], 0.5, {"classes": torch.tensor([0, 2]), "n_classes": 2}, "classes must be from 0 to 1"),
        ([0.0, 1.0], 0.5, {"classes": torch.tensor([0, -1]), "n_classes": 2}, "classes must be from 0 to 1"),
        ([0.0, 1.0], 0.5, {"classes": torch.tensor([0])}, "classes must be integers of the codes' shape"),
        ([0.0, 1.0], 0.5, {"classes": torch.tensor([0.0, 0.0])}, "classes must be integers"),
    ],
)
def test_refused(codes, relaxation, options, message):
    with pytest.raises(InputError, match=message):
        count_bits(torch.tensor(codes), relaxation, **options)


def test_refused_precision():
    with pytest.raises(InputError, match=r"float32 or float64, not torch\.float16"):
        count_bits(torch.zeros(2, dtype=torch.float16), 0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("relaxation", [0.4, 2.3])
def test_devices_agree(relaxation):
    codes = gaussian(50_000)
    classes = torch.arange(50_000) % 3
    bits, gradient = bits_and_gradient(codes, relaxation, classes=classes, n_classes=3)
    there = bits_and_gradient(codes.cuda(), relaxation, classes=classes.cuda(), n_classes=3)
    assert there[0] == pytest.approx(bits, rel=1e-11)
    torch.testing.assert_close(there[1].cpu(), gradient, rtol=1e-8, atol=1e-10)
