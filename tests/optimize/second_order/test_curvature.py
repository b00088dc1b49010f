"""Inputs of layers as matrices, and the curvature measured with them."""

import pytest
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.learning.distillation import Teacher, distance
from l2fmt.optimize.second_order import curvature
from l2fmt.optimize.second_order.curvature import Curvature, measure_curvature, with_unseen
from l2fmt.optimize.second_order.layers import Layer, find_layers


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CONVOLUTIONS = {
    "1-D": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 11)),
    "2-D": (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1)), (3, 4, 7, 8)),
    "3-D": (nn.Conv3d(2, 4, 2, dilation=2), (2, 2, 5, 6, 5)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (3, 6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding="same", groups=4), (3, 4, 5, 5)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5, 5)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_inputs_of_convolutions_are_what_kernels_meet(kind: str) -> None:
    module, shape = CONVOLUTIONS[kind]
    layer, given = Layer("weight", module), drawn(*shape)
    inputs, each = layer.inputs(given, 1 << 20, torch.Generator())
    assert each == 1
    weights = module.weight.reshape(layer.groups, -1, inputs.shape[2])
    ours = torch.cat(list(weights @ inputs.transpose(1, 2)))
    expected = module(given) - module.bias.reshape(-1, *(1,) * (given.dim() - 2))  # type: ignore[union-attr]
    assert torch.allclose(ours, layer.outputs_by_row(expected).flatten(1), atol=1e-5)


def test_inputs_are_sampled_without_bias() -> None:
    layer, given = Layer("weight", nn.Conv2d(2, 2, 3)), drawn(64, 2, 9, 9)
    every, _ = layer.inputs(given, 1 << 20, torch.Generator())
    some, each = layer.inputs(given, 900, torch.Generator().manual_seed(0))
    assert some.shape[1] == 900 and each == pytest.approx(every.shape[1] / 900)
    whole, estimate = every[0].T @ every[0], each * some[0].T @ some[0]
    assert float((whole - estimate).norm() / whole.norm()) < 0.25


def test_layers_are_found_by_their_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2), nn.Linear(4, 2))
    names = ["0.weight", "1.weight", "2.weight", "3.weight", "3.bias", "nowhere.weight", "weight"]
    assert list(find_layers(model, names)) == ["0.weight", "3.weight"]


def predicted(found: Curvature, error: Tensor) -> float:
    return found.distance(error.flatten(1).numpy())


def measured(model: nn.Module, name: str, error: Tensor, data: Tensor) -> float:
    with torch.no_grad():
        before = model(data)
        weight = model.get_parameter(name)
        weight += error
        after = model(data)
        weight -= error
        return float(distance([after], [before]))


MODELS = {
    "linear": (nn.Sequential(nn.Linear(12, 8)), "0.weight", drawn(200, 12) @ drawn(12, 12, seed=2)),
    "before an average": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 20)),
        "0.weight",
        drawn(200, 3, 8, 8) + drawn(200, 3, 1, 1, seed=3) + 1,
    ),
    "embedding": (
        nn.Sequential(nn.Embedding(40, 6), nn.Linear(6, 30)),
        "0.weight",
        (drawn(200, 5).abs() * 10).long().clamp(max=39),
    ),
}


@pytest.mark.parametrize(
    ("kind", "joint"),
    # Errors that add up from place to place are what inputs and gradients by themselves do not know of.
    [(kind, joint) for kind in MODELS for joint in (True, False) if joint or kind != "before an average"],
)
def test_curvature_predicts_the_distance(kind: str, joint: bool) -> None:
    model, name, data = MODELS[kind]
    model.requires_grad_(False)
    layer = find_layers(model, [name])[name]
    found = measure_curvature(Teacher(model, ()), [layer], CalibrationSet.of(data), 100, joint)[name]
    ratios = []
    for seed in range(6):
        error = 0.01 * drawn(*model.get_parameter(name).shape, seed=10 + seed)
        ratios.append(measured(model, name, error, data) / predicted(found, error))
    # The outputs' variance is that of all samples here, of a batch there; and sensitivities are estimates.
    assert 0.7 < sum(ratios) / len(ratios) < 1.4, ratios


def by_definition(layer: Layer, data: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of G^T G and of G G^T, G being the gradient of the layer's weight for one sample."""
    weight = layer.module.get_parameter("weight")
    columns = rows = torch.zeros(())
    for sample, gradient in zip(data, gradients, strict=True):
        (whole,) = torch.autograd.grad(layer.module(sample[None]), weight, gradient[None])
        matrices = whole.reshape(layer.groups, weight.shape[0] // layer.groups, -1).double()
        columns = columns + matrices.transpose(1, 2) @ matrices
        rows = rows + matrices @ matrices.transpose(1, 2)
    return columns, rows


@pytest.mark.parametrize("at_once", [1, 1 << 26])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (7, 3, 6, 5)),  # more places than rows
        (nn.Conv2d(4, 12, 3, stride=2), (7, 4, 5, 5)),  # fewer
        (nn.Conv2d(4, 8, 3, groups=4), (7, 4, 6, 6)),
        (nn.Conv2d(4, 4, 3, 2, groups=2, padding=1, padding_mode="reflect"), (7, 4, 8, 6)),  # places are left over
        (nn.Conv2d(3, 5, 1), (7, 3, 4, 4)),
        (nn.Conv1d(3, 4, 3, dilation=2, padding="same"), (7, 3, 9)),
        (nn.Conv3d(2, 3, (1, 2, 3)), (7, 2, 4, 4, 4)),
        (nn.Linear(6, 9), (7, 6)),
        (nn.Linear(6, 4), (7, 5, 6)),
    ],
)
def test_factors_are_those_of_the_gradients_of_single_samples(module, shape, at_once, monkeypatch) -> None:
    monkeypatch.setattr(curvature, "_MOST_BYTES", at_once)
    layer, data = Layer("weight", module), drawn(*shape)
    output = module(data)
    gradients = drawn(*output.shape, seed=3)
    columns, rows = by_definition(layer, data, gradients)
    for most_rows in (4096, 3):
        monkeypatch.setattr(curvature, "_MOST_ROWS", most_rows)
        sums = curvature._Sums(layer)
        sums.add_sample_gradients(data, gradients)
        found = sums.result(1)
        assert found is not None
        traces = columns.diagonal(dim1=1, dim2=2).sum(1)
        assert torch.allclose(found.hessian, columns / traces[:, None, None], atol=1e-6)
        expected = rows if most_rows >= rows.shape[1] else rows.diagonal(dim1=1, dim2=2).reshape(-1)
        assert torch.allclose(found.sensitivity, expected, rtol=1e-4, atol=1e-3)


def test_rows_and_weights_by_themselves_are_diagonals() -> None:
    hessian, rows = drawn(2, 4, 4).double(), drawn(2, 3, 3).double()
    whole = Curvature(hessian, rows)
    assert torch.equal(whole.by_row().hessian, hessian)
    assert whole.by_row().sensitivity.tolist() == [float(rows[g, r, r]) for g in range(2) for r in range(3)]
    assert torch.equal(whole.diagonal().hessian, hessian.diagonal(dim1=1, dim2=2))
    errors = drawn(2, 3, 4).double()
    by_hand = torch.einsum("grc,gcd,gsd,gsr->", errors, hessian, errors, rows)
    assert whole.distance(errors.reshape(6, 4).float().numpy()) == pytest.approx(float(by_hand), rel=1e-5)
    squares = torch.einsum("grc,gc,gr->", errors**2, hessian.diagonal(0, 1, 2), rows.diagonal(0, 1, 2))
    assert whole.diagonal().distance(errors.reshape(6, 4).float().numpy()) == pytest.approx(float(squares), rel=1e-5)


def test_unused_layers_have_no_curvature() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Model().requires_grad_(False)
    layers = find_layers(model, ["used.weight", "unused.weight"])
    found = measure_curvature(Teacher(model, ()), list(layers.values()), CalibrationSet.of(drawn(20, 3)), 10)
    assert list(found) == ["used.weight"]
    assert not any(p.requires_grad for p in model.parameters())


def test_a_layer_called_twice_counts_for_both() -> None:
    layer = nn.Linear(6, 6, bias=False)
    data = drawn(400, 6)

    class Model(nn.Module):
        def __init__(self, calls: int) -> None:
            super().__init__()
            self.layer, self.calls = layer, calls

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(x) for _ in range(self.calls)])

    found = []
    for calls in (1, 3):
        model = Model(calls).requires_grad_(False)
        layers = list(find_layers(model, ["layer.weight"]).values())
        counted = measure_curvature(Teacher(model, ()), layers, CalibrationSet.of(data), 400)["layer.weight"]
        found.append(predicted(counted, 0.01 * drawn(6, 6, seed=5)))
    assert found[1] == pytest.approx(found[0], rel=0.2)


def test_calls_that_tell_nothing_are_passed_over() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.named, self.single, self.usual = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
            self.vector = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.usual(self.named(input=x) + self.single(self.vector))

    model = Model().requires_grad_(False)
    layers = find_layers(model, ["named.weight", "single.weight", "usual.weight"])
    found = measure_curvature(Teacher(model, ()), list(layers.values()), CalibrationSet.of(drawn(20, 3)), 10)
    assert list(found) == ["usual.weight"]


def test_words_that_did_not_occur_are_expected_as_often_as_others_occurred_once() -> None:
    """Words drawn from Zipf's law: half of the data says how often the words it lacks occur in the other half."""
    words = 3000
    shares = 1 / torch.arange(1, words + 1, dtype=torch.float64)
    drawn_words = torch.multinomial(shares, 20_000, replacement=True, generator=torch.Generator().manual_seed(5))
    seen, later = (torch.bincount(half, minlength=words) for half in drawn_words.chunk(2))
    expected = with_unseen(seen.double(), seen)
    never = seen == 0
    assert never.sum() > 500
    assert float(expected[never].sum()) == pytest.approx(float(later[never].sum()), rel=0.1)
    assert torch.equal(expected.argsort(stable=True), seen.argsort(stable=True))


@pytest.mark.parametrize("counts", [[3, 1, 2], [0, 4, 0], [0, 0]])
def test_counts_that_say_nothing_of_other_words_stay(counts: list[int]) -> None:
    assert with_unseen(torch.tensor(counts), torch.tensor(counts)).tolist() == counts


def test_words_count_as_much_as_the_output_heeds_them() -> None:
    """A word that the model hardly looks at is hardly worth a bit, however often it occurs."""

    torch.manual_seed(0)

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(4, 8)

        def forward(self, ids: Tensor) -> Tensor:
            return (self.words(ids) * torch.where(ids == 0, 0.1, 1.0)[..., None]).mean(1)

    module = Weighted()
    ids = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 3, 1]]).repeat(40, 1)
    found = measure_curvature(
        Teacher(module, []), list(find_layers(module, ["words.weight"]).values()), CalibrationSet.of(ids), 30
    )["words.weight"].sensitivity
    assert found[0] / found[2] == pytest.approx(8 * 0.1**2, rel=0.2)
    assert found[1] / found[2] == pytest.approx(2, rel=0.2)


def test_more_gradients_of_few_samples_leave_less_to_chance() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).requires_grad_(False), drawn(40, 6)
    layer = find_layers(model, ["0.weight"])["0.weight"]
    samples = CalibrationSet.of(data)

    def found(gradients: int, seed: int) -> Tensor:
        given = measure_curvature(Teacher(model, ()), [layer], samples, 20, seed=seed, gradients=gradients)
        return given["0.weight"].sensitivity

    few, many = (torch.stack([found(gradients, seed) for seed in range(8)]) for gradients in (40, 320))
    assert torch.allclose(few.mean(0), many.mean(0), atol=0.2 * float(many.mean(0).abs().max())), "of one unit"
    assert many.var(0).sum() < 0.3 * few.var(0).sum()
    assert torch.equal(found(320, 0), found(10**6, 0)), "not without end"


def test_fewer_gradients_than_samples_leave_some_out() -> None:
    seen = []
    model = nn.Sequential(nn.Linear(6, 3))
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    layer = find_layers(model, ["0.weight"])["0.weight"]
    measure_curvature(Teacher(model, ()), [layer], CalibrationSet.of(drawn(50, 6)), 10, gradients=25)
    assert sum(seen) == 30, "in whole batches"


def test_samples_count_alike_in_whatever_batch_they_are() -> None:
    """Of thirty-two sentences one has a length of its own, and so a batch of its own."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 3000))
    alike = torch.arange(31)[:, None].expand(31, 2).contiguous()
    found = measure_curvature(
        Teacher(module, []),
        list(find_layers(module, ["0.weight"]).values()),
        CalibrationSet.of([alike, torch.full((1, 4), 31)]),
        31,
    )["0.weight"].sensitivity
    assert found[31] / found[:31].mean() == pytest.approx(1, rel=0.3)  # twice as many places, of half the weight each
