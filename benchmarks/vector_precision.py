"""What rounding the vectors of a model to fewer mantissa bits costs, all else lossless.

    python -m benchmarks.vector_precision [-o results/vector_precision.csv] [--models ...] [--bits 3 4 5 6 7 8 9]

Shows why `pack` keeps the number of bits it keeps without data (`l2fmt.plan.VECTOR_MANTISSA_BITS`).
"""

import argparse
import csv
import sys
from pathlib import Path

import l2fmt
from benchmarks.accuracy.models import MODELS
from l2fmt import plan

FIELDS = ("model", "bits", "metric", "value", "full_precision")


def main() -> None:
    """Measure and write one row a model and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "vector_precision.csv")
    parser.add_argument("--models", nargs="+", default=sorted(MODELS), choices=sorted(MODELS))
    parser.add_argument("--bits", nargs="+", type=int, default=[3, 4, 5, 6, 7, 8, 9])
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for name in arguments.models:
            model = MODELS[name]
            for bits in arguments.bits:
                plan.VECTOR_MANTISSA_BITS = bits
                data = l2fmt.pack(model.checkpoint(), exclude=["*"]).data or b""
                value = model.evaluate(l2fmt.load(data))[model.primary]
                full = model.full_precision[model.primary]
                writer.writerow((name, bits, model.primary, f"{value:.2f}", f"{full:.2f}"))
                file.flush()
                print(f"{name}: {bits} bits, {model.primary} {value:.2f} of {full:.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
