"""Accuracy against size of `pack` without data: one row a model and ratio, evaluated from the file.

    python -m benchmarks.data_free [-o results/data_free.csv] [--models resnet20 ...] [--ratios 4 6 8 10 12 | default]

Each row packs the checkpoint into a file, verifies it, loads it, and evaluates the loaded tensors on the whole test
set. The ratio is bytes of the tensors as given over bytes of the whole file. Rows that the output already has are not
measured again.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

import l2fmt
from benchmarks.accuracy.models import MODELS
from benchmarks.environment import environment

FIELDS = (
    "model",
    "target",
    "ratio",
    "file_bytes",
    "metric",
    "value",
    "full_precision",
    "drop",
    "pack_seconds",
    "commit",
)


def measure(name: str, target: str) -> dict[str, Any]:
    """Pack one model at a target ratio, or "default", and evaluate it."""
    model = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.l2c"
        ratio = None if target == "default" else float(target)
        result = l2fmt.pack(model.checkpoint(), path, target_ratio=ratio)
        l2fmt.verify(path)
        value = model.evaluate(l2fmt.load_file(path))[model.primary]
    full = model.full_precision[model.primary]
    return {
        "model": name,
        "target": target,
        "ratio": f"{result.ratio:.3f}",
        "file_bytes": result.file_bytes,
        "metric": model.primary,
        "value": f"{value:.2f}",
        "full_precision": f"{full:.2f}",
        "drop": f"{full - value:.2f}",
        "pack_seconds": f"{result.seconds:.1f}",
        "commit": environment()["commit"],
    }


def main() -> None:
    """Measure what is missing, one row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "data_free.csv")
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet32", "resnet56"], choices=sorted(MODELS))
    parser.add_argument("--ratios", nargs="+", default=["4", "6", "8", "10", "12"])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.output.exists():
        with arguments.output.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["model"], row["target"]) for row in rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        for target in arguments.ratios:
            if (name, target) in done:
                continue
            rows.append(row := measure(name, target))
            with arguments.output.open("w", newline="") as file:
                writer: csv.DictWriter[str] = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            print(
                f"{name} at {row['ratio']}: {row['metric']} {row['value']} (-{row['drop']}), {row['pack_seconds']} s",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
