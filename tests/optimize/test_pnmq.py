"""Method `pnmq`: rounding and tuning against brute force, bits shared out, budgets, with and without data."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from torch import nn

import l2fmt
from l2fmt.cli import main
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError, TargetError
from l2fmt.optimize import Budget, Task, WeightTensor
from l2fmt.optimize.base import decoded
from l2fmt.optimize.pnmq import PowerNorm
from l2fmt.optimize.power_grid._kernels import grid_errors
from l2fmt.optimize.power_grid.allocation import bits_after, drop_order
from l2fmt.optimize.power_grid.grids import PowerGrid, first_step, threshold_share
from l2fmt.optimize.power_grid.model import Model
from l2fmt.optimize.power_grid.tuning import tune
from l2fmt.pipeline import write_files

F32 = DTYPES["F32"]


def tensor_of(weights, name="w"):
    weights = np.asarray(weights, np.float32)
    return WeightTensor(name, F32, weights.shape, lambda: weights)


def laplace(*shape, seed=0):
    return np.random.default_rng(seed).laplace(0, 0.05, shape).astype(np.float32)


def model(seed=0):
    shapes = {"conv": (24, 16, 3, 3), "linear": (32, 64), "table": (300, 16)}
    return [tensor_of(3**i * laplace(*shape, seed=seed + i), name) for i, (name, shape) in enumerate(shapes.items())]


def measure(codes, vectors=None):
    return write_files(None, codes, {}, {})


def silent(stage, done):
    assert 0 <= done <= 1


def quantize(tensors, settings=None, **budget):
    return PowerNorm(**settings or {}).quantize(Task(tensors, Budget(**budget), measure, silent)).codes


def values_of(grid):
    """Return the positive values of a grid that ends at 1, float64, by the publication's sum d (1 + p + ... + p^k)."""
    powers = grid.growth ** np.arange(grid.levels)
    return np.concatenate([[0], np.cumsum(powers)]) * first_step(grid.growth, grid.levels)


GRIDS = [
    (float(np.float32(p)), levels) for p in (1.0, 1.05, 1.3, 2.0) for levels in (1, 3, 7, 63) if p < 2 or levels < 63
]


@pytest.mark.parametrize(("growth", "levels"), GRIDS)
@pytest.mark.parametrize("rows", [1, 5])
def test_nearest_is_nearest(growth, levels, rows):
    grid = PowerGrid(np.linspace(0.5, 2, rows), growth, levels)
    weights = np.random.default_rng(0).uniform(-1.1, 1.1, (rows, 2000)).astype(np.float32) * grid.ends[:, None]
    found = grid.quantize(tensor_of(weights), weights, "nearest")
    assert np.abs(found.codes).max() == levels
    values = values_of(grid)
    every = np.concatenate([-values[:0:-1], values]) * grid.ends[:, None]
    least = np.abs(weights[:, :, None] - every[:, None, :]).min(2)
    errors = np.abs(weights - decoded(found))
    assert (errors <= least + 1e-6).all()


@pytest.mark.parametrize(("growth", "share"), [(1.05, 0.007), (1.3, 0.033), (2.0, 0.083)])
def test_the_published_rounding_misses_the_nearest_value(growth, share):
    grid = PowerGrid(np.ones(1), growth, 7)
    weights = np.random.default_rng(0).uniform(-1, 1, (1, 100_000)).astype(np.float32)
    published, nearest = (grid.quantize(tensor_of(weights), weights, r).codes for r in ("published", "nearest"))
    assert np.mean(published != nearest) == pytest.approx(share, rel=0.25)
    away = np.abs(published) - np.abs(nearest)
    assert set(away[away != 0]) == {1}  # rounded up too often, never down


@pytest.mark.parametrize("rounding", ["nearest", "published"])
@pytest.mark.parametrize("norm", [1, 2, 4, 8])
def test_errors_of_many_grids(rounding, norm):
    rows = np.abs(laplace(3, 400))
    ends, growths = np.abs(laplace(3, 4, seed=1)) + 0.05, np.array([1.0, 1.25, 1.5])
    for levels in (1, 5):
        firsts = np.array([first_step(p, levels) for p in growths])
        shares = np.array([threshold_share(p, rounding) for p in growths])
        points, counts = np.sort(rows, axis=1).astype(np.float64), np.ones(400)
        found = grid_errors(points, counts, ends, growths, firsts, shares, levels, norm)
        for g, e in product(range(3), range(4)):
            values = decoded(PowerGrid(ends[:, e], growths[g], levels).quantize(tensor_of(rows), rows, rounding))
            expected = (np.abs(values.astype(np.float64) - rows) ** norm).sum(1)
            assert found[:, g, e] == pytest.approx(expected, rel=1e-3)


def loss(grid, weights, norm):
    errors = decoded(grid.quantize(tensor_of(weights), weights, "nearest")) - weights
    return float((np.abs(errors).astype(np.float64) ** norm).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_a_grid_tuned_in_a_norm_is_the_best_in_it(bits):
    weights, levels = laplace(1, 3000), 2 ** (bits - 1) - 1
    grids = {norm: tune(weights, levels, norm, "nearest") for norm in (2, 4, 8)}
    for norm, other in product((2, 4, 8), repeat=2):
        assert loss(grids[norm], weights, norm) <= 1.001 * loss(grids[other], weights, norm)
    assert loss(grids[4], weights, 4) < 0.95 * loss(grids[2], weights, 4)


@pytest.mark.parametrize("norm", [2, 4])
def test_tuning_comes_near_an_exhaustive_search(norm):
    weights, peak = laplace(1, 2000), float(np.abs(laplace(1, 2000)).max())
    tried = [
        loss(PowerGrid(np.array([share * peak]), float(np.float32(growth)), 7), weights, norm)
        for share in np.linspace(0.2, 1, 60)
        for growth in np.linspace(1, 2, 41)
    ]
    assert loss(tune(weights, 7, norm, "nearest"), weights, norm) <= 1.01 * min(tried)


def test_large_tensors_are_tuned_by_some_of_their_weights():
    weights = laplace(1, 60_000)
    found = loss(tune(weights, 15, 4, "nearest"), weights, 4)
    ends = np.linspace(0.7, 1, 7) * np.abs(weights).max()
    tried = [loss(PowerGrid(np.array([e]), p, 15), weights, 4) for e in ends for p in np.linspace(1, 1.3, 16)]
    assert found <= 1.05 * min(tried)


def test_rows_with_ends_of_their_own():
    weights, factors = laplace(1, 300), np.array([[1.0], [8.0], [0.25]], np.float32)
    rows = np.concatenate([factors * weights, np.zeros((1, 300), np.float32)])
    grid = tune(rows, 7, 4, "nearest")
    assert grid.ends[:3] == pytest.approx(grid.ends[0] * factors[:, 0])
    code = grid.quantize(tensor_of(rows), rows, "nearest")
    assert code.row_scale is not None and (code.row_scale > 0).all()
    assert not decoded(code)[3].any()
    whole = tune(rows.reshape(1, -1), 7, 4, "nearest")
    assert loss(grid, rows, 4) < loss(whole, rows.reshape(1, -1), 4)


def test_bits_go_where_they_matter_most():
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.5, 20, 4)[:, None] * 4.0 ** -np.arange(4)  # convex: then the greedy choice is optimal
    sizes = [100] * 4
    order = drop_order(losses, sizes)
    assert sorted(order) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for dropped in range(len(order) + 1):
        bits = bits_after(order[:dropped], 4, 3)
        least = min(
            sum(losses[t, b] for t, b in enumerate(choice))
            for choice in product(range(4), repeat=4)
            if sum(choice) == 12 - dropped
        )
        assert losses[np.arange(4), bits].sum() == pytest.approx(least)


def test_a_bit_of_a_large_tensor_is_cheaper():
    assert drop_order(np.array([[4.0, 1.0], [4.0, 1.0]]), [10, 1000]) == [1, 0]


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 0.18), ({}, 0.02), ({"per_channel": True}, 0.1), ({"rounding": "published", "norm": 2}, 0.1)],
    ids=str,
)
def test_file_bytes_are_met(settings, share):
    tensors = model()
    target = int(share * sum(t.load().nbytes for t in tensors))
    found = measure(quantize(tensors, settings, file_bytes=target)).file_bytes
    assert 0.98 * target <= found <= target  # a few KB have few codes to trade


def test_weight_bits_are_met():
    tensors = model()
    found = measure(quantize(tensors, weight_bits=3.0)).weight_bytes
    assert 2.93 <= 8 * found / sum(t.load().size for t in tensors) <= 3.0


def test_without_a_budget_the_simulated_ratio_is_met():
    tensors = model()
    codes = quantize(tensors, {"simulated_ratio": 9.0})
    bits = sum(code.size * np.ceil(np.log2(2 * np.abs(code.codes).max() + 1)) for code in codes)
    assert 9.0 <= 32 * sum(code.size for code in codes) / (bits + 32 * 6) < 9.7


@pytest.mark.parametrize("error", [0.1, 1e-3])
def test_no_tensor_errs_more_than_allowed(error):
    for settings in ({}, {"per_channel": True}):
        tensors = model()
        for tensor, code in zip(tensors, quantize(tensors, settings, max_error=error), strict=True):
            difference = decoded(code).astype(np.float64) - tensor.load()
            assert (difference**2).sum() / (tensor.load().astype(np.float64) ** 2).sum() <= error


def test_what_cannot_be_reached_is_said():
    tensors = model()
    with pytest.raises(TargetError, match="cannot be reached"):
        quantize(tensors, file_bytes=100)
    with pytest.raises(TargetError, match="the finest steps give"):
        quantize(tensors, file_bytes=10**6)
    with pytest.raises(TargetError, match=r"8 bits give .* use rd, or lossless"):
        quantize(tensors, max_error=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm": 3}, "norm must be one of 1, 2, 4, 6, 8, not 3"),
        ({"rounding": "up"}, "rounding must be nearest or published, not 'up'"),
        ({"simulated_ratio": 0.0}, "simulated_ratio must be positive"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_settings_that_are_not_allowed(settings, words):
    with pytest.raises(InputError, match=words):
        PowerNorm(**settings)


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros((4, 5)),
        np.full((4, 5), 0.25),
        np.array([[1e-25]]),
        np.array([[1e4] + [1e-4] * 50]),
    ],
    ids=["zeros", "constant", "one", "outlier"],
)
def test_odd_tensors_come_back_close(weights):
    weights = weights.astype(np.float32)
    for settings, budget in product(({}, {"per_channel": True}), ({}, {"file_bytes": 3500})):
        values = decoded(quantize([tensor_of(weights, "odd"), *model()], settings, **budget)[0])
        assert np.isfinite(values).all()
        assert np.abs(values - weights).max() <= np.abs(weights).max() * 1.01


def test_equal_input_gives_equal_codes():
    first, second = (quantize(model(), file_bytes=6000) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.codes.tobytes() == b.codes.tobytes() and a.transform == b.transform
    assert quantize([]) == []


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 9))
    with torch.no_grad():
        for _ in range(20):
            net(pictures(5))
    return net.eval()


def pictures(seed):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn((64, 3, 1, 1), generator=generator)
    return torch.randn((64, 3, 10, 10), generator=generator) + shift


def test_statistics_make_outputs_closer():
    net, held_out = network(), pictures(2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    distances = {}
    for statistics in (False, True):
        options = {"statistics": statistics}
        result = l2fmt.pack(net, target_ratio=9, method="pnmq", options=options, calibration=pictures(1))
        assert 9 <= result.ratio <= 9 * 1.0051
        tensors = l2fmt.load(result.data or b"")
        with torch.no_grad():
            found = torch.func.functional_call(net, tensors, (held_out,))
            distances[statistics] = float((found - net(held_out)).square().mean())
        moved = [(tensors[n] - before[n]).abs().max() / before[n].abs().max() for n in tensors if "running" in n]
        assert (max(moved) > 0.01) == statistics
    assert distances[True] < 0.8 * distances[False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


class Distance:
    """Stands for the curvature of a tensor."""

    def __init__(self, weight):
        self.weight = weight

    def distance(self, errors):
        return self.weight * float((errors.astype(np.float64) ** 2).sum())


def order_of(**weights):
    tensors = [tensor_of(laplace(20, 50 + i, seed=i), f"t{i}") for i in range(3)]
    curvatures = {name: Distance(weight) for name, weight in weights.items()}
    return Model(tensors, 2, "nearest", False, curvatures, silent).order  # type: ignore[arg-type]


def test_what_outputs_depend_on_keeps_its_bits_longer():
    assert 2 in order_of(t0=1.0, t1=1.0, t2=1.0)[:4] and 2 not in order_of(t0=1.0, t1=1.0, t2=1e6)[:4]


def test_losses_without_data_are_in_the_unit_of_the_others():
    assert order_of() == order_of(t0=7.0) == order_of(t0=1e-6)


def test_from_the_command_line(tmp_path):
    source, target = tmp_path / "model.safetensors", tmp_path / "model.l2c"
    save_file({t.name: t.load() for t in model()}, source)
    arguments = [
        "pack",
        str(source),
        "-o",
        str(target),
        "--method",
        "pnmq",
        "--target-ratio",
        "9",
        "--set",
        "per_channel=true",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert 9 <= sum(t.load().nbytes for t in model()) / target.stat().st_size <= 9.1
    recorded = json.loads(l2fmt.inspect(target).metadata["l2fmt.settings"])
    assert recorded["method"] == "pnmq" and recorded["options"]["per_channel"] and recorded["options"]["norm"] == 4
    tensors = l2fmt.load_file(target)
    for tensor in model():
        difference = tensors[tensor.name].numpy() - tensor.load()
        assert (difference**2).sum() < 0.2 * (tensor.load() ** 2).sum()
