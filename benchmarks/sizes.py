"""Sizes of whole files, to the byte: models packed by `rd` and without loss.

    python -m benchmarks.sizes [--models digits resnet20] [--digests]

Measures these models, by default all that can be had, and replaces their rows of `sizes.csv` beside this file.
`--digests` prints the SHA-256 of each file instead, to compare what different Pythons or machines write.
`tests/test_sizes.py` packs the small ones again: a change that moves a size shows, and is then made on purpose by
running this again. An empty `ratio` is without loss.
"""

import argparse
import csv
import hashlib
import sys
from contextlib import nullcontext
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from benchmarks.accuracy.data import DataNotFoundError
from benchmarks.accuracy.models import MODELS
from l2fmt.api import pack

TABLE = Path(__file__).with_name("sizes.csv")
RATIOS = ("", "6", "8", "10", "12")
DIGITS = "digits"  # the model of `l2fmt demo`
_FIELDS = ("model", "ratio", "file_bytes")


def packed(model: str, ratio: str) -> bytes:
    """Pack a model and return its file; raises DataNotFoundError where the model is not to be had."""
    options: dict[str, Any] = {"target_ratio": float(ratio)} if ratio else {"lossless": True}
    demo = as_file(files("l2fmt.demo") / "digits.safetensors")
    with demo if model == DIGITS else nullcontext(MODELS[model].checkpoint()) as path:
        data = pack(path, **options).data
    assert data is not None  # there is no target
    return data


def read() -> dict[tuple[str, str], int]:
    """Return the table: (model, ratio) -> bytes."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {(row["model"], row["ratio"]): int(row["file_bytes"]) for row in csv.DictReader(file)}


def _write(sizes: dict[tuple[str, str], int]) -> None:
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_FIELDS)
        table.writerows((*key, size) for key, size in sizes.items())


def main() -> None:
    """Measure, and write the table after each model, or print digests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = [DIGITS, *MODELS]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--digests", action="store_true")
    arguments = parser.parse_args()
    for model in arguments.models:
        try:
            written = {ratio: packed(model, ratio) for ratio in RATIOS}
        except DataNotFoundError as error:
            print(error, file=sys.stderr)
            continue
        if arguments.digests:
            for ratio, data in written.items():
                print(model, ratio or "lossless", len(data), hashlib.sha256(data).hexdigest())
            continue
        found = {(model, ratio): len(data) for ratio, data in written.items()}
        sizes = (read() if TABLE.exists() else {}) | found
        _write({(m, r): sizes[m, r] for m in models for r in RATIOS if (m, r) in sizes})
        print(model, *found.values())


if __name__ == "__main__":
    main()
