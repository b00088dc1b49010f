"""Runs kernels whose text is changed: python -m tests.cuda.mutated OLD NEW. Prints what goes wrong as a JSON list."""

import json
import sys

import numpy as np

from l2codec import Values
from l2codec.cuda import Form
from tests.codec.conftest import build
from tests.cuda.device import Device, decoding, encoded, encoding
from tests.cuda.shim import LaunchError

SCHEDULES = 4


def errors(device: Device) -> set[str]:
    """Return what goes wrong with some streams in any of a few schedules: messages, or "result"."""
    case = build("rans", 150, 10, 3, 4, 8, 900, 5)
    out = np.zeros(case.symbols.size, np.uint8)
    data = case.encode()
    decoder = decoding("rans", data, Values(out, 0), case.tables, case.classes, case.layout, form=Form.WIDE8)
    encoder = encoding("rans", case.symbols, case.tables, case.classes, case.layout)
    device.prepare([decoder, encoder])
    found = set()
    for schedule in range(4):
        try:
            device.lookups.clear()
            for form, expected in ((Form.COMPACT, case.tables.rans_slots), (Form.INTERVALS, case.tables.intervals)):
                if not np.array_equal(device.lookup(case.tables, form, schedule), expected):
                    found.add("result")
            if any(device.run(encoder, schedule)) or encoded(encoder) != data:
                found.add("result")
            if any(device.run(decoder, schedule)) or not np.array_equal(out, case.symbols):
                found.add("result")
        except LaunchError as error:
            found.add(str(error))
    return found


if __name__ == "__main__":
    print(json.dumps(sorted(errors(Device(patch=(sys.argv[1], sys.argv[2]))))))
