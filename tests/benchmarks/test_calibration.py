"""Calibration data of the models: shapes, counts, determinism, and that nothing comes from a test file."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks.accuracy import calibration as calibrations
from benchmarks.accuracy import common, data, minilm, models, resnet_cifar
from benchmarks.accuracy.calibration import build, calibration
from l2fmt.errors import InputError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.learning.taps import float_tensors


@pytest.fixture(autouse=True)
def _data() -> None:
    try:
        data.data_folder()
    except data.DataNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def _tokens() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    try:
        minilm.model_folder()
    except data.DataNotFoundError as error:
        pytest.skip(str(error))


def test_every_model_has_a_source():
    assert calibrations._SOURCES.keys() == models.MODELS.keys()


def test_cifar_pictures_are_training_pictures_with_classes_in_equal_numbers():
    inputs, labels = calibration("resnet20", 200)
    assert inputs.shape == (200, 3, 32, 32) and inputs.dtype == torch.float32
    assert torch.bincount(labels).tolist() == [20] * 10 and labels.dtype == torch.int64
    train = {picture.tobytes(): label for picture, label in zip(*data.cifar10("train"), strict=True)}
    test = {picture.tobytes() for picture in data.cifar10("test").images}
    std, mean = torch.tensor(resnet_cifar.STD), torch.tensor(resnet_cifar.MEAN)
    pictures = (inputs.permute(0, 2, 3, 1) * std + mean).mul(255).round().byte().contiguous().numpy()
    assert [train[picture.tobytes()] for picture in pictures] == labels.tolist()
    assert not any(picture.tobytes() in test for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 200


@pytest.mark.parametrize(("name", "side", "low"), [("mobilenetv1_075", 224, -1), ("yolov5n", 640, 0)])
def test_crops_of_coco(name, side, low, monkeypatch):
    asked = []
    coco = data.coco
    monkeypatch.setattr(data, "coco", lambda split: asked.append(split) or coco(split)[:3])
    inputs = calibration(name, 7)
    assert inputs.shape == (7, 3, side, side) and inputs.dtype == torch.float32
    assert low <= float(inputs.min()) < float(inputs.max()) <= 1 and float(inputs.std()) > 0.1
    assert asked == ["calib"]
    assert len({picture.numpy().tobytes() for picture in inputs}) == 7  # a picture that comes again is cut otherwise


def test_crops_are_parts_of_pictures_and_every_second_is_mirrored(monkeypatch):
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (120, 250, 3))
    monkeypatch.setattr(data, "coco", lambda split: [SimpleNamespace(image=ramp)])
    rows = calibration("mobilenetv1_075", 80)[:, 0, 112]  # [80, 224] in [-1, 1]
    slopes = (rows[:, -1] - rows[:, 0]) * 127.5 / 250  # the share of the width, negative where mirrored
    assert 25 < int((slopes < 0).sum()) < 55
    low, high = ((area * 120 * 250 * ratio) ** 0.5 / 250 for area, ratio in ((0.08, 3 / 4), (1, 4 / 3)))
    assert low * 0.95 < float(slopes.abs().min()) < 0.3 and 0.7 < float(slopes.abs().max()) <= high


def test_calibration_pictures_of_coco_are_no_test_pictures():
    assert not {picture.name for picture in data.coco("calib")} & {picture.name for picture in data.coco("val")}


@pytest.mark.usefixtures("_tokens")
def test_sentences_are_distinct_and_not_tested():
    batches = calibration("minilm", 1000)
    sentences = [tuple(row) for batch in batches for row in batch.tolist()]
    assert len(sentences) == len(set(sentences)) == 1000
    assert all(batch.dtype == torch.int64 and batch.ndim == 2 and 1 <= len(batch) <= 32 for batch in batches)
    assert set(sentences) <= set(minilm.tokens("train")[0])
    for split in ("test", "dev"):
        assert not set(sentences) & set(minilm.tokens(split)[0])


def test_draws_depend_on_the_seed_alone():
    (first, labels), (again, _), (other, _) = (calibration("resnet20", 30, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    longer, longer_labels = calibration("resnet56", 50)
    assert torch.equal(longer[:30], first) and torch.equal(longer_labels[:30], labels)
    crops = [calibration("mobilenetv1_075", count, seed) for count, seed in ((3, 0), (2, 0), (2, 1))]
    assert torch.equal(crops[0][:2], crops[1]) and not torch.equal(crops[1], crops[2])


@pytest.mark.parametrize(("name", "count"), [("resnet20", 25_001), ("resnet20", 0), ("unknown", 10)])
def test_what_there_is_not_is_an_error(name, count):
    with pytest.raises(InputError, match=r"calibration (sample|data)"):
        calibration(name, count)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1_075", "yolov5n", "minilm"])
def test_modules_run_on_their_samples(name, request):
    if name == "minilm":
        request.getfixturevalue("_tokens")
    module = build(name)
    samples = CalibrationSet.of(calibration(name, 2))
    assert samples.count == 2 and samples.has_labels == (name == "resnet20") and not samples.notes
    for batch in samples.in_order(2):
        outputs = list(float_tensors(module(*batch.args, **batch.kwargs)))
        assert outputs and all(bool(torch.isfinite(o).all()) and o.requires_grad for o in outputs)
    assert not module.training and all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    state, tensors = module.state_dict(), common.read_tensors(models.MODELS[name].checkpoint())
    assert {key: tensor.shape for key, tensor in tensors.items()}.items() <= {
        k: t.shape for k, t in state.items()
    }.items()


def test_calibration_pictures_look_like_test_pictures():
    """A wrong order of channels or range of values would show in the mean of each channel."""
    inputs, _ = calibration("resnet20", 500)
    tested = resnet_cifar.preprocess(data.cifar10("test").images[:500])
    assert np.allclose(inputs.mean((0, 2, 3)), tested.mean((0, 2, 3)), atol=0.12)
