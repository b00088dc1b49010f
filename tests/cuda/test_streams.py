"""Every kernel, launched by the host code in several schedules of its threads, gives the bits that the CPU gives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from l2codec import FrequencyTable, ImpossibleSymbolError, TableSet, Values, encode
from l2codec.cuda import Form, decoding
from l2codec.cuda.decoding import DeviceStream, fill_tables
from l2codec.cuda.encoding import encode as encode_on
from l2codec.model import simplified
from tests.cuda import cases
from tests.cuda.cases import Check
from tests.cuda.device import SMALL, Recorder, ShimDevice

SCHEDULES = range(4)  # of the threads: ascending, descending, and two random orders
KINDS: dict[str, Callable[[], list[Check]]] = {
    "rans": lambda: [cases.symbols("rans", seed) for seed in range(240)],
    "range": lambda: [cases.symbols("range", seed) for seed in range(80)],
    "huffman": lambda: [cases.symbols("huffman", seed) for seed in range(80)],
    "raw": lambda: [cases.raw_symbols(seed) for seed in range(51)],
    "rans to words": lambda: [cases.words("rans", seed) for seed in range(160)],
    "range to words": lambda: [cases.words("range", seed) for seed in range(60)],
    "huffman to words": lambda: [cases.words("huffman", seed) for seed in range(60)],
    "rans from resume points": lambda: [cases.segments(seed) for seed in range(80)],
}
WITH_LITTLE_MEMORY = "rans"  # the kind that is also decoded where several tables do not fit into shared memory
ENCODED = {"rans": 160, "range": 60, "huffman": 60}


@pytest.fixture(scope="module")
def checks() -> dict[str, list[Check]]:
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def device(checks) -> ShimDevice:
    recorder = Recorder()
    for of_kind in checks.values():
        cases.decode(recorder, of_kind)
    recorder.shared_bytes = SMALL
    cases.decode(recorder, checks[WITH_LITTLE_MEMORY])
    for coder, number in ENCODED.items():
        for seed in range(number):
            made, _ = cases.case(coder, seed)
            encode_on(recorder, coder, made.symbols, made.tables, made.classes, **made.layout)
    device = ShimDevice()
    device.prepare(recorder.kernels)
    return device


@pytest.mark.parametrize("kind", KINDS)
def test_streams_that_are_decoded_together(kind, checks, device, streams):
    own = device.shared_bytes
    for device.schedule in SCHEDULES:
        device.shared_bytes = SMALL if kind == WITH_LITTLE_MEMORY and device.schedule % 2 else own
        assert cases.decode(device, checks[kind]) == []
        wrong = [check.about for check in checks[kind] if check.values.out.tobytes() != check.expected]
        assert not wrong, f"schedule {device.schedule}: {wrong[:5]}, {len(wrong)} in all"
    device.shared_bytes = own
    assert not getattr(device, "live", [])  # of the simulated device: memory that is still allocated
    streams[kind] += len(checks[kind])


@pytest.mark.parametrize("coder", ENCODED)
def test_long_streams_of_one_of_several_tables(coder, device, monkeypatch):
    monkeypatch.setattr(decoding, "_LARGE", 0)
    models = {seed: cases.case(coder, seed)[0] for seed in range(100)}
    seeds = [s for s, case in models.items() if isinstance(simplified(case.classes), int) and len(case.tables) > 1]
    made = [make(coder, seed) for make in (cases.symbols, cases.words) for seed in seeds]
    assert len(made) > 5 and cases.decode(device, made) == []
    assert all(check.values.out.tobytes() == check.expected for check in made)


@pytest.mark.parametrize("coder", ENCODED)
def test_streams_that_are_encoded(coder, device, streams):
    for seed in range(ENCODED[coder]):
        made, _ = cases.case(coder, seed)
        expected, model = made.encode(), (made.tables, made.classes)
        for device.schedule in range(4) if seed < 20 else (seed % 4,):
            assert encode_on(device, coder, made.symbols, *model, **made.layout) == expected, seed
    streams[f"{coder} encoded"] += ENCODED[coder]


@pytest.mark.parametrize("coder", ENCODED)
def test_symbols_that_cannot_be_encoded(coder, device):
    make = FrequencyTable.dyadic_from_histogram if coder == "huffman" else FrequencyTable.from_histogram
    model = TableSet([make(np.array(hist), 8) for hist in ([9, 4, 0, 1], [1, 1, 0, 5])]), 1
    layout: dict[str, Any] = {"lanes": 4 if coder == "rans" else 1, "block_bits": 8}
    for wrong in (2, 4, 250):
        symbols = np.random.default_rng(0).choice(np.array([0, 1, 3], np.uint8), 900)
        symbols[500:] = wrong
        messages = []
        for function in (encode, partial(encode_on, device)):
            with pytest.raises(ImpossibleSymbolError) as caught:
                function(coder, symbols, *model, **layout)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_encoding_what_takes_no_kernel(device):
    tables = cases.build("rans", 31, 10, 1, 4, 8, 900, 2).tables
    assert encode_on(device, "rans", np.zeros(0, np.uint8), tables) == b""
    assert encode_on(device, "raw", np.arange(9), width=4) == encode("raw", np.arange(9), width=4)


def lookup(device: ShimDevice, tables: TableSet, form: Form) -> np.ndarray:
    """Return tables as `fill_tables` lays them out."""
    counts = np.stack([table.counts for table in tables.tables])
    found = cases.garbage(len(tables) * form.table_size(tables), np.uint32)
    given, made = device.allocate(counts.nbytes), device.allocate(found.nbytes)
    device.upload(given.address, counts)
    device.launch(fill_tables(tables, form, given.address, made.address, device))
    device.download(made.address, found)
    device.wait()
    return found


@pytest.mark.parametrize("schedule", range(4))
@pytest.mark.parametrize("alphabet", [1, 5, 64, 300])
def test_tables(alphabet, schedule, device):
    rng = np.random.default_rng(alphabet)
    device.schedule = schedule
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
            assert lookup(device, tables, form).tobytes() == whole, form
        dyadic = TableSet([FrequencyTable.dyadic_from_histogram(hist, bits) for hist in hists])
        assert np.array_equal(lookup(device, dyadic, Form.PREFIXES), dyadic.windows)


def test_floats_become_float16_as_numpy_rounds_them(device):
    rng = np.random.default_rng(0)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    middles = (halves[:-1] + halves[1:]) / 2  # of neighbours: the ties, and with a bit more or less what is beside them
    beside = (middles.view(np.uint32) + rng.integers(-1, 2, middles.size).astype(np.uint32)).view(np.float32)
    given = np.concatenate([halves, middles, beside, cases.floats(rng, 1 << 17)])
    given = np.where(np.isfinite(given), given, np.float32(0))
    with np.errstate(over="ignore"):
        expected = given.astype(np.float16)
    symbols = np.arange(1 << 16, dtype=np.uint16)
    data = encode("raw", symbols, width=16)
    checks = []
    for start in range(0, given.size, symbols.size):
        size = min(symbols.size, given.size - start)
        codebook = np.resize(given[start : start + size], symbols.size)
        wanted = np.resize(expected[start : start + size], symbols.size).tobytes()
        stream = DeviceStream("raw", data, symbols.size, width=16)
        checks.append(Check("raw", stream, Values(np.empty(symbols.size, np.uint16), codebook), wanted))
    assert cases.decode(device, checks) == []
    assert all(check.values.out.tobytes() == check.expected for check in checks)
