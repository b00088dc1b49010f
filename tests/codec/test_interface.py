"""What callers may pass, what they may not, and what an import loads."""

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from l2codec import (
    CODERS,
    ClassMap,
    CodecError,
    FrequencyTable,
    ImpossibleSymbolError,
    TableSet,
    UnknownCoderError,
    available_coders,
    decode,
    encode,
    iter_decode,
)

TABLES = TableSet([FrequencyTable([64, 128, 32, 0, 0, 32], 8), FrequencyTable([256, 0, 0, 0, 0, 0], 8)])
SYMBOLS = np.array([1, 1, 0, 5, 2], np.uint8)
CODED = ["rans", "range", "huffman"]


def test_coders_have_ids_and_names():
    assert available_coders() == tuple(CODERS) == ("raw", "rans", "range", "huffman")
    for name, number in CODERS.items():
        assert encode(number, SYMBOLS, TABLES, width=3) == encode(name, SYMBOLS, TABLES, width=3)
    for unknown in ("zip", 4, -1):
        with pytest.raises(UnknownCoderError):
            encode(unknown, SYMBOLS, TABLES)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("coder", CODED)
def test_impossible_symbols_are_refused(coder, backend):
    for symbols, classes in (([1, 3], 0), ([1, 6], 0), ([1, 300], 0), ([1], 1)):
        with pytest.raises(ImpossibleSymbolError):
            encode(coder, np.array(symbols, np.uint16), TABLES, classes, backend=backend)
    with pytest.raises(ImpossibleSymbolError):
        encode("raw", np.array([8], np.uint8), width=3, backend=backend)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, ">u2", np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("coder", CODED)
def test_symbols_of_any_integer_dtype(coder, dtype):
    expected = encode(coder, SYMBOLS, TABLES)
    spread = np.zeros(10, dtype)
    spread[::2] = SYMBOLS
    assert encode(coder, spread[::2], TABLES) == expected


@pytest.mark.parametrize("symbols", [SYMBOLS.astype(float), SYMBOLS[None], np.array([-1]), np.array([65536])])
def test_other_symbols_are_refused(symbols):
    with pytest.raises(CodecError):
        encode("rans", symbols, TABLES)


@pytest.mark.parametrize(
    ("coder", "arguments"),
    [
        ("rans", {"tables": None}),
        ("rans", {"lanes": 3}),
        ("rans", {"lanes": 64}),
        ("range", {"lanes": 2}),
        ("rans", {"block_bits": 7}),
        ("rans", {"block_bits": 31}),
        ("rans", {"classes": 2}),
        ("rans", {"classes": ClassMap((1, 5, 1), 3)}),
        ("rans", {"classes": ClassMap((1, 4, 1), 2)}),
        ("rans", {"backend": "abacus"}),
        ("huffman", {"tables": TableSet([FrequencyTable([100, 156, 0, 0, 0, 0], 8)])}),
        ("raw", {}),
        ("raw", {"width": 17}),
        ("raw", {"width": -1}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(coder, arguments):
    arguments = {"tables": TABLES} | arguments
    with pytest.raises(CodecError):
        encode(coder, SYMBOLS, **arguments)
    with pytest.raises(CodecError):
        decode(coder, b"\0\0\0\0", 5, **arguments)


@pytest.mark.parametrize("coder", [*CODED, "raw"])
def test_any_buffer_at_any_alignment(coder):
    data = encode(coder, SYMBOLS, TABLES, width=3)
    buffers = [data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)]
    buffers += [np.frombuffer(bytes(i) + data, np.uint8)[i:] for i in range(1, 8)]
    for buffer in buffers:
        assert np.array_equal(decode(coder, buffer, 5, TABLES, width=3), SYMBOLS)
    with pytest.raises(CodecError):
        decode(coder, np.zeros(8, np.uint8)[::2], 5, TABLES, width=3)


@pytest.mark.parametrize("coder", [*CODED, "raw"])
def test_out_is_filled(coder):
    data = encode(coder, SYMBOLS, TABLES, width=3)
    out = np.zeros(5, np.uint8)
    assert decode(coder, data, 5, TABLES, width=3, out=out) is out
    assert np.array_equal(out, SYMBOLS)
    frozen = np.zeros(5, np.uint8)
    frozen.flags.writeable = False
    for bad in (np.zeros(4, np.uint8), np.zeros(5, np.uint16), np.zeros(10, np.uint8)[::2], frozen):
        with pytest.raises(CodecError):
            decode(coder, data, 5, TABLES, width=3, out=bad)


@pytest.mark.parametrize("coder", [*CODED, "raw"])
def test_iter_decode_gives_block_after_block(coder, build_case):
    case = build_case(coder if coder != "raw" else "rans", 31, 12, 3, 4, 8, 1000, 5)
    arguments: dict[str, Any] = dict(case.layout, width=5) if coder != "raw" else {"width": 5}
    data = encode(coder, case.symbols, case.tables, case.classes, **arguments)
    for backend in ("numba", "reference"):
        parts = iter_decode(coder, data, 1000, case.tables, case.classes, **arguments, backend=backend)
        got = [(start, symbols.copy()) for start, symbols in parts]
        assert np.array_equal(np.concatenate([symbols for _, symbols in got]), case.symbols)
        assert [start for start, _ in got] == np.cumsum([0] + [s.size for _, s in got[:-1]]).tolist()


def test_claims_cost_nothing_until_they_are_believed():
    one, two = TableSet([FrequencyTable([256], 8)]), TableSet([FrequencyTable([128, 128], 8)])
    tracemalloc.start()
    for blocks in (0, 10, 1 << 21):
        huge = iter_decode("huffman", bytes(4 * blocks), 1 << 40, two, block_bits=19)
        with pytest.raises(CodecError):
            next(huge)
    parts = iter_decode("raw", b"", 1 << 40, width=0)
    assert next(parts)[1].size == 1 << 19
    few = iter_decode("huffman", bytes(4 << 4), 1 << 24, one, block_bits=20)
    assert next(few)[1].size == 1 << 20
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_symbols_that_cost_nothing():
    one = TableSet([FrequencyTable([0, 0, 256], 8)])
    for coder, size in (("rans", 4), ("range", 4), ("huffman", 0)):
        data = encode(coder, np.full(10_000, 2, np.uint8), one)
        assert len(data) == size
        assert (decode(coder, data, 10_000, one) == 2).all()


def test_the_import_is_light():
    code = "import sys, l2codec; print(sorted({'numba', 'torch', 'l2fmt', 'cupy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
