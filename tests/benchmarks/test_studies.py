"""The studies: which rows each measures, the coders' figures on known codes, the tables."""

import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks.accuracy import sweep
from benchmarks.accuracy.models import EvalModel
from benchmarks.accuracy.rows import FIELDS, Run, append, means, read_rows
from benchmarks.accuracy.table import pivot
from benchmarks.studies import __main__ as command
from benchmarks.studies import coders
from benchmarks.studies.plans import STUDIES, Choice
from l2fmt.container import Reader
from l2fmt.dtypes import DTYPES
from l2fmt.optimize import get_method
from l2fmt.pipeline import QuantizedTensor, write_files
from l2fmt.transforms import Uniform


@pytest.fixture(autouse=True)
def _trained(monkeypatch) -> None:
    monkeypatch.setattr(sweep, "calibrates", lambda method: method == "l2")


def runs_of(study: str, **choice) -> list[Run]:
    return STUDIES[study].runs(Choice(["resnet20"], **choice))


def test_transforms():
    runs = runs_of("transforms", preset="fast")
    assert [(run.tag, run.ratio) for run in runs] == [
        (name, ratio) for name in ("joint", "linear", "log", "exp") for ratio in (15, 20)
    ]
    assert all(run.settings == {"preset": "fast", "seed": 0, "transform": run.tag} for run in runs)
    assert {(run.method, run.calibration_count) for run in runs} == {("l2", 1000)}


def test_kernels():
    runs = runs_of("kernels", seeds=(0, 1))
    assert len(runs) == 18 and {run.ratio for run in runs} == {15}
    assert {(run.options["kernel"], run.options["resolution"]) for run in runs} == {
        (kernel, resolution) for kernel in ("cosine", "linear", "triangle") for resolution in (32, 64, 128)
    }
    assert runs[0].tag == "cosine-32" and [run.seed for run in runs[:2]] == [0, 1]


def test_calibration_size():
    runs = runs_of("calibration-size")
    assert [run.calibration_count for run in runs] == [256, 512, 768, 1000, 2000]
    assert runs[0].tag == "256 samples" and all(not run.options and run.ratio == 12 for run in runs)


def test_no_weights():
    assert [(run.tag, run.ratio, dict(run.options)) for run in runs_of("no-weights")] == [
        ("trained", 10, {}),
        ("trained", 15, {}),
        ("as given", 10, {"weight_lr": 0, "vector_lr": 0}),
        ("as given", 15, {"weight_lr": 0, "vector_lr": 0}),
    ]


@pytest.mark.parametrize(
    ("study", "setting"), [("norms", "norm"), ("channels", "per_channel"), ("rounding", "rounding")]
)
def test_studies_of_pnmq(study, setting):
    runs = runs_of(study, ratios=(10.0,))
    assert {(run.method, run.ratio) for run in runs} == {("pnmq", 10)} and not any(
        run.calibration_count for run in runs
    )
    values = [run.options.get(setting, get_method("pnmq").settings[setting]) for run in runs]
    assert len(set(values)) == len(values) > 1
    assert [run.tag for run in runs_of("norms", ratios=(10.0,))] == ["L1", "L2", "L4", "L6", "L8"]


def test_each_ingredient_is_added_to_those_before():
    runs = runs_of("ingredients", ratios=(15.0,))
    assert [run.method for run in runs] == ["obs"] * 14
    default = get_method("obs").settings
    undone = [{name for name, value in run.options.items() if default[name] != value} for run in runs]
    assert all(left < before for before, left in pairwise(undone))
    assert not undone[-1]


def test_methods_stand_beside_each_other():
    def row(method, target, value, count="0"):
        given = Run("resnet20", method, target, calibration_count=int(count) if count else None).key
        measured = {"metric": "top1", "full_precision": "91.73", "value": value, "drop": "0", "seconds": "1"}
        return dict.fromkeys(FIELDS, "") | given | measured | {"ratio": str(target)}

    rows = [row("pnmq", 8, "91.10"), row("rd", 8, "91.20", ""), row("pnmq", 10, ""), row("pnmq", 8, "91.30", "500")]
    assert pivot(rows).splitlines() == [
        "| network | ratio | pnmq data-free | rd | pnmq with data |",
        "|---|---|---|---|---|",
        "| resnet20 (top1 91.73) | 8 | 91.10 | 91.20 | **91.30** |",
        "| resnet20 (top1 91.73) | 10 | † | – | – |",
    ]


def test_curve_and_phases():
    assert [(run.method, run.ratio, run.seed) for run in runs_of("curve")] == [
        (method, ratio, seed) for method, seed in (("rd", None), ("l2", 0)) for ratio in range(6, 21, 2)
    ]
    assert [(run.method, run.ratio) for run in runs_of("phases")] == [("l2", 12)]
    assert [run.ratio for run in runs_of("phases", ratios=(8.0, 9.0))] == [8, 9]


@pytest.mark.parametrize("study", STUDIES)
def test_no_row_of_a_study_is_measured_twice(study):
    runs = runs_of(study, seeds=(0, 1))
    assert len({run.file_name for run in runs}) == len(runs)


def test_a_study_prints_what_its_file_holds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "sweep", lambda runs, output, keep: read_rows(output))
    common = {"model": "resnet20", "metric": "top1"}
    for seed, value in ((0, 91.0), (1, 91.2)):
        run = Run("resnet20", "l2", 12.0, "fast", seed=seed, calibration_count=1000)
        phases = '{"transform": 10.5, "weights": 20}'
        columns = {"ratio": "12.02", "value": str(value), "drop": str(91.73 - value), "seconds": "31", "phases": phases}
        for study in ("phases", "curve"):
            append(tmp_path / f"{study}.csv", dict.fromkeys(FIELDS, "") | run.key | common | columns)
    threads = torch.get_num_threads()
    try:
        assert command.main(["curve", "-o", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines()[1].split() == (
            ["resnet20", "l2", "12", "12.020", "91.10", "0.20", "0.63", "2", "31.0"]
        )
        assert command.main(["phases", "-o", str(tmp_path)]) == 0
        header, first, _ = capsys.readouterr().out.splitlines()
        assert header.split()[-2:] == ["transform", "weights"] and first.split()[-2:] == ["10.5", "20"]
        assert command.main(["phases", "--ratios", "-1", "-o", str(tmp_path)]) == 1
    finally:
        torch.set_num_threads(threads)


def codes_with(probabilities: list[float], shape: tuple[int, int], name: str, seed: int = 0) -> QuantizedTensor:
    values = np.arange(len(probabilities)) - len(probabilities) // 2
    codes = np.random.default_rng(seed).choice(values, shape, p=probabilities)
    return QuantizedTensor(name, DTYPES["F32"], shape, codes.astype(np.int16), Uniform(0.5))


def test_codes_are_read_back_from_a_file():
    codes = [codes_with([0.2, 0.5, 0.3], (40, 50), "a"), codes_with([0.1, 0.1, 0.6, 0.1, 0.1], (8, 30), "b", 1)]
    buffer = io.BytesIO()
    write_files(buffer, codes, {}, {})
    with Reader(buffer.getvalue()) as reader:
        found = coders.read_codes(reader)
    assert [(code.name, code.shape, code.dtype) for code in found] == [
        ("a", (40, 50), codes[0].dtype),
        *[("b", (8, 30), codes[1].dtype)],
    ]
    for before, after in zip(codes, found, strict=True):
        assert np.array_equal(before.codes.reshape(-1), after.codes) and after.transform == before.transform


def test_coders_against_the_entropy():
    codes = [codes_with([0.05, 0.9, 0.05], (300, 200), "a"), codes_with([0.3, 0.4, 0.3], (100, 100), "b", 1)]
    entropy = sum(coders.entropy_bits(np.unique(code.codes, return_counts=True)[1]) for code in codes)
    found = {coder: coders.encoded(codes, coder, "tensor") for coder in coders.CODERS}
    for coder, (bits, streams, total) in found.items():
        assert bits == pytest.approx(entropy, rel=1e-9), coder
        assert bits / 8 < streams < total
    for coder in ("range", "rans"):
        assert 8 * found[coder][1] < 1.005 * entropy
    assert 8 * found["huffman"][1] > 1.3 * entropy  # one bit at least for symbols worth half a bit
    bits, streams, _ = coders.encoded(codes, "rans", "classes")
    assert bits < 1.001 * entropy and 0.99 * bits < 8 * streams < 1.01 * bits


def test_the_entropy_of_a_fair_coin_is_one_bit():
    assert coders.entropy_bits(np.array([500, 0, 500])) == pytest.approx(1000)
    assert coders.entropy_bits(np.array([0, 7])) == coders.entropy_bits(np.array([0, 0])) == 0


def test_the_study_of_coders(tmp_path, monkeypatch, capsys):
    tensor = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file({"weight": tensor}, tmp_path / "tiny.safetensors")

    def score(tensors, limit=None) -> dict[str, float]:
        raise AssertionError("coders are compared by size alone")

    tiny = EvalModel("tiny", "top1", {}, lambda: tmp_path / "tiny.safetensors", lambda t: torch.nn.Module(), score)
    monkeypatch.setattr(coders, "MODELS", {"tiny": tiny})
    text = command.run_coders(Choice(["tiny"], (8.0,)), "rd", tmp_path)
    assert len(text.splitlines()) == 1 + len(coders.CODERS) * len(coders.STATISTICS)
    assert (tmp_path / "coders.csv").read_text().startswith(",".join(coders.FIELDS))
    assert "tiny at 8x" in capsys.readouterr().err


def test_seeds_are_averaged():
    rows = [
        dict.fromkeys(FIELDS, "") | Run("m", "l2", 8.0, seed=seed).key | {"value": v}
        for seed, v in ((0, "90"), (1, ""))
    ]
    rows = [row | dict.fromkeys(("ratio", "drop", "seconds"), "1" if row["value"] else "") for row in rows]
    rows[1]["note"] = "too small"
    [mean] = means(rows)
    assert (mean["value"], mean["seeds"], mean["spread"], mean["note"]) == ("90.00", "1", "", "too small")
