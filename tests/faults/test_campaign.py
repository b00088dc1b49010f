"""A short run of the campaign of faults; `python -m tools.fault_injection` is the long one.

In a process of its own, which has no threads when it forks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are those of Linux")


def campaign(*arguments: object) -> dict[str, int]:
    """Run one scenario and return its counts; fail with the promise that was not kept."""
    line = [sys.executable, "-m", "tools.fault_injection", "--json", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "codec")])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scenario", ["kills-at-every-call", "kills-of-shards"])
def test_a_killed_writer_leaves_the_old_model_or_the_new_one(scenario):
    found = campaign(scenario, "--count", 8)
    assert found["old"] > 8 and sum(found.get(outcome, 0) for outcome in ("old", "new", "refused")) == 16


def test_a_writer_killed_at_any_time():
    found = campaign("kills-at-any-time", "--count", 12)
    assert found.get("old", 0) + found.get("new", 0) == 12


@pytest.mark.parametrize("scenario", ["errors-at-every-call", "errors-in-shards"])
def test_a_writer_that_fails_cleans_up(scenario):
    found = campaign(scenario, "--count", 5)
    assert found["typed errors"] >= found["old"] > 0
    assert found["old"] + found.get("new", 0) == 40


def test_files_that_may_not_grow():
    assert campaign("file-size-limits", "--count", 8)["typed errors"] == 8


def test_reads_that_fail():
    found = campaign("read-errors", "--count", 120)
    # A bit that is flipped in what the first read gives beyond the index does no harm: a group is read by itself.
    assert found["typed errors"] > 60 and found["read right"] >= 30
    assert found["typed errors"] + found["read right"] == 120


def test_files_that_change_while_open():
    found = campaign("changes-while-open", "--count", 30)
    assert found["typed errors"] > 0 and found["read right"] > 0
    assert found["typed errors"] + found["read right"] == 30 * 12


def test_files_that_are_replaced_while_others_read_them():
    found = campaign("replacing", "--count", 80)
    assert found["old"] > 0 and found["new"] > 0


def test_interrupted_calls_go_on():
    found = campaign("signals", "--count", 10)
    assert found["read right"] == 20 and found["signals"] > 0


def test_many_threads_read_one_file():
    assert campaign("threads-on-one-file", "--count", 64)["read right"] == 64 * 12


def test_little_memory():
    found = campaign("little-memory", "--count", 4)
    assert found["typed errors"] > 0 and found["read right"] > 0


def test_files_are_read_and_not_mapped():
    assert campaign("maps-nothing")["read right"] == 1


def test_nothing_leaks():
    assert campaign("open-read-close", "--count", 80)["read right"] == 160
