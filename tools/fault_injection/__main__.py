"""Inject faults and count what became of the model.

    python -m tools.fault_injection [SCENARIO ...] [--count 1000] [--seed 0] [--json]

Every scenario runs in a folder of its own, and `--count` says how many faults it injects, or files it reads; those that
fail each system call in turn end with the last one. Prints a row of a table for each scenario, and exits with 1 at the
first promise that is not kept, naming the fault. Linux only. "strays" are hidden files that a killed writer left.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tools.fault_injection import load, reading, writing
from tools.fault_injection.injection import BrokenPromiseError

SCENARIOS: dict[str, Callable[[Path, int, int], Counter[str]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        writing.kills_at_every_call,
        writing.kills_at_any_time,
        writing.kills_of_shards,
        writing.errors_at_every_call,
        writing.errors_in_shards,
        writing.file_size_limits,
        writing.full_disk,
        reading.read_errors,
        reading.changes_while_open,
        reading.signals,
        reading.replacing,
        reading.threads_on_one_file,
        reading.little_memory,
        reading.maps_nothing,
        load.open_read_close,
        load.larger_than_memory,
    )
}


def main() -> int:
    """Run the scenarios asked for, by default all, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fault_injection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each scenario instead")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {min(unknown)}")
    if not arguments.json:
        print("| scenario | what became of it | seconds |\n|---|---|---|")
    for name in arguments.scenarios or SCENARIOS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="l2fmt-faults-") as folder:
            try:
                outcomes = SCENARIOS[name](Path(folder), arguments.count, arguments.seed)
            except BrokenPromiseError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
        if arguments.json:
            print(json.dumps({"scenario": name, **outcomes}), flush=True)
        else:
            counts = ", ".join(f"{number:,} {what}" for what, number in outcomes.items())
            print(f"| {name} | {counts or 'not possible here'} | {time.monotonic() - start:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
