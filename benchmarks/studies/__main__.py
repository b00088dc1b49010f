"""The studies of the L2 publication and two more, each one command that writes a CSV file and prints a table.

    python -m benchmarks.studies transforms [--preset fast] [--models resnet20] [--seeds 0 1 2] [-o results]

A study that was stopped goes on where it was when its command is given again; only `coders`, which trains nothing
unless told to, starts anew.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.rows import Row, means, write_rows
from benchmarks.accuracy.sweep import add_common_arguments, calibrates, guarded, plan, sweep
from benchmarks.studies import coders
from benchmarks.studies.plans import STUDIES, Choice
from benchmarks.studies.tables import table, with_phases
from l2fmt.errors import InputError
from l2fmt.optimize import method_names


def run_study(name: str, choice: Choice, output: Path, keep: Path | None) -> str:
    """Measure what the study's file has not, and return its table."""
    study = STUDIES[name]
    rows = sweep(study.runs(choice), output / f"{name}.csv", keep)
    columns = list(study.columns)
    if study.phases:
        rows, phases = with_phases(rows)
        columns += phases
    else:
        rows = means(rows)
    columns += ["note"] if any(row["note"] for row in rows) else []
    return table(rows, columns)


def run_coders(choice: Choice, method: str, output: Path) -> str:
    """Measure the coders, and return their table."""
    runs = plan(
        choice.models,
        [method],
        choice.ratios or coders.RATIOS,
        preset=choice.preset,
        options=choice.options if calibrates(method) else {},
        seeds=choice.seeds,
        calibration_count=choice.calibration_count,
    )
    rows: list[Row] = []
    for run in runs:
        rows += coders.measure(run)
        write_rows(output / "coders.csv", coders.FIELDS, rows)
        print(f"{run.model} at {run.ratio:g}x", file=sys.stderr)
    return table(rows, coders.COLUMNS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    names = {name: study.summary for name, study in STUDIES.items()}
    names["coders"] = "Huffman, range and rANS coding against the entropy of the codes"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies",
        description=__doc__,
        epilog="studies:\n" + "\n".join(f"  {name:18s}{summary}" for name, summary in names.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=names, metavar="STUDY")
    add_common_arguments(parser, ["resnet20"])
    parser.add_argument("--method", default="rd", choices=method_names(), help="of coders, for the codes (default: rd)")
    default = Path(__file__).parents[1] / "results"
    parser.add_argument("-o", "--output", type=Path, default=default, metavar="FOLDER", help="for STUDY.csv")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)

    def work() -> None:
        ratios = given.ratios or ()
        if any(ratio <= 0 for ratio in ratios):
            raise InputError("all ratios must be positive")
        given.output.mkdir(parents=True, exist_ok=True)
        choice = Choice(given.models, ratios, given.preset, given.seeds, given.calibration_count, dict(given.set))
        if given.study == "coders":
            print(run_coders(choice, given.method, given.output))
        else:
            print(run_study(given.study, choice, given.output, given.keep))

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
