"""The ratios at which methods have the accuracy of another, from the rows of sweeps.

    python -m benchmarks.accuracy.equal benchmarks/results/{best,obs,l2,methods}.csv [--method best]

A line of the table is a row of the method. Under each other method stands the highest ratio at which its curve, drawn
straight between its rows, still has that accuracy, and how much smaller the file is than one at that ratio: ">" before
the last ratio of a curve that is nowhere below, "<" before the first of one that does not come up to it. Of several
rows of one seed the last counts. Where test sets are small these figures show chance as much as methods.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.plots import Point, label, lines_of, read
from benchmarks.accuracy.table import column_of
from l2fmt.errors import L2Error


def ratio_at(points: Sequence[Point], value: float) -> tuple[str, float]:
    """Return the highest ratio at which a line, its points in order, has a value, after ">", "<" or nothing."""
    reaching = [number for number, point in enumerate(points) if point.value >= value]
    if not reaching:
        return "<", points[0].ratio
    last = points[reaching[-1]]
    if last is points[-1]:
        return ">", last.ratio
    after = points[reaching[-1] + 1]
    share = (last.value - value) / (last.value - after.value)
    return "", last.ratio + share * (after.ratio - last.ratio)


def table(models: Mapping[str, Sequence[Mapping[str, str]]], method: str) -> list[str]:
    """Return the lines of a Markdown table."""
    curves = {
        model: lines_of([row for row in rows if row["method"] != method], column_of) for model, rows in models.items()
    }
    columns = list(dict.fromkeys(name for found in curves.values() for name in found))
    lines = [f"| network | {method} | ratio | accuracy | {' | '.join(columns)} |", "|---" * (len(columns) + 4) + "|"]
    for model, rows in models.items():
        for row in rows:
            if row["method"] == method and row["value"]:
                settings = label(row).removeprefix(method).lstrip(", ")
                found = [_cell(row, curves[model].get(name)) for name in columns]
                lines.append(f"| {model} | {settings} | {row['ratio']} | {row['value']} | {' | '.join(found)} |")
    return lines


def _cell(row: Mapping[str, str], points: Sequence[Point] | None) -> str:
    if not points:
        return "–"
    bound, ratio = ratio_at(points, float(row["value"]))
    smaller = f" ({100 * (ratio / float(row['ratio']) - 1):.0f} %)" if bound != ">" else ""
    return f"{bound}{ratio:.1f}{smaller}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.equal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE.csv")
    parser.add_argument("--method", default="best")
    given = parser.parse_args(arguments)
    try:
        print("\n".join(table(read(given.results), given.method)))
    except L2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
