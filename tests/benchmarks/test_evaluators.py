"""The evaluators: published full-precision figures, and the parts of the arithmetic that need no data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import l2fmt.torch

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks.accuracy import __main__ as command
from benchmarks.accuracy import (
    agreement,
    by_layer,
    common,
    data,
    detection,
    minilm,
    mobilenet,
    models,
    resnet_cifar,
    yolov5,
)
from benchmarks.studies import picture_forms

TOLERANCE = {"map50_95": 0.1, "map50": 0.1}
# What the published tensors score on the first items; a hit or a pair more or less would show.
SUBSETS = {
    "resnet20": (500, {"top1": 91.4}),
    "resnet32": (500, {"top1": 92.4}),
    "resnet56": (200, {"top1": 93.5}),
    "mobilenetv1_075": (50, {"top1": 82.0, "top5": 98.0}),
    "yolov5n": (8, {"map50_95": 37.644, "map50": 53.766}),
    "minilm": (60, {"spearman": 79.811, "spearman_dev": 89.338}),
}


def published(name: str) -> dict[str, torch.Tensor]:
    """Return the published tensors of a model, or skip the test with the reason why they cannot be had."""
    if name == "minilm":
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    try:
        data.data_folder()
        return common.read_tensors(models.MODELS[name].checkpoint())
    except data.DataNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_published_tensors_score_the_published_figure(name: str) -> None:
    model = models.MODELS[name]
    metrics = model.evaluate(published(name))
    assert next(iter(metrics)) == model.primary
    assert metrics.keys() == model.full_precision.keys()
    for metric, expected in model.full_precision.items():
        assert metrics[metric] == pytest.approx(expected, abs=TOLERANCE.get(metric, 0.05)), metric


@pytest.mark.parametrize("name", SUBSETS)
def test_published_tensors_on_a_subset(name: str) -> None:
    limit, expected = SUBSETS[name]
    assert models.MODELS[name].evaluate(published(name), limit=limit) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1_075", "yolov5n", "minilm"])
def test_agreement_falls_with_every_error(name: str) -> None:
    full, limit = published(name), SUBSETS[name][0] // 2
    generator = torch.Generator().manual_seed(0)
    others = [full]
    for noise in (0.05, 0.3):
        weights = {k: t.float() for k, t in full.items() if t.dim() > 1}
        changed = {k: w + noise * w.std() * torch.randn(w.shape, generator=generator) for k, w in weights.items()}
        others.append({**full, **changed})
    same, near, far = agreement.agreement(name, full, others, limit)
    ideal = {"same_class": 100.0, "map50_95": 100.0, "divergence": 0.0, "distance_x1000": 0.0, "missed_x1000": 0.0}
    for key, value in same.items():
        assert value == pytest.approx(ideal[key], abs=0.01), key
        assert abs(near[key] - ideal[key]) <= abs(far[key] - ideal[key]) > 0, key


def test_half_precision_tensors_are_widened() -> None:
    tensors = published("resnet20")
    half = {key: value.half() for key, value in tensors.items()}
    widened = {key: value.float() for key, value in half.items()}
    assert resnet_cifar.evaluate(half, limit=100) == resnet_cifar.evaluate(widened, limit=100)
    assert tensors["conv1.weight"].dtype == torch.float32


def _randomized(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            state[key] = value + 0.1 * noise if value.ndim < 2 or "anchors" in key else value
    return state


@pytest.mark.parametrize(
    ("module", "network", "shape"),
    [
        (resnet_cifar, lambda: resnet_cifar.ResNet(2), (2, 3, 32, 32)),
        (mobilenet, mobilenet.MobileNetV1, (1, 3, 64, 64)),
        (yolov5, yolov5.YOLOv5n, (1, 3, 64, 96)),
    ],
)
def test_folding_batch_norm_changes_nothing(module, network, shape) -> None:
    torch.manual_seed(0)
    tensors = _randomized(network())
    x = torch.rand(shape)
    with torch.inference_mode():
        plain, folded = module.build(tensors)(x), module.folded(module.build(tensors))(x)
    assert torch.allclose(plain, folded, rtol=1e-3, atol=1e-4)


def test_loading_is_strict_but_for_optional_keys() -> None:
    state = resnet_cifar.ResNet(1).state_dict()
    counted = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    network = resnet_cifar.build(counted)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    with pytest.raises(RuntimeError, match="extra"):
        resnet_cifar.build({**counted, "extra": torch.zeros(1)})
    counted.pop("layer2.0.bn1.running_var")
    with pytest.raises(RuntimeError, match=r"layer2\.0\.bn1\.running_var"):
        resnet_cifar.build(counted)


def test_minilm_loads_without_what_it_never_reads() -> None:
    state = minilm.MiniLM().state_dict()
    network = minilm.build({**state, "embeddings.position_ids": torch.arange(4), "pooler.dense.bias": torch.zeros(1)})
    vectors = minilm.embed(network, [(101, 7, 102), (101, 102), (101, 7, 102)])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    assert torch.allclose(vectors[0], vectors[2], atol=1e-6) and not torch.allclose(vectors[0], vectors[1])


def test_top_k_counts_neither_ties_nor_nan() -> None:
    labels = np.array([0, 1])
    assert common.top_k_hits(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), labels, (1, 2)) == [1, 2]
    assert common.top_k_hits(torch.zeros(2, 3), labels, (1, 3)) == [0, 2]
    assert common.top_k_hits(torch.full((2, 3), torch.nan), labels, (1, 3)) == [0, 0]


def test_map_parallel_keeps_order_and_threads() -> None:
    threads = torch.get_num_threads()
    assert common.map_parallel(lambda part: part.start, common.slices(7, 3), "x") == [0, 3, 6]
    assert torch.get_num_threads() == threads
    assert common.slices(7, 3)[-1] == slice(6, 7)


def test_spearman_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, 200) / 5, generator.normal(size=200)
    assert minilm.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert minilm.spearman(np.ones(4), np.arange(4)) == 0
    assert minilm.spearman(np.array([np.nan, 1.0]), np.arange(2)) == 0


def test_suppression_is_within_a_class_and_from_the_highest_score_down() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 0, 30, 10]], dtype=np.float32)
    found = detection.Detections(boxes, np.array([0.5, 0.9, 0.4, 0.1]), np.array([1, 1, 2, 1]))
    kept = detection.suppress(found, 0.6, 300)
    assert kept.scores.tolist() == [0.9, 0.4, 0.1] and kept.classes.tolist() == [1, 2, 1]
    assert len(detection.suppress(found, 0.6, 2).scores) == 2
    assert len(detection.suppress(found, 0.95, 300).scores) == 4


def test_matching_and_average_precision_by_hand() -> None:
    true = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], dtype=float)
    # A perfect box, a second one on the same object, and one that covers 0.62 of the other object.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9.9], [50, 50, 60, 56.2]], dtype=np.float32)
    found = detection.Detections(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3))
    right = detection.matches(found, true, np.zeros(2))
    assert right[0].all() and not right[1].any() and right[2].tolist() == [True] * 3 + [False] * 7
    precision = detection.average_precision(right, found.scores, found.classes, np.zeros(2))
    # Precision 1 to recall 0.5 (51 of 101 points), then 2/3 to recall 1, or nothing where only one box is right.
    assert precision == pytest.approx([(51 + 50 * 2 / 3) / 101] * 3 + [51 / 101] * 7)
    assert not detection.matches(found, true, np.ones(2)).any()


def test_letterbox_is_undone() -> None:
    image = np.zeros((240, 320, 3), dtype=np.uint8)
    boxed = detection.letterbox(image, 640, 32)
    assert boxed.image.shape == (480, 640, 3) and boxed.scale == 2
    boxed = detection.letterbox(image[:200], 640, 32)
    assert boxed.image.shape == (416, 640, 3) and boxed.top == 8 and (boxed.image[:8] == 114).all()
    assert detection.undo_letterbox(np.array([[20.0, 8, 700, 48]]), boxed, 200, 320).tolist() == [[10, 0, 320, 20]]


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1379])
def test_spread_order_is_a_permutation(count: int) -> None:
    assert sorted(data.spread_order(count)) == list(range(count))


def test_missing_data_is_named(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("L2FMT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataNotFoundError, match="nowhere"):
        data.data_folder()
    monkeypatch.setattr(sys, "argv", ["accuracy", "resnet20"])
    assert command.main() == 1
    assert "nowhere" in capsys.readouterr().err
    monkeypatch.setenv("L2FMT_DATA", str(tmp_path))
    with pytest.raises(data.DataNotFoundError, match="resnet20"):
        models.MODELS["resnet20"].checkpoint()


def test_command_prints_json(monkeypatch, tmp_path, capsys) -> None:
    path = tmp_path / "tensors.pt"
    torch.save(published("resnet20"), path)
    monkeypatch.setattr(sys, "argv", ["accuracy", "resnet20", "--tensors", str(path), "--limit", "50"])
    assert command.main() == 0
    assert json.loads(capsys.readouterr().out).keys() == {"top1"}


def test_agreement_command(tmp_path, capsys) -> None:
    tensors = published("resnet20")
    path = tmp_path / "model.l2c"
    l2fmt.torch.save_file(tensors, path)
    assert agreement.main(["resnet20", str(path), "--limit", "50"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same_class"] == 100 and found["bytes"] == path.stat().st_size
    assert agreement.main(["resnet20", str(tmp_path / "none.l2c")]) == 1
    assert "none.l2c" in capsys.readouterr().err


def test_forms_of_pictures(tmp_path, capsys) -> None:
    boxes = np.array([[1.0, 2, 4, 8]])
    assert detection.mirror(boxes, 10).tolist() == [[6, 2, 9, 8]]
    assert (detection.mirror(detection.mirror(boxes, 10), 10) == boxes).all()
    tensors = published("yolov5n")
    same, other = tmp_path / "same.l2c", tmp_path / "other.l2c"
    l2fmt.torch.save_file(tensors, same)
    l2fmt.torch.save_file({k: v + 0.3 * v.std() if v.dim() > 1 else v for k, v in tensors.items()}, other)
    assert picture_forms.main([str(same), str(other), "--limit", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    full, unchanged, worse = ([float(x) for x in line.split("|")[2:-1]] for line in lines[2:])
    assert len(full) == 7 and min(full) > 20 and len(set(full)) == 7
    assert unchanged == [0] * 7 and max(worse) < -10
    assert picture_forms.main([str(tmp_path / "none.l2c"), "--limit", "1"]) == 1
    assert "none.l2c" in capsys.readouterr().err


def test_errors_are_told_by_layer(tmp_path, capsys) -> None:
    tensors = {key: value.clone() for key, value in published("resnet20").items()}
    path, changed = tmp_path / "model.l2c", ["layer1.0.conv1.weight", "linear.weight"]
    for name in changed:
        tensors[name] += 0.2 * tensors[name].std() * torch.randn_like(tensors[name])
    tensors["layer1.0.bn1.bias"] += 0.1  # belongs to the convolution before
    l2fmt.torch.save_file(tensors, path)
    assert by_layer.main(["resnet20", str(path), "--limit", "60", "--count", "40"]) == 0
    rows = {row["layer"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert [name for name, row in rows.items() if row["test"] > 0] == [*changed, "all"]
    assert all((row["calibration"] > 0) == (row["test"] > 0) for row in rows.values())
    assert rows["all"]["test"] > max(rows[name]["test"] for name in changed)
    assert sum(row.get("weights", 0) for row in rows.values()) == sum(
        t.numel() for t in tensors.values() if t.dim() > 1
    )
    del tensors["linear.bias"]
    l2fmt.torch.save_file(tensors, path, overwrite=True)
    assert by_layer.main(["resnet20", str(path)]) == 1
    assert "'linear.bias' is not in the file" in capsys.readouterr().err


def test_boxes_that_are_compared_are_relative_to_cells_and_anchors():
    """At logits of zero a box has its anchor's size, and its centre in the middle of its cell."""
    torch.manual_seed(0)
    network = yolov5.Compared().eval().requires_grad_(False)
    detect = network.model[24]
    assert isinstance(detect, yolov5.Detect)
    detect.anchors.copy_(torch.rand(3, 3, 2) + 0.5)
    for head in detect.m.children():
        assert isinstance(head, nn.Conv2d) and head.bias is not None
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    boxes, scores = network(torch.rand(2, 3, 64, 96))
    count = 3 * (8 * 12 + 4 * 6 + 2 * 3)
    assert boxes.shape == (2, count, 4) and scores.shape == (2, count, 80)
    anchors = torch.cat([detect.anchors[i].repeat_interleave(n, 0) for i, n in enumerate((96, 24, 6))])
    assert torch.allclose(boxes[..., 2:], torch.tensor(0.5).sqrt())
    assert torch.allclose(boxes[..., :2], (0.5 / anchors * 0.5**0.5).expand(2, -1, -1), atol=1e-4)
    assert torch.allclose(scores, torch.tensor(0.5))
