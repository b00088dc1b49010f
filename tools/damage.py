"""Turn every bit of every valid test vector, and cut each file everywhere: whatever comes of it must be refused.

    python -m tools.damage [--every 1]

Prints how many damaged files were refused; exits with 1 and names the damage if one was read. `--every N` damages one
place in N.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from l2fmt.errors import FormatError
from l2fmt.report import verify

VECTORS = Path(__file__).parents[1] / "spec" / "vectors"


def damages(data: bytes, every: int = 1) -> Iterator[tuple[str, int, bytes]]:
    """Yield (kind, place, damaged bytes) for every bit that is turned and every length that is cut off at."""
    for bit in range(0, 8 * len(data), every):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield "bits turned", bit, bytes(damaged)
    for length in range(0, len(data), every):
        yield "truncations", length, data[:length]


def is_refused(data: bytes) -> bool:
    """Whether a file is refused by its structure and its checksums, before a symbol is decoded."""
    try:
        verify(data, structure_only=True)
    except FormatError:
        return True
    return False


def main() -> int:
    """Damage all valid files, print the counts and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.damage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="damage one place in N")
    every = parser.parse_args().every
    manifest = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
    files = [entry["file"] for kind in ("valid", "shards") for entry in manifest[kind]]
    refused: Counter[str] = Counter()
    for file in files:
        for kind, place, damaged in damages((VECTORS / file).read_bytes(), every):
            if not is_refused(damaged):
                print(f"{file} is read with {kind} at {place}", file=sys.stderr)
                return 1
            refused[kind] += 1
    print(f"{len(files)} files: {', '.join(f'{number:,} {kind}' for kind, number in refused.items())}, all refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
