"""No byte of a stream makes a kernel read or write where it must not, and it refuses what the reference refuses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2codec import KernelError, Values
from l2codec.cuda import Status
from l2codec.cuda.decoding import Points
from tests.codec.conftest import build
from tests.cuda import cases, shim
from tests.cuda.cases import Check
from tests.cuda.device import ShimDevice

ROOT = Path(__file__).parents[2]
SEEDS = 120


def test_damaged_streams_under_sanitizers(streams):
    assert shim.COMPILER is not None  # the test is skipped without
    runtime = subprocess.run([shim.COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip("g++ has no address sanitizer")
    environment = os.environ | {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "codec")]),
    }
    command = [sys.executable, "-m", "tests.cuda.sanitized", "0", str(SEEDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    damaged, refused = map(int, done.stdout.split())
    assert damaged > 4 * SEEDS and refused > damaged // 2
    streams["damaged, under sanitizers"] += damaged


def test_the_status_says_what_is_wrong():
    case = build("rans", 12, 8, 1, 4, 8, 200, 1)
    data, points = case.encode(), cases.points_of(case, 100)
    far = points.points.copy()
    far[0, 0] = 0xFFFFFFFF
    low_state = data[:4] + bytes([255, 255, 0, 0]) + data[8:]
    device = ShimDevice()
    for bad, given, expected in (
        (data, None, []),
        (data, points, []),
        (data[:-1], None, [(0, Status.BAD_LENGTH)]),
        (low_state, None, [(0, Status.BAD_STATE)]),
        (data[:-2], None, [(0, Status.TOO_SHORT)]),
        (data + bytes(2), None, [(0, Status.TOO_LONG)]),
        (data, Points(100, far), [(0, Status.WRONG_POINT), (100, Status.BAD_POINT)]),
    ):
        values = Values(np.zeros(200, np.uint8), 0)
        good, wrong = (
            Check("", cases.stream_of(case), values, b""),
            Check("", cases.stream_of(case, bad), values, b"", given),
        )
        found = cases.decode(device, [good, wrong])
        assert [(failure.symbol, failure.status) for failure in found] == expected
        assert {failure.stream for failure in found} <= {1}


def test_work_that_a_kernel_leaves_undone_is_noticed():
    case = build("rans", 12, 8, 1, 4, 8, 200, 1)
    check = Check("", cases.stream_of(case), Values(np.zeros(200, np.uint8), 0), b"")
    with pytest.raises(KernelError, match="undone"):
        cases.decode(ShimDevice(patch=("if (threadIdx.x % WARP == 0) status[i]", "if (count == 0) status[i]")), [check])
