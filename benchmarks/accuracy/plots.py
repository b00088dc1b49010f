"""Plots of accuracy against the ratio of the whole file, from the rows of sweeps: one picture a model.

    python -m benchmarks.accuracy.plots results/data_free.csv results/sweep.csv -o plots

A line is a method with its preset and tag; a point is the mean over seeds, its bar their range; of several rows of one
seed the last counts. What lies more than `--depth` points below full precision is marked at the lower edge with its
value.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.table import column_of
from l2fmt.errors import InputError, L2Error, MissingDependencyError

METRICS = {"top1": "top-1 accuracy, %", "map50_95": "mAP@.5:.95, x100", "spearman": "Spearman correlation, x100"}
MARKERS = "osD^vPX*"
LABELLED_LINES = 3  # more lines than these, and figures at their points would cover each other
DEPTH = 8.0


@dataclass(frozen=True)
class Point:
    """The rows of one line at one target: mean ratio, mean, lowest and highest value, number of seeds."""

    ratio: float
    value: float
    low: float
    high: float
    seeds: int


def label(row: Mapping[str, str]) -> str:
    """Return the name of the line a row belongs to, such as "l2 fast linear"; rows without a method are of `rd`."""
    given = {"method": "rd", "preset": "", "tag": "", "calibration_count": "", **row}
    return ", ".join(part for part in (column_of(given), "" if given["tag"] else given.get("options")) if part)


def lines_of(
    rows: Sequence[Mapping[str, str]], name_of: Callable[[Mapping[str, str]], str] = label
) -> dict[str, list[Point]]:
    """Return the points of each line in order of their ratio; rows without a value are left out."""
    grouped: dict[str, dict[str, dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["value"]:
            grouped[name_of(row)][row["target"]][row.get("seed", "")] = float(row["ratio"]), float(row["value"])
    lines = {}
    for name, targets in sorted(grouped.items()):
        points = []
        for found in targets.values():
            ratios, values = zip(*found.values(), strict=True)
            mean = sum(values) / len(values)
            points.append(Point(sum(ratios) / len(ratios), mean, min(values), max(values), len(values)))
        lines[name] = sorted(points, key=lambda point: point.ratio)
    return lines


def draw(model: str, rows: Sequence[Mapping[str, str]], path: Path, depth: float = DEPTH) -> None:
    """Draw the rows of one model into a PNG file; raise MissingDependencyError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'l2fmt[plot]'") from error
    lines = lines_of(rows)
    full = float(rows[0]["full_precision"])
    lowest = min(full, *(point.low for points in lines.values() for point in points))
    top = max(full, *(point.high for points in lines.values() for point in points))
    floor = max(lowest - 0.06 * (top - lowest) - 0.1, full - depth)
    crowded = len(lines) > LABELLED_LINES
    figure = Figure(figsize=(11 if crowded else 8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(full, color="0.35", linestyle="--", linewidth=1.2, label=f"full precision, {full:g}")
    best = max(lines, key=lambda name: sum(point.value for point in lines[name]) / len(lines[name]))
    falling = [name for name, points in lines.items() if any(point.value < floor for point in points)]
    for number, (name, points) in enumerate(lines.items()):
        _draw_line(axes, number, name, points)
        for point in points:
            if point.value < floor:
                axes.plot(point.ratio, floor, "v", color=f"C{number % 10}", markersize=7, clip_on=False, zorder=3)
                _annotate(axes, number, point, floor, 8 + 11 * falling.index(name))
            elif not crowded:
                high = name == best
                _annotate(axes, number, point, point.high if high else point.low, 6 if high else -13)
    axes.set_ylim(floor, top + 0.06 * (top - floor))
    axes.set_xlabel("bytes of the tensors as given / bytes of the whole file")
    axes.set_ylabel(METRICS.get(rows[0]["metric"], rows[0]["metric"]))
    axes.set_title(model)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if crowded:
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    else:
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 0.06))  # curves fall to the right
    figure.savefig(path)


def _draw_line(axes: Any, number: int, name: str, points: Sequence[Point]) -> None:
    seeds = max(point.seeds for point in points)
    ranges = [[point.value - point.low for point in points], [point.high - point.value for point in points]]
    axes.errorbar(
        [point.ratio for point in points],
        [point.value for point in points],
        ranges if seeds > 1 else None,
        color=f"C{number % 10}",
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linewidth=1.6,
        capsize=3,
        label=f"{name} ({seeds} seeds)" if seeds > 1 else name,
    )


def _annotate(axes: Any, number: int, point: Point, height: float, offset: int) -> None:
    """Write a point's value, `offset` printer's points above `height`, with a white rim against lines below it."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        f"{point.value:.1f}",
        (point.ratio, height),
        xytext=(0, offset),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=f"C{number % 10}",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=4,
    )


def read(paths: Sequence[Path]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of CSV files by model; raise InputError for a file without the columns that are drawn."""
    models: dict[str, list[dict[str, str]]] = defaultdict(list)
    needed = {"model", "target", "ratio", "metric", "value", "full_precision"}
    for path in paths:
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := needed - set(reader.fieldnames or ()):
                raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}")
            for row in reader:
                models[row["model"]].append(row)
    return models


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.plots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE.csv")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--depth", type=float, default=DEPTH, help=f"points below full precision (default: {DEPTH:g})")
    given = parser.parse_args(arguments)
    try:
        given.output.mkdir(parents=True, exist_ok=True)
        for model, rows in read(given.results).items():
            if any(row["value"] for row in rows):
                draw(model, rows, path := given.output / f"{model}.png", given.depth)
                print(path)
    except (L2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
