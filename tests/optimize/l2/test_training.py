"""What training changes, in whatever way it is done, and that the file has it."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import l2fmt
from l2fmt.errors import InputError
from l2fmt.optimize import l2
from tests.optimize.l2.models import MODELS, ROWS, SHORT, compressed, normed, original_bytes, perceptron, tied, words


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
    monkeypatch.setattr(l2._Run, "_begun", lambda _: None)  # nothing to go back to: a few iterations seldom do better
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64))
    result = l2fmt.compress(module, ROWS, bits=4, method="l2", options=SHORT)
    codes = 4 / 8 * 2 * 64 * 128
    assert codes < result.file_bytes < codes + 1500  # headers, settings and vectors
    assert result.estimated_bytes == pytest.approx(result.file_bytes, rel=0.02)


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


@pytest.mark.parametrize("occurring", [20, 70])
def test_rows_that_never_occur_keep_their_values(occurring, nearest):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 32))
    options = {"weight_iterations": 60, "weight_lr": 0.05, "batch_size": 32}
    result = compressed(module, words(occurring, 64, 8), 8, options)
    change = l2fmt.load(result.data or b"")["0.weight"] - module.get_parameter("0.weight").detach()
    of_seen, of_unseen = (float(rows.square().mean().sqrt()) for rows in (change[:occurring], change[occurring:]))
    assert of_unseen < 0.7 * of_seen
