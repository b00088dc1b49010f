"""Method `l2` on small models of all kinds, with schedules of a few iterations."""

import os
import signal
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.errors import InputError, TargetError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize import l2, search
from l2fmt.optimize.learning.student import Student
from l2fmt.optimize.learning.taps import float_tensors
from l2fmt.optimize.learning.trainer import Trainer

SHORT: dict[str, Any] = {"rounds": 1, "transform_iterations": 0, "weight_iterations": 6, "batch_size": 16}


class Model(nn.Module):
    """A model that does what a function says with its layers."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def words(vocabulary: int, *shape: int) -> Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


def used(module: nn.Module, data: Tensor) -> nn.Module:
    """Give the norms statistics that are not where they begin."""
    module.train()
    for _ in range(20):
        module(data * 2 + 1)
    return module


def tied() -> nn.Module:
    model = Model(
        lambda m, x: m.head(torch.tanh(m.middle(m.words(x)))),
        words=nn.Embedding(90, 32),
        middle=nn.Linear(32, 32),
        head=nn.Linear(32, 90, bias=False),
    )
    model.head.weight = model.words.weight  # type: ignore[union-attr]
    return model


def with_table() -> nn.Module:
    model = Model(lambda m, x: m.head(m.words(x) + m.table), words=nn.Embedding(90, 32), head=nn.Linear(32, 32))
    model.register_buffer("table", drawn(5, 32))
    return model


PICTURES = drawn(40, 3, 8, 8)
ROWS = drawn(40, 64)


def convolutions() -> nn.Module:
    """Plain, grouped and depthwise convolutions."""
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.Conv2d(32, 64, 3, groups=4)]
    layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 1, bias=False)]
    return used(nn.Sequential(*layers, nn.BatchNorm2d(64)), PICTURES)


def normed(affine: bool = True) -> nn.Module:
    layers = [nn.Linear(64, 48), nn.BatchNorm1d(48, affine=affine), nn.ReLU()]
    return used(nn.Sequential(*layers, nn.Linear(48, 16), nn.BatchNorm1d(16, affine=affine)), ROWS)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 32))


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "convolutions": (convolutions, PICTURES),
    "1d": (lambda: used(nn.Sequential(nn.Conv1d(4, 64, 7), nn.BatchNorm1d(64)), drawn(40, 4, 12)), drawn(40, 4, 12)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 32, 3), nn.BatchNorm3d(32), nn.ReLU()), drawn(20, 2, 5, 5, 5)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 32, 3, 2), nn.ConvTranspose2d(32, 8, 3)), PICTURES),
    "tied": (tied, words(90, 40, 5)),
    "a table in a buffer": (with_table, words(90, 40, 5)),
    "an unused layer": (
        lambda: Model(lambda m, x: m.used(x), used=nn.Linear(64, 32), unused=nn.Linear(64, 32)),
        ROWS,
    ),
    "two outputs": (
        lambda: Model(lambda m, x: (m.a(x), {"b": m.b(x), "n": 3}), a=nn.Linear(64, 32), b=nn.Linear(64, 32)),
        ROWS,
    ),
    "named inputs": (
        lambda: Model(lambda m, *, left, right: m.a(left) + m.b(right), a=nn.Linear(64, 32), b=nn.Linear(32, 32)),
        {"left": ROWS, "right": drawn(40, 32)},
    ),
    "two inputs": (lambda: Model(lambda m, x, y: m.a(x) * y, a=nn.Linear(64, 64)), [((ROWS, ROWS), None)]),
    "GRU": (
        lambda: Model(lambda m, x: m.head(m.gru(x)[0]), gru=nn.GRU(16, 32, batch_first=True), head=nn.Linear(32, 16)),
        drawn(40, 6, 16),
    ),
    "LSTM": (lambda: Model(lambda m, x: m.lstm(x), lstm=nn.LSTM(16, 24, batch_first=True)), drawn(40, 6, 16)),
    "attention": (
        lambda: Model(lambda m, x: m.attention(x, x, x)[0], attention=nn.MultiheadAttention(32, 4, batch_first=True)),
        drawn(40, 6, 32),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 32, batch_first=True), 2),
        drawn(40, 6, 32),
    ),
    "float16": (lambda: perceptron().half(), ROWS),
    "bfloat16": (lambda: perceptron().bfloat16(), ROWS),
    "float64": (lambda: perceptron().double(), ROWS),
    "one sample": (perceptron, ROWS[:1]),
    "frozen": (lambda: perceptron().requires_grad_(False), ROWS),
}


def original_bytes(module: nn.Module) -> int:
    return sum(
        t.numel() * t.element_size() for t in {id(t): t for t in module.state_dict(keep_vars=True).values()}.values()
    )


def compressed(
    module: nn.Module, data: Any, ratio: float | None = None, options: Any = None, **more: Any
) -> l2fmt.PackResult:
    """Compress to a ratio, by default what makes a weight of any dtype about 5 bits and leaves room for headers."""
    if ratio is None:
        size = 8 * max(t.element_size() for t in module.parameters())
        ratio = size / 6.5
    return l2fmt.compress(module, data, target_ratio=ratio, method="l2", options={**SHORT, **(options or {})}, **more)


class Seen:
    """What stood behind a result: the trained student, and the file as it would be without the last rounding."""

    student: Student
    trained: dict[str, Tensor]

    def distance(self, module: nn.Module, data: Any, result: l2fmt.PackResult) -> float:
        """Return how far the student's outputs are from the loaded file's, relative to their largest."""
        loaded = deepcopy(module).float().eval()
        loaded.load_state_dict(l2fmt.load(result.data or b""), strict=False)
        batch = next(CalibrationSet.of(data).in_order(16))
        with torch.no_grad():
            ours = list(float_tensors(self.student.run(batch, self.student.decoded()[0])))
            theirs = list(float_tensors(loaded(*batch.args, **batch.kwargs)))
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are rounded to the nearest at both ends, whatever size that gives: faster than meeting one."""

    def first(
        produce: Callable[[float], Any], target: int, count: int, scale: Callable[[float], float], _: float
    ) -> Any:
        return produce(scale(8 * target / count))[0]

    monkeypatch.setattr(search, "search_size", first)
    monkeypatch.setattr(l2._Run, "_began_better", lambda *_: False)  # a few iterations seldom make it better
    monkeypatch.setattr(l2, "land", lambda codes, target, measure: [np.rint(c).astype(np.int32) for c in codes])


@pytest.fixture
def seen(nearest, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The student of the last compression, whose codes are rounded to the nearest."""
    result, run = Seen(), Trainer.run

    def keep(trainer: Trainer) -> None:
        run(trainer)
        result.student, result.trained = trainer._student, trainer._student.state()

    monkeypatch.setattr(Trainer, "run", keep)
    return result


@pytest.mark.parametrize("name", MODELS)
def test_training_sees_what_the_file_decodes_to(name, seen):
    torch.manual_seed(0)
    make, data = MODELS[name]
    module = make()
    state = {key: t.clone() for key, t in module.state_dict().items()}
    result = compressed(module, data)
    # A dtype of 16 bits rounds once more than the student, which runs in float32.
    assert seen.distance(module, data, result) < {"float16": 2e-2, "bfloat16": 4e-2}.get(name, 1e-5)
    found = l2fmt.load(result.data or b"")
    assert list(found) == list(state)
    for key, tensor in state.items():
        assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape
        assert torch.equal(module.state_dict()[key], tensor)
    assert result.file_bytes == len(result.data or b"") and result.original_bytes == original_bytes(module)


@pytest.mark.parametrize(
    ("transform", "vectors", "together", "start"),
    [
        *product(("linear",), ("rounded", "uniform"), (True, False), ("rd", "range")),
        *(("joint", "rounded", True, "rd"), ("joint", "uniform", False, "rd"), ("joint", "uniform", True, "range")),
        *(("log", "rounded", True, "rd"), ("log", "uniform", False, "range")),
        *(("exp", "uniform", True, "rd"), ("exp", "rounded", False, "range")),
    ],
)
def test_all_ways_to_train(transform, vectors, together, start, seen):
    torch.manual_seed(0)
    module = normed()
    options = {"transform": transform, "vectors": vectors, "together": together, "start": start}
    result = compressed(module, ROWS, 4, options | {"transform_iterations": 2, "weight_iterations": 2})
    assert seen.distance(module, ROWS, result) < (1e-5 if transform in ("linear", "joint") else 1e-4)
    assert result.quantized == (2 if vectors == "rounded" else 8)
    assert result.estimated_bytes == pytest.approx(result.file_bytes, rel=0.05)
    codes = {name: np.abs(q).max() for name, q in seen.student.integers().items()}
    assert min(codes.values()) > (100 if start == "range" and transform in ("linear", "joint") else 1)


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_presets(preset, seen):
    torch.manual_seed(0)
    module = normed()
    options = {"preset": preset, "rounds": 1, "transform_iterations": 3, "weight_iterations": 3}
    result = l2fmt.compress(module, ROWS, target_ratio=4, method="l2", options=options)
    assert seen.distance(module, ROWS, result) < 1e-5
    assert set(result.phases) >= {"start", "landing", *(("transforms", "weights") if preset == "paper" else ("all",))}


def test_a_longer_schedule_moves_the_codes(seen):
    """The weights, transforms and vectors are trained, each in its phase."""
    torch.manual_seed(0)
    module, states = normed(), {}
    turns = {"together": False, "start": "range", "transform": "joint"}
    for name, iterations in {"none": (0, 1), "transforms": (5, 1), "weights": (0, 6)}.items():
        options = {"transform_iterations": iterations[0], "weight_iterations": iterations[1], "cosine": False}
        compressed(module, ROWS, 4, options | turns)
        states[name] = seen.student.state()
    moved = {
        name: {key.split(":")[0] for key in states["none"] if not torch.equal(states["none"][key], states[name][key])}
        for name in ("transforms", "weights")
    }
    assert "quantizer" in moved["transforms"] and moved["weights"] == {"weight", "vector"}


@pytest.mark.parametrize(
    ("fold", "vectors", "keep"),
    [
        (True, "rounded", []),
        (True, "uniform", []),
        (False, "rounded", []),
        (False, "uniform", []),
        (True, "rounded", ["1.*"]),
    ],
)
def test_new_statistics_reach_the_file(fold, vectors, keep, seen):
    torch.manual_seed(0)
    module = normed()
    options = {"reestimate_statistics": True, "fold_statistics": fold, "vectors": vectors}
    result = compressed(module, ROWS, 5, options, keep=keep)
    assert seen.distance(module, ROWS, result) < 1e-5


@pytest.mark.parametrize("vectors", ["rounded", "uniform"])
def test_new_statistics_change_the_norms(vectors, nearest):
    torch.manual_seed(0)
    module = normed()
    before, after = (
        l2fmt.load(compressed(module, ROWS, 4, {"vectors": vectors, "reestimate_statistics": new}).data or b"")[
            "1.bias"
        ]
        for new in (False, True)
    )
    assert float((after - before).abs().mean()) > 0.1 * float(before.abs().mean())


@pytest.mark.parametrize("affine", [True, False])
def test_statistics_that_stay_are_rounded_in_training_too(affine, seen):
    torch.manual_seed(0)
    module = normed(affine)
    result = compressed(module, ROWS, 5, {"fold_statistics": not affine})
    assert seen.distance(module, ROWS, result) < 1e-5


@pytest.mark.parametrize("occurring", [20, 70])
def test_rows_that_never_occur_keep_their_values(occurring, nearest):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 32))
    options = {"weight_iterations": 60, "weight_lr": 0.05, "batch_size": 32}
    result = compressed(module, words(occurring, 64, 8), 8, options)
    change = l2fmt.load(result.data or b"")["0.weight"] - module.get_parameter("0.weight").detach()
    of_seen, of_unseen = (float(rows.square().mean().sqrt()) for rows in (change[:occurring], change[occurring:]))
    assert of_unseen < 0.7 * of_seen


def test_the_seed_orders_the_samples(nearest):
    torch.manual_seed(0)
    module = normed()
    first, second, other = (compressed(module, ROWS, 4, {"seed": seed}).data for seed in (-3, -3, 2**60))
    assert first == second != other


def test_kept_and_excluded_tensors_keep_every_bit(nearest):
    torch.manual_seed(0)
    module = nn.Sequential(normed(), nn.Linear(16, 64))
    result = compressed(module, ROWS, 2, exclude=["1.weight"], keep=["0.1.*", "0.0.bias"])
    found, state = l2fmt.load(result.data or b""), module.state_dict()
    same = {name for name in state if torch.equal(found[name], state[name])}
    assert {"1.weight", "0.0.bias", "0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var"} <= same
    assert not same & {"0.0.weight", "0.3.weight", "0.4.weight", "0.4.bias", "1.bias"}


def test_labels_count(nearest):
    torch.manual_seed(0)
    module, labels = perceptron(), words(32, 40)
    one, other = (
        compressed(module, (ROWS, given), options={"label_weight": 5.0}).data for given in (labels, labels.flip(0))
    )
    assert l2fmt.load(one or b"")["3.bias"].ne(l2fmt.load(other or b"")["3.bias"]).any()
    with pytest.raises(InputError, match="labels do not fit"):
        compressed(module, (ROWS, labels + 1), options={"label_weight": 1.0})


def test_settling_trains_vectors_only(seen):
    torch.manual_seed(0)
    result = compressed(normed(), ROWS, 4, {"settle_iterations": 5})
    before, after = seen.trained, seen.student.state()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {key for key in after if key.startswith("vector:")} != set()
    assert "settling" in result.phases


def test_settling_after_transforms(seen):
    options = {"together": False, "weight_iterations": 0, "transform_iterations": 3, "settle_iterations": 2}
    assert "settling" in compressed(perceptron(), ROWS, options=options).phases


@pytest.mark.parametrize("together", [True, False])
def test_without_any_iteration(together, seen):
    result = compressed(perceptron(), ROWS, 5, {"weight_iterations": 0, "together": together})
    assert result.estimated_bytes == pytest.approx(result.file_bytes, rel=0.05)


def test_bits_are_met(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(l2._Run, "_began_better", lambda *_: False)  # a few iterations seldom make it better
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64))
    result = l2fmt.compress(module, ROWS, bits=4, method="l2", options=SHORT)
    codes = 4 / 8 * 2 * 64 * 128
    assert codes < result.file_bytes < codes + 1500  # headers, settings and vectors
    assert result.estimated_bytes == pytest.approx(result.file_bytes, rel=0.02)


def test_the_random_state_of_the_caller_stays(nearest):
    torch.manual_seed(0)
    module = perceptron()
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    before_numpy = np.array(before_numpy)
    compressed(module, ROWS)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # type: ignore[index]


def flattening(convolution: bool) -> nn.Module:
    if convolution:
        return Model(lambda m, x: m.head(m.conv(x).view(len(x), -1)), conv=nn.Conv2d(3, 8, 3), head=nn.Linear(288, 8))
    return Model(lambda m, x: m.head(x.view(len(x), -1)), head=nn.Linear(192, 32))


@pytest.mark.parametrize("convolution", [True, False])
def test_models_that_view_their_inputs(convolution, nearest):
    torch.manual_seed(0)
    module = flattening(convolution)
    module(PICTURES)
    compressed(module, PICTURES)


def test_narrow_pictures(nearest):
    compressed(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1)), drawn(40, 3, 4, 64))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients(context, nearest):
    torch.manual_seed(0)
    module = perceptron()
    expected = compressed(module, ROWS).data
    with context():
        assert compressed(module, ROWS).data == expected
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def untrainable(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.layer(x)  # type: ignore[operator]


def refusing(module: nn.Module, x: Tensor) -> Tensor:
    assert x.shape[1] == 65, "a width of 65 is needed"
    return x


def remembering() -> nn.Module:
    module = Model(lambda m, x: m.layer(x), layer=nn.Linear(64, 64))
    module.last = module(ROWS)
    return module


@pytest.mark.parametrize(
    ("make", "options", "found"),
    [
        (lambda: Model(lambda m, x, mask: m.layer(x), layer=nn.Linear(64, 64)), {}, "missing 1 required .*'mask'"),
        (lambda: nn.Linear(32, 64), {}, r"called as Linear\(float32\[16, 64\]\)"),
        (lambda: Model(lambda m, x: m.layer(x).argmax(1), layer=nn.Linear(64, 64)), {}, "no floating-point tensor"),
        (perceptron, {"blocks": ["0", "7"]}, "no module '7'"),
        (
            *(lambda: Model(lambda m, x, mask: m.layer(x), layer=nn.Linear(64, 64)), {"reestimate_statistics": True}),
            "missing 1 required .*'mask'",
        ),
        (lambda: Model(refusing, layer=nn.Linear(64, 64)), {}, "a width of 65 is needed"),
        (lambda: Model(untrainable, layer=nn.Linear(64, 64)), {}, "have no gradient"),
        (lambda: Model(lambda m, x: x * 2, layer=nn.Linear(64, 64)), {}, "have no gradient"),
        (lambda: Model(lambda m, x: m.layer(x) - torch.inf, layer=nn.Linear(64, 64)), {}, "not finite"),
        (remembering, {}, "the Model cannot be copied, as training needs"),
        (perceptron, {"label_weight": 1.0}, "asks for labels, and the calibration data have none"),
        (perceptron, {"vector_lr": 1e30}, "training diverged: .* try lower learning rates"),
    ],
)
def test_models_and_settings_that_cannot_be_used(make, options, found):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=found):
        compressed(make(), ROWS, 5, options)


def test_budgets_that_cannot_be_used():
    module = perceptron()
    with pytest.raises(InputError, match="trains to a size: give a target ratio, or bits"):
        l2fmt.pack(module, method="l2", calibration=ROWS, options=SHORT)
    with pytest.raises(InputError, match="trains to a size"):
        l2fmt.compress(module, ROWS, max_error=0.01, method="l2", options=SHORT)
    for ratio in (1000, 1.01):
        with pytest.raises(TargetError, match=r"cannot be reached|less than the .* asked for"):
            compressed(module, ROWS, ratio)
    budgets: list[dict[str, Any]] = [{"target_ratio": 4}, {"bits": 4}, {}]
    for budget in budgets:
        with pytest.raises(TargetError, match="nothing to quantize"):
            l2fmt.compress(nn.LayerNorm(64), ROWS, method="l2", options=SHORT, **budget)


@pytest.mark.parametrize(("together", "number"), [(True, 3), (False, 10)])
def test_an_interrupted_run_goes_on_to_the_same_file(together, number, nearest, tmp_path: Path):
    torch.manual_seed(0)
    module, path = normed(), tmp_path / "run.pt"
    options = {"together": together, "rounds": 2, "transform_iterations": 3, "weight_iterations": 4, "batch_size": 8}
    whole = compressed(module, ROWS, 4, options)
    calls = 0

    def interrupt(stage: str, done: float) -> None:
        nonlocal calls
        calls += stage.startswith("training")
        if calls == number and stage.startswith("training"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compressed(module, ROWS, 4, options, checkpoint=path, progress=interrupt)
    assert calls == number and [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert torch.load(path, weights_only=True)["state"]["done"] == number
    with pytest.raises(InputError, match="belongs to another run"):
        compressed(module, ROWS, 4, options | {"seed": 1}, checkpoint=path)
    seen: list[str] = []
    resumed = compressed(module, ROWS, 4, options, checkpoint=path, progress=lambda stage, _: seen.append(stage))
    assert sum(stage.startswith("training") for stage in seen) == 14 - number
    assert resumed.data == whole.data and resumed.estimated_bytes == whole.estimated_bytes
    # What is done is not done again.
    seen.clear()
    again = compressed(module, ROWS, 4, options, checkpoint=path, progress=lambda stage, _: seen.append(stage))
    assert again.data == whole.data and not any(stage.startswith("training") for stage in seen)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_an_error_of_the_progress_writes_nothing(nearest, tmp_path: Path):
    def stop(stage: str, done: float) -> None:
        if stage.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(perceptron(), ROWS, checkpoint=tmp_path / "run.pt", progress=stop)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        compressed(perceptron(), ROWS, target=tmp_path / "m.l2c", progress=stop)
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_of_another_run(nearest, tmp_path: Path):
    torch.manual_seed(0)
    module, path = perceptron(), tmp_path / "run.pt"
    arguments = {"calibration": ROWS, "target_ratio": 5, "method": "l2", "options": SHORT, "checkpoint": path}
    l2fmt.compress(module, **arguments)
    before = path.read_bytes()

    def refused(**changes: Any) -> None:
        with pytest.raises(InputError, match="belongs to another run"):
            l2fmt.compress(module, **(arguments | changes))
        assert path.read_bytes() == before

    refused(target_ratio=5.5)
    refused(options={**SHORT, "weight_lr": 0.01})
    refused(calibration=ROWS + 1)
    refused(keep=["*.bias"])
    module.get_parameter("0.bias").data.add_(3.0)
    refused()


def test_a_checkpoint_that_cannot_be_written_is_said_at_once(tmp_path: Path):
    seen: list[str] = []
    with pytest.raises(l2fmt.FileAccessError):
        compressed(perceptron(), ROWS, checkpoint=tmp_path / "no" / "run.pt", progress=lambda s, _: seen.append(s))
    assert not seen


def test_weights_tied_in_the_model_or_in_the_file_alone(nearest):
    torch.manual_seed(0)
    module, loose = tied(), tied()
    loose.head.weight = nn.Parameter(torch.zeros(90, 32))  # type: ignore[union-attr]
    arguments = {"method": "l2", "calibration": words(90, 40, 5), "target_ratio": 5, "options": SHORT}
    twice = {name: t.clone() for name, t in module.state_dict().items()}
    with pytest.raises(InputError, match=r"'words\.weight' and 'head\.weight' are one tensor in the model and two"):
        l2fmt.pack(twice, module=module, **arguments)
    expected, found = (
        l2fmt.load(l2fmt.pack(source, module=running, **arguments).data or b"")
        for source, running in ((module, None), (module.state_dict(), loose))
    )
    assert found.keys() == expected.keys() and torch.equal(found["words.weight"], found["head.weight"])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_training_that_does_harm_is_undone() -> None:
    torch.manual_seed(0)
    module = perceptron()
    begun = l2fmt.pack(module, target_ratio=5)
    result = compressed(module, ROWS, 5, {"weight_lr": 1.0, "fold_statistics": False})
    assert any("the codes are those it started from" in note for note in result.notes)
    first, last = l2fmt.load(begun.data or b""), l2fmt.load(result.data or b"")
    # The same but for what the longer metadata leave of the size.
    for name, tensor in first.items():
        assert float((last[name] - tensor).square().mean()) <= 0.01 * float(tensor.square().mean())


@pytest.mark.parametrize("better", [False, True])
def test_samples_that_judge_training_have_no_part_in_it(monkeypatch: pytest.MonkeyPatch, better: bool) -> None:
    """Whatever the samples of training say of it, which can be learned by heart."""
    torch.manual_seed(0)
    asked: list[Tensor] = []

    def seen(trainer: Trainer, values: dict[str, Tensor], samples: CalibrationSet) -> float:
        trained, others = (next(s.in_order(100)).args[0] for s in (trainer._samples, samples))
        assert len(trained) == 16 and len(others) == 4
        assert not (trained[:, None] == others).all(2).any()
        asked.append(others)
        return float(better == (len(asked) == 1))

    monkeypatch.setattr(Trainer, "mean_distance", seen)
    result = compressed(perceptron(), ROWS[:20], 5, {"start": "obs"})
    assert len(asked) == 2 and torch.equal(*asked)
    assert any("the codes are those it started from" in note for note in result.notes) != better
