"""A Markdown table of sweeps: methods across, networks and ratios down.

    python -m benchmarks.accuracy.table benchmarks/results/methods.csv [MORE.csv ...]

A cell is the figure from the file at that ratio, the best of a line in bold; "–" stands for a row that was not
measured, "†" for one that could not be met. Seeds are averaged. Methods with optional data have a column without
("data-free") and one with. `--columns` names those that are shown, by default all.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from l2fmt.errors import InputError
from l2fmt.optimize import get_method

from .rows import Row, means, read_rows


def column_of(row: Mapping[str, str]) -> str:
    """Return the heading of a row's column: its method, preset and tag, and whether there were data if they may be."""
    name = row["method"]
    if get_method(name).data == "optional":
        name += " data-free" if row["calibration_count"] in ("", "0") else " with data"
    return " ".join(filter(None, (name, row["preset"], row["tag"])))


def pivot(rows: Sequence[Row], shown: Sequence[str] = ()) -> str:
    """Return the table of rows, with the columns shown or all; of two rows for one cell the later counts.

    Raises InputError for a column that no row has.
    """
    cells: dict[tuple[str, float], dict[str, str]] = {}
    columns: dict[str, None] = {}
    full = {}
    for row in means(rows):
        column = column_of(row)
        if shown and column not in shown:
            continue
        columns[column] = None
        full[row["model"]] = f"{row['model']} ({row['metric']} {row['full_precision']})"
        cells.setdefault((row["model"], float(row["target"])), {})[column] = row["value"] or "†"
    if missing := set(shown) - set(columns):
        raise InputError(f"no row has the column {', '.join(sorted(missing))}")
    columns = dict.fromkeys(shown) or columns
    models = list(full)
    lines = ["| network | ratio | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for model, target in sorted(cells, key=lambda key: (models.index(key[0]), key[1])):
        line = cells[model, target]
        most = max((float(value) for value in line.values() if value != "†"), default=None)
        values = [line.get(column, "–") for column in columns]
        values = [f"**{v}**" if v not in "†–" and float(v) == most else v for v in values]
        lines.append(" | ".join([f"| {full[model]}", f"{target:g}", *values]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="CSV")
    parser.add_argument("--columns", nargs="+", default=[], metavar="COLUMN")
    given = parser.parse_args(arguments)
    missing = [str(path) for path in given.results if not path.is_file()]
    if missing:
        print(f"error: there is no file {', '.join(missing)}", file=sys.stderr)
        return 1
    try:
        print(pivot([row for path in given.results for row in read_rows(path)], given.columns))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
