"""No byte of a stream makes a kernel read or write where it must not, and it refuses what the reference refuses."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import l2codec
from l2codec import Values
from l2codec.cuda import Status
from tests.codec.conftest import build
from tests.cuda import shim
from tests.cuda.device import Device, decoding

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
    data, model = case.encode(), (case.symbols.size, case.tables, case.classes)
    points = l2codec.resume_points(data, *model, **case.layout, interval=100)
    far = points.copy()
    far[0, 0] = 0xFFFFFFFF
    resume: dict[str, Any] = {"interval": 100, "points": far}
    low_state = data[:4] + bytes([255, 255, 0, 0]) + data[8:]
    device, out = Device(), np.zeros(200, np.uint8)
    for bad, options, first, last in (
        (data, {}, Status.GOOD, Status.GOOD),
        (data[:-1], {}, Status.BAD_LENGTH, Status.BAD_LENGTH),
        (low_state, {}, Status.BAD_STATE, Status.BAD_STATE),
        (data[:-2], {}, Status.TOO_SHORT, Status.TOO_SHORT),
        (data + bytes(2), {}, Status.TOO_LONG, Status.TOO_LONG),
        (data, resume, Status.WRONG_POINT, Status.BAD_POINT),
    ):
        launch = decoding("rans", bad, Values(out, 0), case.tables, case.classes, case.layout, **options)
        device.prepare([launch])
        found = device.run(launch)
        assert (found[0], found[-1]) == (first, last)
