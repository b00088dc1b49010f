"""Accuracy against size of models x methods x ratios, evaluated from the file: one row of a CSV file each.

    python -m benchmarks.accuracy.sweep --models resnet20 --methods rd l2 --ratios 10 12 -o results/sweep.csv

Each row packs a checkpoint into a file, verifies it, loads it, and evaluates the loaded tensors on the whole test set.
Before a row is measured, the command that measures it alone goes to stderr. Rows that the file has are not measured
again, those with a note included; equal commands that run at once share the rows out. benchmarks/README.md explains
the columns.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

import l2fmt
from benchmarks.environment import environment
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError, L2Error
from l2fmt.optimize import get_method, method_names
from l2fmt.report import Inspection

from .calibration import build, calibration
from .data import DataNotFoundError
from .models import MODELS
from .rows import Row, Run, append, claim, key_of, read_rows, read_setting

CALIBRATION_COUNT = 1000
_MEASURED = ("ratio", "weights_ratio", "file_bytes", "estimated_bytes", "value", "drop", "seconds", "phases")


def calibrates(method: str) -> bool:
    """Whether a method takes a module and calibration data; the others get the checkpoint alone."""
    return get_method(method).data != "never"


def plan(
    models: Iterable[str],
    methods: Iterable[str],
    ratios: Iterable[float],
    *,
    preset: str = "",
    options: Mapping[str, Any] | None = None,
    tag: str = "",
    seeds: Sequence[int] = (0,),
    calibration_count: int = CALIBRATION_COUNT,
) -> list[Run]:
    """Return the rows of a sweep, the ratios of a model and method in turn; raise InputError for an unknown method.

    Preset, seeds and calibration are for methods that take data; the others have one row a ratio. Those that draw
    nothing have no seed. A calibration count of 0 leaves the data out.
    """
    methods, ratios, runs = list(methods), list(ratios), []
    calibrated = {method: calibrates(method) for method in methods}
    for model in models:
        for method in methods:
            for ratio in ratios:
                run = Run(model, method, ratio, options=dict(options or {}), tag=tag)
                if not calibrated[method]:
                    runs.append(run)
                    continue
                drawn = seeds if "seed" in get_method(method).settings else (None,)
                runs += [Run(model, method, ratio, preset, run.options, tag, seed, calibration_count) for seed in drawn]
    return runs


def packing(run: Run) -> dict[str, Any]:
    """Return what a row says of how to pack, as arguments of `l2fmt.pack`. Raises InputError, DataNotFoundError."""
    given: dict[str, Any] = {"target_ratio": run.ratio, "method": run.method}
    given |= {"options": run.settings} if run.settings else {}
    if calibrates(run.method):
        given["module"] = build(run.model)
        if run.calibration_count:
            given["calibration"] = calibration(run.model, run.calibration_count)
    return given


def measure(run: Run, keep: Path | None = None) -> Row:
    """Pack, verify, load and evaluate one row; with `keep`, the file stays in that folder.

    An L2Error on the way becomes a row with a note and no value. Raises DataNotFoundError.
    """
    model = MODELS[run.model]
    made_with = environment()
    full = model.full_precision[model.primary]
    row = run.key | {
        "metric": model.primary,
        "full_precision": f"{full:.2f}",
        "commit": str(made_with["commit"]),
        "machine": f"{made_with['processor']}, {made_with['cores']} cores",
        "threads": str(torch.get_num_threads()),
    }
    with tempfile.TemporaryDirectory() as temporary:
        path = (keep or Path(temporary)) / run.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            result = l2fmt.pack(model.checkpoint(), path, overwrite=True, progress=Report(), **packing(run))
            l2fmt.verify(path)
            tensors, inspection = l2fmt.load_file(path), l2fmt.inspect(path, sparsity=False)
        except L2Error as error:
            return dict.fromkeys(_MEASURED, "") | row | {"note": " ".join(str(error).split())}
    value = model.evaluate(tensors)[model.primary]
    phases = {name: round(seconds, 2) for name, seconds in result.phases.items()}
    return row | {
        "ratio": f"{result.ratio:.3f}",
        "weights_ratio": f"{weights_ratio(inspection):.3f}",
        "file_bytes": str(result.file_bytes),
        "estimated_bytes": "" if result.estimated_bytes is None else str(result.estimated_bytes),
        "value": f"{value:.2f}",
        "drop": f"{full - value:.2f}",
        "seconds": f"{result.seconds:.1f}",
        "phases": json.dumps(phases) if phases else "",
        "note": "",
    }


class Report:
    """Says on stderr, twice a minute, how far a row is."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, stage: str, done: float) -> None:
        if time.monotonic() - self._last > 30:
            self._last = time.monotonic()
            print(f"    {done:4.0%} {stage}", file=sys.stderr, flush=True)


def weights_ratio(inspection: Inspection) -> float:
    """Return the bytes of the quantized tensors as given over those of their groups and of all tables of the file."""
    rows = [row for row in inspection.tensors if row.kind == "weights"]
    given = sum(prod(row.shape) * DTYPES[row.dtype].itemsize for row in rows)
    return given / (sum(row.bytes for row in rows) + inspection.parts["tables"])


def sweep(runs: Sequence[Run], output: Path, keep: Path | None = None) -> list[Row]:
    """Measure what `output` has not, one row at a time, and return its rows of these runs in their order.

    A row that another process is at is left to it, and is not among those returned. Raises InputError,
    DataNotFoundError.
    """
    for number, run in enumerate(runs, 1):
        with claim(output, run) as free:
            if not free or key_of(run.key) in map(key_of, read_rows(output)):
                continue
            print(f"[{number}/{len(runs)}] {run.command(output, keep, torch.get_num_threads())}", file=sys.stderr)
            row = measure(run, keep)
            append(output, row)
        result = row["note"] or (
            f"{row['ratio']}x, {row['metric']} {row['value']} ({-float(row['drop']):+.2f}), {row['seconds']} s"
        )
        print(f"[{number}/{len(runs)}] {run.model}, {run.method}: {result}", file=sys.stderr)
    found = {key_of(row): row for row in read_rows(output)}
    return [found[key] for run in runs if (key := key_of(run.key)) in found]


def add_common_arguments(parser: argparse.ArgumentParser, models: Sequence[str]) -> None:
    """Add the arguments that sweeps and studies share."""
    parser.add_argument("--models", nargs="+", default=list(models), choices=sorted(MODELS), metavar="MODEL")
    parser.add_argument("--ratios", nargs="+", type=float, metavar="RATIO", help="of whole files")
    parser.add_argument("--preset", default="", help="of methods that train (default: the method's own)")
    parser.add_argument(
        "--set", nargs="+", type=read_setting, default=[], action="extend", metavar="KEY=VALUE", help="for every method"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of methods that train")
    parser.add_argument("--calibration-count", type=int, default=CALIBRATION_COUNT, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the packed files there")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="processor threads (default: 2)")


def guarded(work: Any) -> int:
    """Call `work`, and return the exit status: 1 with a sentence for an expected error, 130 after Ctrl-C."""
    try:
        work()
    except (L2Error, DataNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; finished rows are kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_arguments(parser, ["resnet20"])
    parser.add_argument("--methods", nargs="+", default=["rd"], choices=method_names(), metavar="METHOD")
    parser.add_argument("--tag", default="", help="a name for these settings")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.csv")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)

    def work() -> None:
        if not given.ratios or min(given.ratios) <= 0:
            raise InputError("--ratios needs at least one ratio, all of them positive")
        runs = plan(
            given.models,
            given.methods,
            given.ratios,
            preset=given.preset,
            options=dict(given.set),
            tag=given.tag,
            seeds=given.seeds,
            calibration_count=given.calibration_count,
        )
        sweep(runs, given.output, given.keep)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
