"""Every kernel, in several schedules of its threads, gives the bits that the codec of the CPU gives."""

from collections.abc import Callable

import numpy as np
import pytest

from l2codec import FrequencyTable, TableSet, Values, encode
from l2codec.cuda import Form
from tests.cuda import cases
from tests.cuda.cases import Check
from tests.cuda.device import Device, decoding

SCHEDULES = (0, 1, 2, 3)  # ascending, descending, and two random ones
KINDS: dict[str, Callable[[], list[Check]]] = {
    "rans": lambda: [cases.symbols("rans", seed) for seed in range(240)],
    "range": lambda: [cases.symbols("range", seed) for seed in range(80)],
    "huffman": lambda: [cases.symbols("huffman", seed) for seed in range(80)],
    "raw": lambda: [cases.raw_symbols(seed) for seed in range(51)],
    "rans to words": lambda: [cases.words("rans", seed) for seed in range(160)],
    "range to words": lambda: [cases.words("range", seed) for seed in range(60)],
    "huffman to words": lambda: [cases.words("huffman", seed) for seed in range(60)],
    "rans from resume points": lambda: [cases.segments(seed) for seed in range(80)],
    "rans encoded": lambda: [cases.streams("rans", seed) for seed in range(160)],
    "range encoded": lambda: [cases.streams("range", seed) for seed in range(60)],
    "vectors of the specification": cases.vectors,
}


@pytest.fixture(scope="module")
def checks() -> dict[str, list[Check]]:
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def device(checks) -> Device:
    device = Device()
    device.prepare(launch for of_kind in checks.values() for check in of_kind for launch in check.launches)
    return device


@pytest.mark.parametrize("kind", KINDS)
def test_streams(kind, checks, device, streams):
    for schedule in SCHEDULES:
        failures = [failure for check in checks[kind] if (failure := check.failure(device, schedule))]
        assert not failures, f"schedule {schedule}: {failures[:5]}, {len(failures)} in all"
    streams[kind] += sum(len(check.launches) for check in checks[kind])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("alphabet", [1, 5, 64, 300])
def test_tables(alphabet, schedule):
    rng = np.random.default_rng(alphabet)
    device = Device()
    device.prepare([])
    for bits in (9, 12, 14):
        hists = np.floor(rng.exponential(20, (3, alphabet))).astype(np.int64) + (np.arange(alphabet) % 7 == 0)
        tables = TableSet([FrequencyTable.from_histogram(hist, bits) for hist in hists])
        wide = tables.wide_slots
        symbols, pairs = wide[:, : 1 << bits], np.ascontiguousarray(wide[:, 1 << bits :]).view("<u4")
        expected = {Form.WIDE16: [symbols, pairs], Form.INTERVALS: [pairs]}
        if alphabet <= 256:
            expected[Form.WIDE8] = [symbols.astype(np.uint8), pairs]
            if bits <= 12:
                expected[Form.COMPACT] = [tables.rans_slots.reshape(3, -1)]
        for form, parts in expected.items():
            whole = b"".join(part[k].tobytes() for k in range(3) for part in parts)
            assert device.lookup(tables, form, schedule).tobytes() == whole, form
        dyadic = TableSet([FrequencyTable.dyadic_from_histogram(hist, bits) for hist in hists])
        assert np.array_equal(device.lookup(dyadic, Form.PREFIXES, schedule), dyadic.windows)


def test_floats_become_float16_as_numpy_rounds_them():
    rng = np.random.default_rng(0)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    middles = (halves[:-1] + halves[1:]) / 2  # of neighbours: the ties, and with a bit more or less what is beside them
    beside = (middles.view(np.uint32) + rng.integers(-1, 2, middles.size).astype(np.uint32)).view(np.float32)
    given = np.concatenate([halves, middles, beside, cases.floats(rng, 1 << 17)])
    given = np.where(np.isfinite(given), given, np.float32(0))
    with np.errstate(over="ignore"):
        expected = given.astype(np.float16)
    device, symbols = Device(), np.arange(1 << 16, dtype=np.uint16)
    data = encode("raw", symbols, width=16)
    for start in range(0, given.size, symbols.size):
        codebook = np.resize(given[start : start + symbols.size], symbols.size)
        out = np.empty(symbols.size, np.uint16)
        launch = decoding("raw", data, Values(out, codebook), None, 0, {"width": 16})
        device.prepare([launch])
        device.run(launch)
        size = min(symbols.size, given.size - start)
        assert np.array_equal(out[:size], expected[start : start + size].view(np.uint16))
