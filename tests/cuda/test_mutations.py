"""A kernel that lacks a barrier, or whose warps are not together, is found out: the simulated device is no sham."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2codec.cuda import MODULES, read_source

ROOT = Path(__file__).parents[2]

# What is changed: the text, what takes its place, and a word of the error if it must be noticed as such.
COPIED = "        __syncthreads();\n        return shared;"
SUMMED = "    __syncthreads();\n    u32 before = 0;"
LISTED = "            __syncthreads();\n            const u32 part"
BARRIER = "__syncthreads();\n"
MUTATIONS = {
    "no barrier after the tables are copied": (COPIED, COPIED.replace(BARRIER, ""), ""),
    "no barrier between sums of warps": (SUMMED, SUMMED.replace(BARRIER, ""), ""),
    "no barrier before symbols are filled in": (LISTED, LISTED.replace(BARRIER, ""), ""),
    "barrier that some threads do not reach": (COPIED, COPIED.replace(BARRIER, "if (threadIdx.x) " + BARRIER), ""),
    "divergent ballot of a decoder": (
        "const u32 renewing = __ballot_sync(ALL_LANES, renew) & lanes;",
        "u32 renewing = 0;\n    if (renew) renewing = __ballot_sync(ALL_LANES, true) & lanes;",
        "lanes",
    ),
    "divergent shuffle": (
        "const u32 renewed = words.append(state, __popc(renewing & before));\n    if (renew) state = renewed;",
        "if (renew) state = words.append(state, __popc(renewing & before));",
        "lanes",
    ),
    "ballot that leaves lanes out": ("__ballot_sync(ALL_LANES, renew) & lanes", "__ballot_sync(lanes, renew)", "mask"),
    "divergent ballot of an encoder": (
        "const u32 emitting = __ballot_sync(ALL_LANES, emit);",
        "u32 emitting = 0;\n        if (emit) emitting = __ballot_sync(ALL_LANES, true);",
        "lanes",
    ),
}


def errors(old: str = "", new: str = "") -> list[str]:
    """Return what tests.cuda.mutated finds in a process of its own, which a mutation may well bring down."""
    command = [sys.executable, "-m", "tests.cuda.mutated", old, new]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "codec")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment, cwd=ROOT)
    assert done.returncode <= 0, done.stderr  # not an error of Python's; below 0 a signal
    return json.loads(done.stdout) if done.returncode == 0 else [f"signal {-done.returncode}"]


def test_nothing_is_wrong_without_a_mutation():
    assert errors() == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_noticed(name):
    old, new, word = MUTATIONS[name]
    assert any(old in read_source(module) for module in MODULES)
    found = errors(old, new)
    assert found and any(word in error for error in found), found
