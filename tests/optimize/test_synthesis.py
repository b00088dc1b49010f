"""Samples that a classifier makes of those it is given."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.errors import InputError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.base import Budget, Calibration, Task, get_method
from l2fmt.optimize.synthesis import _Moments, with_synthetic
from l2fmt.pipeline import Size

CLASSES = 6


def pictures(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, 3, 12, 12), generator=generator).clamp(-2, 2)


def classifier() -> nn.Sequential:
    """Return a network in eval mode whose norms remember the statistics of pictures."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 24)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=None), nn.ReLU()]
    head = nn.Linear(24, CLASSES)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    with torch.no_grad():
        network(pictures(256, 1))
        head.weight *= 30  # untrained, it would be sure of nothing
        head.bias -= network.eval()(pictures(256, 1)).mean(0)  # no class is the most likely one
    return network


def task(module: nn.Module, data: Any, told: list[str] | None = None) -> Task:
    def measure(codes: Any, vectors: Any = ()) -> Size:
        raise AssertionError("nothing is measured")

    calibration = Calibration(module, CalibrationSet.of(data), frozenset(), 8, 0)
    progress = (lambda stage, _done: None) if told is None else (lambda stage, _done: told.append(stage))
    return Task([], Budget(), measure, progress, calibration)


def made(module: nn.Module, data: Any, count: int, batch_size: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the samples that were given, and those that were made."""
    calibration = with_synthetic(task(module, data), count, batch_size, seed).calibration
    assert calibration is not None
    samples = torch.cat([batch.args[0] for batch in calibration.samples.in_order(1000)])
    return samples[: len(samples) - count], samples[len(samples) - count :]


def test_the_model_sees_all_classes_in_what_it_makes() -> None:
    network, given = classifier(), pictures(24, 2)
    kept, new = made(network, given, 48)
    assert torch.equal(kept, given)
    assert new.shape == (48, 3, 12, 12) and new.dtype == torch.float32
    with torch.no_grad():
        found, before = network(new).argmax(1).bincount(minlength=CLASSES), network(given).softmax(1).amax(1)
        assert found.min() >= 4, found  # of eight each that were drawn
        assert network(new).softmax(1).amax(1).mean() > before.mean()
    assert new.min() >= given.min() and new.max() <= given.max()
    moved = (new[:24] - given).square().mean().sqrt()
    assert 0.01 < moved < 0.5, moved


def test_norms_get_what_they_remember() -> None:
    """Pictures of another brightness than those of the training are moved towards these."""
    network = classifier()
    seen: list[Tensor] = []
    norm: Any = network[1]
    norm.register_forward_hook(lambda _m, given, _o: seen.append(given[0].mean((0, 2, 3))))
    given, new = made(network, pictures(48, 3) * 0.7 + 0.4, 48, 48)
    with torch.no_grad():
        seen.clear()
        for x in (given, new):
            network(x)
    deviation = norm.running_var.sqrt()
    before, after = (((mean - norm.running_mean) / deviation).square().mean() for mean in seen)
    assert after < 0.7 * before, (before, after)


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (7, 3)])
def test_gradients_of_moments(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    same, mean, variance = _Moments.apply(x)  # type: ignore[misc]
    others = [0, *range(2, len(shape))]
    assert torch.equal(same, x)
    assert torch.allclose(mean, x.mean(others)) and torch.allclose(variance, x.var(others, correction=0))
    assert torch.autograd.gradcheck(_Moments.apply, [x])  # type: ignore[arg-type]


def test_one_seed_one_set() -> None:
    network = classifier()
    sets = [made(network, pictures(30, 2), 40, seed=seed)[1] for seed in (0, 0, 1)]
    assert torch.equal(sets[0], sets[1]) and not torch.equal(sets[0], sets[2])


@pytest.mark.parametrize(("given", "count", "batch_size"), [(1, 5, 8), (7, 1, 4), (30, 31, 10), (100, 3, 50)])
def test_any_number_of_any_number(given: int, count: int, batch_size: int) -> None:
    kept, new = made(classifier(), pictures(given, 2), count, batch_size)
    assert len(kept) == given and len(new) == count
    assert torch.isfinite(new).all() and len(new.flatten(1).unique(dim=0)) == count


def test_more_than_memory_may_hold_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="10,000,000 synthetic samples of 1,728 bytes exceed"):
        with_synthetic(task(classifier(), pictures(5, 2)), 10_000_000, 4, 0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_any_mode_of_the_caller(mode: Any) -> None:
    expected = made(classifier(), pictures(6, 2), 8)[1]
    network = classifier()
    with mode():
        assert torch.equal(made(network, pictures(6, 2), 8)[1], expected)


def test_all_that_are_made_are_used() -> None:
    calibration = with_synthetic(task(classifier(), pictures(5, 2)), 7, 4, 0).calibration
    assert calibration is not None
    assert calibration.samples.count == 12 and calibration.samples.notes == []


def test_pictures_of_several_sizes() -> None:
    data = [pictures(6, 2), pictures(6, 3)[:, :, :8, :10]]
    calibration = with_synthetic(task(classifier(), data), 16, 4, 0).calibration
    assert calibration is not None
    shapes = [batch.args[0].shape[2:] for batch in calibration.samples.in_order(1)]
    assert len(shapes) == 28 and shapes.count(torch.Size([8, 10])) > 6


def test_the_module_is_left_as_it_is_and_progress_told() -> None:
    network, told = classifier().train(), []
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with_synthetic(task(network, pictures(8, 2), told), 8, 8, 0)
    assert told == ["making samples"]
    assert network.training and all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_none_are_made_unless_asked_for() -> None:
    given = task(nn.Linear(3, 2), torch.randn(4, 3))
    assert with_synthetic(given, 0, 8, 0) is given


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).detach()


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.network(x) if y is not None else (self.network(x), x)


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 12), nn.Flatten()), pictures(4, 2), "batch norms"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            pictures(4, 2),
            "batch norms",
        ),
        (classifier()[:3], pictures(4, 2), "classifiers"),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), torch.randn(6, 5), "pictures"),
        (Several(), {"x": pictures(4, 2)}, "pictures"),
        (Several(), ((pictures(4, 2), pictures(4, 3)), None), "pictures"),
        (Several(), pictures(4, 2), "classifiers"),
        (Detached(), pictures(4, 2), "gradient"),
        (classifier(), pictures(4, 2)[:, :2], "cannot run on the calibration data"),
    ],
)
def test_other_models_are_refused(module: nn.Module, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_synthetic(task(module, data), 4, 4, 0)


@pytest.mark.parametrize("method", ["obs", "best"])
def test_a_negative_number_is_refused(method: str) -> None:
    with pytest.raises(InputError, match="synthetic must be at least 0, not -1"):
        get_method(method, {"synthetic": -1})


@pytest.mark.parametrize(("method", "options"), [("obs", {}), ("best", {"effort": 3})])
def test_methods_calibrate_on_them(method: str, options: dict[str, Any]) -> None:
    network, given = classifier(), pictures(6, 2)
    calibration = with_synthetic(task(network, given), 30, 12, 0).calibration
    assert calibration is not None

    def packed(data: Any, **more: Any) -> dict[str, Tensor]:
        settings = options | {"batch_size": 12} | more
        result = l2fmt.pack(network, module=network, calibration=data, bits=4, method=method, options=settings)
        return l2fmt.load(result.data or b"")

    found, expected, without = packed(given, synthetic=30), packed(calibration.samples), packed(given)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert not torch.equal(found["0.weight"], without["0.weight"])
