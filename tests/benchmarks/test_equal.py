"""The table of ratios at equal accuracy."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks.accuracy import equal
from benchmarks.accuracy.plots import Point
from benchmarks.accuracy.rows import FIELDS, Run, append


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(ratio, value, value, value, 1) for ratio, value in pairs]


@pytest.mark.parametrize(
    ("curve", "value", "found"),
    [
        (points((8, 91), (10, 90), (12, 86)), 88, ("", 11)),
        (points((8, 91), (10, 90), (12, 86)), 90, ("", 10)),
        (points((8, 91), (10, 86), (12, 90), (14, 88)), 89, ("", 13)),  # the highest of several
        (points((8, 91), (10, 90)), 89, (">", 10)),
        (points((8, 91), (10, 90)), 92, ("<", 8)),
    ],
)
def test_where_a_curve_has_a_value(curve, value, found):
    assert equal.ratio_at(curve, value) == found


def test_table(tmp_path, capsys):
    path = tmp_path / "rows.csv"

    def add(method: str, ratio: float, value: str, **options: object) -> None:
        run = Run("tiny", method, ratio, options=options, seed=0, calibration_count=64)
        measured = {"metric": "top1", "full_precision": "92", "value": value, "ratio": f"{ratio:.3f}"}
        append(path, dict.fromkeys(FIELDS, "") | run.key | measured)

    add("best", 20, "90.0", effort=3)
    add("best", 30, "")
    add("obs", 10, "91.0")
    add("obs", 20, "89.0")
    add("l2", 8, "89.5", batch_size=8)
    add("l2", 8, "93.0", batch_size=16)
    assert equal.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| network | best | ratio | accuracy | l2 | obs |",
        "|---|---|---|---|---|---|",
        '| tiny | {"effort":3} | 20.000 | 90.0 | >8.0 | 15.0 (-25 %) |',
    ]
    assert equal.main([str(tmp_path / "none.csv")]) == 1
