"""Sweeps: what their rows hold, that they resume, that processes share a file; and the plots of them."""

import csv
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

import l2fmt
from benchmarks.accuracy import plots, rows, sweep
from benchmarks.accuracy.models import EvalModel
from benchmarks.accuracy.rows import FIELDS, Run, append, claim, key_of, read_rows
from l2fmt.errors import InputError


@pytest.fixture
def seen(tmp_path, monkeypatch) -> list[dict[str, torch.Tensor]]:
    """Register the model "tiny", whose score is 100 less its error in percent; return what it has been scored on."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.Linear(100, 64))
    original = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    safetensors.torch.save_file(original, tmp_path / "tiny.safetensors")
    scored = []

    def evaluate(tensors, limit=None):
        scored.append(dict(tensors))
        error = sum(float((tensors[name] - original[name]).square().sum()) for name in original)
        return {"top1": 100 - 100 * error / sum(float(t.square().sum()) for t in original.values())}

    tiny = EvalModel("tiny", "top1", {"top1": 100.0}, lambda: tmp_path / "tiny.safetensors", lambda t: module, evaluate)
    monkeypatch.setattr(sweep, "MODELS", {"tiny": tiny})
    return scored


@pytest.fixture
def trained(monkeypatch) -> None:
    """Let the method "l2" be one that needs a module, whether it is there or not."""
    monkeypatch.setattr(sweep, "calibrates", lambda method: method == "l2")


def run_of(ratio: float = 8.0, **changes) -> Run:
    return Run("tiny", "rd", ratio, **changes)


def row_of(run: Run, **columns: str) -> dict[str, str]:
    return dict.fromkeys(FIELDS, "") | run.key | columns


def test_a_row_is_measured_from_the_file(seen, tmp_path):
    [row] = sweep.sweep([run_of()], tmp_path / "out" / "rows.csv", keep=tmp_path / "kept")
    [path] = (tmp_path / "kept").iterdir()
    size = path.stat().st_size
    given = 4 * (2 * 64 * 100 + 164)
    assert path.name == run_of().file_name and path.name.startswith("tiny-rd-8x-")
    assert (row["file_bytes"], row["ratio"]) == (str(size), f"{given / size:.3f}")
    assert 8 < float(row["ratio"]) < float(row["weights_ratio"]) < 16
    [scored] = seen
    decoded = l2fmt.load_file(path)
    assert scored.keys() == decoded.keys() and all(torch.equal(scored[name], decoded[name]) for name in decoded)
    assert float(row["value"]) + float(row["drop"]) == pytest.approx(100) and 0 < float(row["drop"]) < 20
    assert (row["metric"], row["full_precision"], row["note"], row["seed"]) == ("top1", "100.00", "", "")
    assert row["threads"] == str(torch.get_num_threads()) and row["commit"] and "cores" in row["machine"]
    assert float(row["seconds"]) >= 0 and set(row) == set(FIELDS)


def test_the_weights_ratio_counts_groups_and_tables(seen, tmp_path):
    path = tmp_path / "file.l2c"
    l2fmt.pack(tmp_path / "tiny.safetensors", path, target_ratio=8)
    inspection = l2fmt.inspect(path, sparsity=False)
    parts = sum(inspection.parts[part] for part in ("weights", "class_vectors", "scales", "tables"))
    assert sweep.weights_ratio(inspection) == pytest.approx(4 * 2 * 64 * 100 / parts, rel=0.01)


def test_rows_that_are_there_are_not_measured_again(seen, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    sweep.sweep([run_of(8)], path)
    again = sweep.sweep([run_of(10), run_of(8)], path)
    assert len(seen) == 2 and [row["target"] for row in again] == ["10", "8"]
    assert [row["target"] for row in read_rows(path)] == ["8", "10"]
    said = capsys.readouterr().err
    assert said.count("python -m benchmarks.accuracy.sweep") == 2 and "[1/2] tiny, rd: 10.0" in said


def test_what_cannot_be_packed_is_a_row_with_a_note(seen, tmp_path):
    path = tmp_path / "rows.csv"
    impossible, possible = sweep.sweep([run_of(2000), run_of(8)], path)
    assert "cannot be reached" in impossible["note"] and "\n" not in impossible["note"]
    assert impossible["value"] == impossible["ratio"] == impossible["drop"] == ""
    assert possible["value"] and len(seen) == 1
    sweep.sweep([run_of(2000)], path)
    assert len(read_rows(path)) == 2


def test_an_interrupt_keeps_what_is_done(seen, tmp_path, monkeypatch, capsys):
    measure = sweep.measure

    def interrupted(run, keep):
        if run.ratio == 10:
            raise KeyboardInterrupt
        return measure(run, keep)

    monkeypatch.setattr(sweep, "measure", interrupted)
    arguments = ["--models", "tiny", "--ratios", "8", "10", "12", "--threads", "1", "-o", str(tmp_path / "rows.csv")]
    assert sweep.main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [row["target"] for row in read_rows(tmp_path / "rows.csv")] == ["8"]
    monkeypatch.setattr(sweep, "measure", measure)
    assert sweep.main(arguments) == 0
    assert [row["target"] for row in read_rows(tmp_path / "rows.csv")] == ["8", "10", "12"]
    assert len(seen) == 3


def test_only_methods_that_need_a_module_get_seeds_presets_and_calibration(trained):
    runs = sweep.plan(
        ["tiny"], ["rd", "l2"], [8.0, 10.0], preset="fast", options={"a": 1}, seeds=[0, 1], calibration_count=64
    )
    assert [run for run in runs if run.method == "rd"] == [run_of(ratio, options={"a": 1}) for ratio in (8, 10)]
    assert [run for run in runs if run.method == "l2"] == [
        Run("tiny", "l2", ratio, "fast", {"a": 1}, "", seed, 64) for ratio in (8, 10) for seed in (0, 1)
    ]
    assert runs[2].settings == {"preset": "fast", "seed": 0, "a": 1} and runs[0].settings == {"a": 1}


def test_such_methods_get_module_and_samples(trained, monkeypatch):
    monkeypatch.setattr(sweep, "build", lambda name: f"module of {name}")
    monkeypatch.setattr(sweep, "calibration", lambda name, count: f"{count} samples of {name}")
    assert sweep.packing(Run("tiny", "l2", 12.0, "fast", seed=1, calibration_count=64)) == {
        "target_ratio": 12.0,
        "method": "l2",
        "options": {"preset": "fast", "seed": 1},
        "module": "module of tiny",
        "calibration": "64 samples of tiny",
    }
    assert sweep.packing(run_of()) == {"target_ratio": 8.0, "method": "rd"}


def test_a_method_that_can_do_without_data_gets_the_module_alone(monkeypatch):
    monkeypatch.setattr(sweep, "build", lambda name: f"module of {name}")
    monkeypatch.setattr(sweep, "calibration", lambda name, count: f"{count} samples of {name}")
    without, some = (sweep.plan(["tiny"], ["dfq"], [8.0], calibration_count=count, seeds=[0, 1]) for count in (0, 9))
    assert without == [Run("tiny", "dfq", 8.0, calibration_count=0)]
    given = {"target_ratio": 8.0, "method": "dfq", "module": "module of tiny"}
    assert sweep.packing(without[0]) == given
    assert sweep.packing(some[0]) == {**given, "calibration": "9 samples of tiny"} and len(some) == 1


@pytest.mark.parametrize(
    "run",
    [
        run_of(7.5, options={"kernel": 0.5}),
        Run("tiny", "l2", 12.0, "fast", {"text": "12", "b": True, "word": "a b", "n": 3}, "a tag", 2, 256),
    ],
    ids=lambda run: run.method,
)
def test_the_command_of_a_row_measures_that_row(run, seen, trained, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(sweep, "sweep", lambda *given: found.append(given))
    monkeypatch.setattr(sweep, "method_names", lambda: ("rd", "l2"))
    words = shlex.split(run.command(tmp_path / "rows.csv", tmp_path / "kept", 1))
    assert words[:3] == ["python", "-m", "benchmarks.accuracy.sweep"]
    threads = torch.get_num_threads()
    try:
        assert sweep.main(words[3:]) == 0
    finally:
        torch.set_num_threads(threads)
    assert found == [([run], tmp_path / "rows.csv", tmp_path / "kept")]


def test_bad_ratios_are_an_error(seen, tmp_path, capsys):
    assert sweep.main(["--models", "tiny", "--ratios", "0", "--threads", "1", "-o", str(tmp_path / "rows.csv")]) == 1
    assert "positive" in capsys.readouterr().err


def test_every_setting_is_part_of_the_key():
    base = Run("tiny", "l2", 8.0, "fast", {"a": 1}, "tag", 0, 64)
    others = [
        Run("tiny", "l2", 8.0, "fast", {"a": 1}, "tag", 0, 65),
        Run("tiny", "l2", 8.0, "fast", {"a": 1}, "tag", 1, 64),
        Run("tiny", "l2", 8.0, "fast", {"a": 1}, "", 0, 64),
        Run("tiny", "l2", 8.0, "fast", {"a": 2}, "tag", 0, 64),
        Run("tiny", "l2", 8.0, "best", {"a": 1}, "tag", 0, 64),
        Run("tiny", "l2", 8.5, "fast", {"a": 1}, "tag", 0, 64),
        Run("tiny", "rd", 8.0, "fast", {"a": 1}, "tag", 0, 64),
    ]
    assert len({key_of(run.key) for run in [base, *others]}) == len({run.file_name for run in [base, *others]}) == 8
    assert Run("m", "l2", 8.0, options={"b": 1, "a": 2}).key == Run("m", "l2", 8.0, options={"a": 2, "b": 1}).key


def test_many_may_add_rows_at_once(tmp_path):
    path = tmp_path / "rows.csv"
    runs = [run_of(float(n)) for n in range(1, 41)]
    with ThreadPoolExecutor(8) as pool:  # each call locks with a file of its own, as processes do
        list(pool.map(lambda run: append(path, row_of(run)), runs))
    assert {row["target"] for row in read_rows(path)} == {str(n) for n in range(1, 41)}
    assert len(read_rows(path)) == 40 and [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_a_row_replaces_one_with_its_key(tmp_path):
    path = tmp_path / "rows.csv"
    for run, value in ((run_of(8), "1"), (run_of(9), "2"), (run_of(8), "3")):
        append(path, row_of(run, value=value))
    assert [(row["target"], row["value"]) for row in read_rows(path)] == [("9", "2"), ("8", "3")]


def test_a_write_that_is_interrupted_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    append(path, row_of(run_of(8)))
    before = path.read_bytes()

    def interrupted(self, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(csv.DictWriter, "writerows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        append(path, row_of(run_of(9)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("model,ratio\ntiny,8\n")
    with pytest.raises(InputError, match="no result of a sweep"):
        append(path, row_of(run_of(8)))
    assert path.read_text() == "model,ratio\ntiny,8\n"


def test_a_row_that_another_process_measures_is_left_to_it(seen, tmp_path):
    path = tmp_path / "rows.csv"
    with claim(path, run_of(8)) as first, claim(path, run_of(8)) as second, claim(path, run_of(9)) as other:
        assert (first, second, other) == (True, False, True)
        assert [row["target"] for row in sweep.sweep([run_of(8), run_of(10)], path)] == ["10"]
    with claim(path, run_of(8)) as again:
        assert again
    assert len(sweep.sweep([run_of(8)], path)) == 1


@pytest.mark.parametrize("value", ["joint", "12", "true", "", "a=b", 3, 0.5, True, None])
def test_settings_are_read_as_they_are_written(value):
    assert rows.read_setting(f"key={rows.setting_text(value)}") == ("key", value)


def test_plots(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "rows.csv"
    measured = {"metric": "top1", "full_precision": "91.73"}
    for seed, value in ((0, "91.0"), (1, "91.4")):
        run = Run("tiny", "l2", 10.0, "fast", {}, "joint", seed, 64)
        append(path, row_of(run, ratio="10.00", value="1.0", **measured))  # of which the next is a repetition
        append(path, row_of(run, ratio="10.02", value=value, **measured))
    append(path, row_of(run_of(8), ratio="8.01", value="60.0", **measured))
    append(path, row_of(run_of(20), note="cannot be reached", **measured))
    append(path, row_of(Run("never", "rd", 8.0), note="cannot be reached", **measured))
    lines = plots.lines_of(plots.read([path])["tiny"])
    assert list(lines) == ["l2 fast joint", "rd"]
    [mean] = lines["l2 fast joint"]
    assert (mean.ratio, mean.low, mean.high, mean.seeds) == (10.02, 91.0, 91.4, 2)
    assert mean.value == pytest.approx(91.2) and lines["rd"] == [plots.Point(8.01, 60.0, 60.0, 60.0, 1)]
    assert plots.main([str(path), "-o", str(tmp_path / "plots")]) == 0
    [picture] = (tmp_path / "plots").iterdir()
    assert picture.name == "tiny.png" and picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert plots.main([str(tmp_path / "other.csv"), "-o", str(tmp_path)]) == 1
    assert "lacks the columns" in capsys.readouterr().err
