"""Real checkpoints: packed by the command line, read back, measured. Skipped where the data are not to be had."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

import l2fmt
from benchmarks import bench_size
from benchmarks.accuracy import calibration, common, data, models, resnet_cifar
from l2fmt.pipeline import write_files

COMMAND = [sys.executable, "-c", "from l2fmt.cli import main; main(prog_name='l2fmt')"]
PICTURES = 1000
OVERHEAD = 12 * 1024  # bytes for all but the coded weights
LOSSLESS_SHARE = 0.819  # of MiniLM in float32
BELOW_ENTROPY = 0.025  # of the files of MiniLM at 2 bits


def checkpoint(name: str) -> Path:
    """Return the path of a checkpoint, or skip the test with the reason why it cannot be had."""
    try:
        return models.MODELS[name].checkpoint()
    except data.DataNotFoundError as error:
        pytest.skip(str(error))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, which must succeed."""
    line = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def resnet56(tmp_path_factory) -> Path:
    """ResNet-56 at a tenth of its size."""
    path = tmp_path_factory.mktemp("packed") / "resnet56.l2c"
    done = run("pack", checkpoint("resnet56"), "-o", path, "--target-ratio", 10)
    assert done.stdout == "" and "ratio 10.0" in done.stderr
    return path


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and a[name].contiguous().numpy().tobytes() == b[name].contiguous().numpy().tobytes()
        for name in a
    )


def test_resnet56_meets_the_ratio_with_the_whole_file(resnet56):
    original = sum(t.nbytes for t in common.read_tensors(checkpoint("resnet56")).values())
    assert 10 <= original / resnet56.stat().st_size <= 10.05
    found = json.loads(run("inspect", resnet56, "--json").stdout)
    assert found["original_bytes"] == original
    assert found["file_bytes"] == sum(found["parts"].values()) == resnet56.stat().st_size
    assert 10 <= found["ratio"] <= 10.05
    assert sum(row["bytes"] for row in found["tensors"]) == sum(
        found["parts"][part] for part in ("class_vectors", "scales", "weights", "vectors", "lossless")
    )


def test_resnet56_has_little_besides_its_weights(resnet56, record_property):
    parts = json.loads(run("inspect", resnet56, "--json", "--no-sparsity").stdout)["parts"]
    overhead = sum(parts[part] for part in ("header", "index", "metadata", "tables", "vectors", "lossless"))
    record_property("overhead", overhead)
    record_property("with class vectors, which say how the weights are coded", overhead + parts["class_vectors"])
    assert overhead <= OVERHEAD, parts


def test_resnet56_unpacks_to_what_load_file_gives(resnet56, tmp_path):
    assert "ok" in run("verify", resnet56).stdout.lower()
    run("unpack", resnet56, "-o", tmp_path / "back.safetensors")
    original, loaded = common.read_tensors(checkpoint("resnet56")), l2fmt.load_file(resnet56)
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert same_bits(dict(sorted(back.items())), dict(sorted(loaded.items())))
    assert {n: (t.shape, t.dtype) for n, t in loaded.items()} == {n: (t.shape, t.dtype) for n, t in original.items()}


def test_resnet56_still_sees(resnet56):
    module = resnet_cifar.ResNet(9)
    assert l2fmt.load_model(module, resnet56) == ([], [])
    full = resnet_cifar.evaluate(common.read_tensors(checkpoint("resnet56")), limit=PICTURES)["top1"]
    packed = resnet_cifar.evaluate(module.state_dict(), limit=PICTURES)["top1"]
    assert full - packed < 2, (full, packed)


def test_resnet20_without_loss(tmp_path):
    run("pack", checkpoint("resnet20"), "-o", tmp_path / "exact.l2c", "--lossless")
    original = common.read_tensors(checkpoint("resnet20"))
    assert same_bits(l2fmt.load_file(tmp_path / "exact.l2c"), dict(original))
    assert (tmp_path / "exact.l2c").stat().st_size < 0.87 * sum(t.nbytes for t in original.values())


def test_yolov5n_stays_in_half_precision(tmp_path):
    original = common.read_tensors(checkpoint("yolov5n"))
    result = l2fmt.pack(checkpoint("yolov5n"), tmp_path / "yolo.l2c", target_ratio=4)
    assert 4 <= result.ratio <= 4.02
    loaded = l2fmt.load_file(tmp_path / "yolo.l2c")
    assert {n: (t.shape, t.dtype) for n, t in loaded.items()} == {n: (t.shape, t.dtype) for n, t in original.items()}
    assert torch.float16 in {t.dtype for t in loaded.values()}
    for name, tensor in original.items():
        if tensor.ndim > 1 and tensor.dtype == torch.float16:
            error = (loaded[name].float() - tensor.float()).square().sum() / tensor.float().square().sum()
            assert error < 0.2, name


@pytest.mark.slow
def test_minilm_without_loss():
    original = common.read_tensors(checkpoint("minilm"))
    result = l2fmt.pack(checkpoint("minilm"), lossless=True)
    assert result.data is not None
    assert result.file_bytes / result.original_bytes <= LOSSLESS_SHARE
    assert same_bits(l2fmt.load(result.data), dict(original))


@pytest.mark.slow
def test_minilm_at_two_bits_is_below_its_zero_order_entropy():
    codes = bench_size.quantized(bench_size.matrices(checkpoint("minilm")), 2.0)
    entropy = sum(bench_size.entropy_bits(code.codes) for code in codes)
    size = write_files(io.BytesIO(), codes, {}, {})
    assert 8 * size.file_bytes / entropy - 1 <= -BELOW_ENTROPY


def test_training_on_calibration_data_beats_rounding_without_data(tmp_path):
    source, model = checkpoint("resnet20"), models.MODELS["resnet20"]
    samples = calibration.calibration("resnet20", 500)
    options = {"preset": "fast", "weight_iterations": 100}
    without = l2fmt.pack(source, tmp_path / "rd.l2c", target_ratio=30)
    trained = l2fmt.pack(
        source,
        tmp_path / "l2.l2c",
        target_ratio=30,
        method="l2",
        module=calibration.build("resnet20"),
        calibration=samples,
        options=options,
    )
    for result in (without, trained):
        assert 30 <= result.ratio <= 30 * 1.006
    assert trained.estimated_bytes == pytest.approx(trained.file_bytes, rel=0.01)
    scores = [model.evaluate(l2fmt.load_file(tmp_path / f"{name}.l2c"), PICTURES)["top1"] for name in ("rd", "l2")]
    assert scores[1] > scores[0] + 5.0, scores
