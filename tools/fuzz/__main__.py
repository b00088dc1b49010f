"""Fuzz all targets and print what became of it.

    python -m tools.fuzz --minutes 60 [--target NAME ...] [--folder FOLDER]

Needs atheris, in an environment that has this package (pip install atheris). The minutes are shared by the targets.
FOLDER keeps inputs that reached something new, and a later run goes on from them; finds are in FOLDER/finds, each with
what is known of it. An input that ends the process, by a signal or by taking too long, is a find too, and the target
goes on. "Edges" are those of the packages' Python code, kernels not among them, that atheris counts. Exits with 1 if
there are finds. Environment variables count: L2FMT_KERNEL=plain, NUMBA_BOUNDSCHECK=1. Linux only.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tools.fuzz.engine import Journal, keep_as
from tools.fuzz.targets import TARGETS

_ROOT = Path(__file__).parents[2]
_COVERAGE = re.compile(r"\bcov: (\d+)")
_PLACE = re.compile(r"(?<=most recent call first\):\n)  File .*")  # as faulthandler writes it
_SHORTEST = 3  # seconds that are worth another process
_PATIENCE = 900  # seconds: somebody may have paused a process for a while


def main() -> int:
    """Run the targets asked for, by default all, and print a row for each."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="default: build/fuzz")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print("| target | executions | accepted | edges | finds | seconds |\n|---|---|---|---|---|---|", flush=True)
    totals = [0, 0, 0]
    for name in names:
        start = time.monotonic()
        executed, accepted, edges, finds = fuzz(name, arguments.folder, 60 * arguments.minutes / len(names))
        totals = [sum(pair) for pair in zip(totals, (executed, accepted, finds), strict=True)]
        seconds = time.monotonic() - start
        print(f"| {name} | {executed:,} | {accepted:,} | {edges:,} | {finds} | {seconds:.0f} |", flush=True)
    print("| all | {:,} | {:,} | | {} | |".format(*totals))
    return int(totals[2] > 0)


def fuzz(name: str, folder: Path, seconds: float) -> tuple[int, int, int, int]:
    """Fuzz one target; return how many inputs were run and accepted, the edges reached and the number of finds."""
    journal_path, log = folder / f"{name}.journal", folder / f"{name}.log"
    journal_path.unlink(missing_ok=True)
    journal, end, edges = Journal(journal_path), time.monotonic() + seconds, 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "codec")])}
    left = seconds
    while True:
        command = [sys.executable, "-m", "tools.fuzz.engine", name, str(folder.resolve()), str(max(int(left), 1))]
        with log.open("wb") as output:
            status = _exit_status(
                subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=output, stderr=output), left
            )
        said = log.read_text(encoding="utf-8", errors="replace")
        edges = max([edges, *map(int, _COVERAGE.findall(said))])
        if status != 0:
            _, _, data = journal.read()
            if not data:
                raise SystemExit(f"target {name} could not be run, see {log}:\n{said[-2000:]}")
            place = _PLACE.search(said)
            keep_as(folder, name, f"exit status {status} {place and place[0]}", data, said[-20000:])
        left = end - time.monotonic()
        if left < _SHORTEST:
            break
    executed, accepted, _ = journal.read()
    finds = list((folder / "finds" / name).glob("*.txt"))
    return executed, accepted, edges, len(finds)


def _exit_status(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for a process that should end after so many seconds, and end it if it does not."""
    try:
        return process.wait(max(seconds, 0) + _PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
