"""Check what a wheel would put on a user's machine: python tools/check_wheel.py dist/*.whl."""

import sys
import zipfile
from pathlib import Path

PACKAGES = {"l2fmt", "l2codec"}
REQUIRED = {
    "l2codec/__init__.py",
    "l2codec/cuda/common.cuh",
    "l2codec/cuda/rans_decode.cu",
    "l2codec/py.typed",
    "l2fmt/__init__.py",
    "l2fmt/demo/digits.safetensors",
    "l2fmt/py.typed",
}


def problems(wheel: Path) -> list[str]:
    """Return a sentence for each top-level name that must not be there and each file or name that is missing."""
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    metadata = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    expected = {*PACKAGES, metadata}
    found = {name.partition("/")[0] for name in files}
    return [
        *(f"unexpected top-level name {name}" for name in sorted(found - expected)),
        *(f"missing top-level name {name}" for name in sorted(expected - found)),
        *(f"missing file {name}" for name in sorted(REQUIRED - files)),
    ]


def main(arguments: list[str]) -> int:
    """Check each wheel named and return the exit code."""
    if not arguments:
        print("usage: check_wheel.py WHEEL...", file=sys.stderr)
        return 2
    failed = False
    for wheel in map(Path, arguments):
        found = problems(wheel)
        failed |= bool(found)
        print(f"{wheel.name}: {'; '.join(found) or 'ok'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
