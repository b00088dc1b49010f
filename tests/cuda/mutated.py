"""Runs kernels whose text is changed: python -m tests.cuda.mutated OLD NEW. Prints what goes wrong as a JSON list."""

import json
import sys

import numpy as np

from l2codec import Values
from l2codec.cuda import Form
from l2codec.cuda.encoding import encode
from tests.codec.conftest import build
from tests.cuda.cases import Check, decode, stream_of
from tests.cuda.device import ShimDevice
from tests.cuda.shim import LaunchError
from tests.cuda.test_streams import lookup

SCHEDULES = 4


def errors(device: ShimDevice) -> set[str]:
    """Return what goes wrong with some streams in any of a few schedules: messages, or "result"."""
    case = build("rans", 150, 10, 3, 4, 8, 900, 5)
    data = case.encode()
    check = Check("", stream_of(case), Values(np.zeros(900, np.uint8), 0), case.symbols.tobytes())
    found = set()
    for device.schedule in range(SCHEDULES):
        try:
            for form, expected in ((Form.COMPACT, case.tables.rans_slots), (Form.INTERVALS, case.tables.intervals)):
                if not np.array_equal(lookup(device, case.tables, form), expected):
                    found.add("result")
            if encode(device, "rans", case.symbols, case.tables, case.classes, **case.layout) != data:
                found.add("result")
            if decode(device, [check]) or check.values.out.tobytes() != check.expected:
                found.add("result")
        except LaunchError as error:
            found.add(str(error))
        except Exception as error:  # the host has noticed
            found.add(f"{type(error).__name__}: {error}")
    return found


if __name__ == "__main__":
    print(json.dumps(sorted(errors(ShimDevice(patch=(sys.argv[1], sys.argv[2]))))))
