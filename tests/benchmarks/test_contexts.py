"""The study of contexts, on codes whose dependence is known."""

import sys
from pathlib import Path

import numpy as np
import pytest

if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks.studies import contexts
from l2fmt.dtypes import DTYPES
from l2fmt.pipeline import Encoding, QuantizedTensor, write_files
from l2fmt.transforms import Uniform

ROWS, COLUMNS = 64, 1024


def file_of(codes: np.ndarray, path: Path) -> Path:
    tensor = QuantizedTensor("w", DTYPES["F32"], codes.shape, codes.ravel(), Uniform(0.01))
    write_files(path, [tensor], {}, {}, Encoding(tables=1))
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_independent_codes_have_no_context(rng, tmp_path):
    codes = rng.integers(-3, 4, (ROWS, COLUMNS)).astype(np.int32)
    path = file_of(codes, tmp_path / "independent.l2c")
    for above in (False, True):
        rate, offset, limit, precision = contexts.measure(path, above)
        assert rate == pytest.approx(np.log2(7), abs=0.01)
        assert offset == 0 and -0.2 < limit <= 0 and 0 <= precision < 0.1


def test_magnitudes_in_runs_are_seen_from_the_left(rng, tmp_path):
    runs = np.repeat(rng.random((ROWS, COLUMNS // 32)) < 0.5, 32, axis=1)
    codes = np.where(runs, rng.integers(-8, 9, runs.shape), 0).astype(np.int32)
    path = file_of(codes, tmp_path / "runs.l2c")
    _, offset, left, _ = contexts.measure(path, above=False)
    _, _, above, _ = contexts.measure(path, above=True)
    assert offset == 0  # one table: no class to move to
    assert left < -15 and above > -1


def test_lines_above_each_other_are_seen_from_above(rng, tmp_path):
    column = rng.random(COLUMNS) < 0.5
    codes = np.where(column, rng.integers(-8, 9, (ROWS, COLUMNS)), 0).astype(np.int32)
    path = file_of(codes, tmp_path / "columns.l2c")
    assert contexts.measure(path, above=True)[2] < -5 and contexts.measure(path, above=False)[2] > -1


def test_command(rng, tmp_path, capsys):
    path = file_of(rng.integers(-3, 4, (ROWS, COLUMNS)).astype(np.int32), tmp_path / "model.l2c")
    assert contexts.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| model | 2.8")
    assert contexts.main([str(tmp_path / "none.l2c")]) == 1
    assert contexts.main([]) == 2
