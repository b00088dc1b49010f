"""Methods `obs` and `best` on small models."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.container import Reader
from l2fmt.errors import InputError
from l2fmt.optimize.learning.distillation import distance


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=2), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 10)
    )


PICTURES = drawn(64, 3, 10, 10) + drawn(64, 3, 1, 1, seed=2)
HELD_OUT = drawn(64, 3, 10, 10, seed=3) + drawn(64, 3, 1, 1, seed=4)


def error(model: nn.Module, result: Any, data: Tensor) -> float:
    with torch.no_grad():
        expected = model(data)
        found = torch.func.functional_call(model, l2fmt.load(result.data), (data,))
        return float(distance([found], [expected]))


def packed(model: nn.Module, ratio: float, method: str, data: Any = PICTURES, **options: Any) -> Any:
    given = {} if method == "rd" else {"module": model, "calibration": data}
    return l2fmt.pack(model, target_ratio=ratio, method=method, options=options, **given)


def test_data_beat_none_and_the_size_is_met() -> None:
    model = network()
    errors = {}
    for method, options in {"rd": {}, "obs": {}, "best": {"effort": 3, "batch_size": 16}}.items():
        result = packed(model, 7, method, **options)
        assert 7 <= result.ratio <= 7 * 1.0051
        errors[method] = error(model, result, HELD_OUT)
    # Training has little to win here, and what it does not win is undone.
    assert max(errors["obs"], errors["best"]) < 0.6 * errors["rd"], errors


def test_best_is_the_default_with_data_and_least_effort_trains_nothing() -> None:
    model = network()
    chosen, searched = (l2fmt.compress(model, PICTURES, target_ratio=7, options={"effort": n}) for n in (1, 2))
    assert chosen.settings["method"] == "best" and not chosen.phases and not searched.phases
    given, expected = (l2fmt.load(result.data or b"") for result in (chosen, packed(model, 7, "obs")))
    assert all(torch.equal(given[name], expected[name]) for name in given if name.endswith("bias"))
    assert l2fmt.pack(model, target_ratio=7).settings["method"] == "rd"


@pytest.mark.parametrize("effort", [1, 3])
def test_codes_of_obs_are_found_with_the_batches_that_best_was_told(effort: int) -> None:
    model, seen = network(), []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    packed(model, 7, "best", effort=effort, batch_size=16)
    assert max(seen) == 16


def test_one_seed_one_file() -> None:
    model = network()
    files = [packed(model, 7, "obs", seed=seed).data for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]


def test_the_model_is_left_as_it_is() -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed(model, 7, "obs")
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Parts(nn.Module):
    """Tied words, a layer that is not used, a transposed convolution, a weight of its own, constant inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(200, 24)
        self.spread = nn.ConvTranspose1d(24, 24, 2)
        self.unused = nn.Linear(24, 24)
        self.own = nn.Parameter(drawn(24, 24) / 5)
        self.zero = nn.Linear(24, 24)
        nn.init.zeros_(self.zero.weight)
        self.head = nn.Linear(24, 200, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.spread(self.words(x).transpose(1, 2)).transpose(1, 2) @ self.own
        return {"logits": self.head(hidden + self.zero(hidden)), "hidden": hidden}


def test_any_module() -> None:
    model = Parts()
    words = torch.randint(0, 150, (60, 7), generator=torch.Generator().manual_seed(0))
    for method, options in {"obs": {}, "best": {"effort": 3, "batch_size": 20}}.items():
        result = packed(model, 5, method, words, **options)
        tensors = l2fmt.load(result.data)
        assert set(tensors) == set(model.state_dict()) and tensors["head.weight"] is tensors["words.weight"]
        assert 5 <= result.ratio <= 5.04
        assert not tensors["zero.weight"].any() and tensors["unused.weight"].any()
        kept = tensors["words.weight"][:150]
        original = model.words.weight.detach()[:150]
        assert float((kept - original).square().sum() / original.square().sum()) < 0.2


@pytest.mark.parametrize("method", ["obs", "best"])
def test_what_is_not_possible_is_said(method: str) -> None:
    model = network()
    with pytest.raises(InputError, match="needs calibration data"):
        l2fmt.pack(model, target_ratio=7, method=method)
    with pytest.raises(InputError, match="to a size"):
        l2fmt.pack(model, method=method, module=model, calibration=PICTURES)
    with pytest.raises(InputError, match="cannot run on the calibration data"):
        packed(model, 7, method, drawn(10, 4))
    with pytest.raises(InputError, match="batch_size must be"):
        packed(model, 7, method, batch_size=0)
    if method == "best":
        with pytest.raises(InputError, match=r"effort must lie in \[1, 9\], not 10"):
            packed(model, 7, method, effort=10)


@pytest.mark.parametrize("options", [{"paths": 0}, {"paths": 10**9}, {"gradients": 0}])
def test_settings_out_of_range_are_said(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"obs: {next(iter(options))} must"):
        packed(network(), 7, "obs", **options)


def test_bits_a_weight() -> None:
    model = network()
    result = l2fmt.pack(model, bits=3.0, method="obs", module=model, calibration=PICTURES)
    rows = [row for row in l2fmt.inspect(result.data).tensors if row.kind == "weights"]
    with Reader(result.data) as reader:
        groups = [group for group in reader.index.groups if group.tensors[0].name.endswith("weight")]
        tables = {stream.table_set for group in groups for stream in group.streams}
        assert all(group.scales == (None, None) for group in groups)
        # What aligns streams is no part of a weight's bits.
        stored = sum(group.class_bytes + sum(stream.length for stream in group.streams) for group in groups)
        stored += sum(len(reader.index.table_sets[t].data) for t in tables)
    assert 2.97 < 8 * stored / sum(int(np.prod(row.shape)) for row in rows) <= 3.0


def test_half_precision_and_one_sample() -> None:
    model = network().half()
    result = packed(model, 4, "obs", PICTURES[:1].half())
    assert result.ratio >= 4 and {t.dtype for t in l2fmt.load(result.data).values()} == {torch.float16}


def test_uneven_inputs_get_scales_which_training_keeps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
    inputs, others = (drawn(600, 64, seed=seed) * drawn(64, seed=2).mul(2).exp() for seed in (0, 1))
    errors = {}
    for method, options in {"plain": {"scales": False}, "obs": {}, "best": {"effort": 3}}.items():
        result = packed(model, 10, method.replace("plain", "obs"), inputs, **options)
        with Reader(result.data) as reader:
            scaled = any(group.scales != (None, None) for group in reader.index.groups)
        assert scaled == (method != "plain") and 10 <= result.ratio <= 10.06
        errors[method] = error(model, result, others)
    assert errors["best"] < 1.1 * errors["obs"] < 0.5 * errors["plain"], errors


def test_statistics_of_norms_leave_their_bytes_to_weights() -> None:
    model = nn.Sequential(
        *[nn.Conv2d(3, 250, 3), nn.BatchNorm2d(250), nn.ReLU(), nn.Conv2d(250, 24, 1), nn.BatchNorm2d(24), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)],
    ).train()
    model(3 * PICTURES + 1)  # statistics that are neither 0 nor 1
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(norm.bias)  # pyright: ignore[reportArgumentType]
    model.eval()
    options = {"in_order": False, "octave_norms": False}
    results = {fold: packed(model, 7, "obs", fold_statistics=fold, **options) for fold in (True, False)}
    tensors = {fold: l2fmt.load(result.data) for fold, result in results.items()}
    for layer in "14":
        assert not tensors[True][f"{layer}.running_mean"].any() and tensors[True][f"{layer}.running_var"].eq(1).all()
        assert tensors[False][f"{layer}.running_mean"].all()
    parts = {fold: l2fmt.inspect(result.data).parts for fold, result in results.items()}
    assert parts[True]["vectors"] < parts[False]["vectors"] - 100
    assert parts[True]["weights"] > parts[False]["weights"] + 50
    # With the model's own weights the function is the same, but for the rounding of vectors.
    vectors = {name: tensor for name, tensor in tensors[True].items() if tensor.dim() < 2}
    with torch.no_grad():
        found, expected = torch.func.functional_call(model, vectors, (HELD_OUT,)), model(HELD_OUT)
    assert float(distance([found], [expected])) < 1e-3


@pytest.mark.parametrize("uses_weights", [True, False])
def test_outputs_without_a_gradient_leave_weights_alike(uses_weights: bool) -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(80, 80)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.layer(x) if uses_weights else 2 * x

    torch.manual_seed(0)
    model = Still()
    result = packed(model, 5, "obs", drawn(20, 80))
    assert result.data is not None and 5 <= result.ratio <= 5.03
    found = l2fmt.load(result.data)["layer.weight"]
    assert float(distance([found], [model.layer.weight.detach()])) < 0.02
