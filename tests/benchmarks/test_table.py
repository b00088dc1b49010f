"""The table of methods beside each other."""

from benchmarks.accuracy import rows, table

EMPTY = dict.fromkeys(("preset", "options", "tag", "seed", "calibration_count", "note"), "")


def row(method: str, target: str, value: str, **more: str) -> rows.Row:
    asked = {"model": "m", "method": method, "target": target, "metric": "top1", "full_precision": "90"}
    return dict.fromkeys(rows.FIELDS, "1" if value else "") | EMPTY | asked | {"value": value} | more


ROWS = [
    row("rd", "10", "89.00"),
    row("rd", "12", "80.00"),
    row("l2", "10", "89.50", preset="fast", seed="0"),
    row("l2", "10", "88.50", preset="fast", seed="1"),
    row("pnmq", "10", "70.00", calibration_count="0"),
    row("pnmq", "10", "", calibration_count="1000", note="cannot be reached"),
    row("rd", "12", "81.00", options='{"norm_exponent":1}'),
]


def test_cells_are_means_over_seeds_and_the_last_of_a_column() -> None:
    lines = table.pivot(ROWS).splitlines()
    assert lines[0] == "| network | ratio | rd | l2 fast | pnmq data-free | pnmq with data |"
    assert lines[2:] == [
        "| m (top1 90) | 10 | **89.00** | **89.00** | 70.00 | † |",
        "| m (top1 90) | 12 | **81.00** | – | – | – |",
    ]


def test_columns_can_be_chosen(tmp_path, capsys) -> None:
    path = tmp_path / "rows.csv"
    for one in ROWS:
        rows.append(path, one)
    assert table.main([str(path), "--columns", "pnmq data-free", "rd"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "| network | ratio | pnmq data-free | rd |"
    assert out[2] == "| m (top1 90) | 10 | 70.00 | **89.00** |"
    assert table.main([str(path), "--columns", "best"]) == 1
    assert capsys.readouterr().err == "error: no row has the column best\n"
