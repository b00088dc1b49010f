"""How much of a change of YOLOv5n's mAP is a matter of the 128 pictures: the same files on other forms of them.

    python -m benchmarks.studies.picture_forms FILE.l2c... [--split calib] [--limit N]

For each file, mAP@.5:.95 x100 less that of the full model, on the pictures as they are tested, mirrored, and scaled to
other sizes, and the mean of these differences. Pictures of `calib`, on which files are calibrated, have labels too.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

import l2fmt
from benchmarks.accuracy import yolov5
from benchmarks.accuracy.common import read_tensors
from benchmarks.accuracy.data import DataNotFoundError
from benchmarks.accuracy.models import MODELS
from l2fmt.errors import L2Error

FORMS = [(size, mirrored) for size in (yolov5.SIZE, 576, 704) for mirrored in (False, True)]  # pixels of the long side


def precisions(tensors: Mapping[str, Tensor], split: str, limit: int | None) -> list[float]:
    """Return mAP@.5:.95 x100 on each form of the pictures."""
    return [yolov5.evaluate(tensors, limit, split, size, mirrored)["map50_95"] for size, mirrored in FORMS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of Markdown for the full model and each file; return 1 where files or data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.picture_forms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.l2c")
    parser.add_argument("--split", choices=("val", "calib"), default="val")
    parser.add_argument("--limit", type=int, metavar="N", help="of the pictures, the first N")
    given = parser.parse_args(arguments)
    try:
        full = precisions(read_tensors(MODELS["yolov5n"].checkpoint()), given.split, given.limit)
        names = [f"{size}{' mirrored' if mirrored else ''}" for size, mirrored in FORMS]
        print(f"| file | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|", _line("full", full), sep="\n")
        for path in given.files:
            found = precisions(l2fmt.load_file(path), given.split, given.limit)
            print(_line(path.name, [a - b for a, b in zip(found, full, strict=True)]), flush=True)
    except (DataNotFoundError, L2Error, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _line(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.2f}' for value in [*values, sum(values) / len(values)])} |"


if __name__ == "__main__":
    sys.exit(main())
