"""The kernels around the rANS decoder stay within their arguments, and do what numpy does, whatever a file holds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2codec import ClassMap, FrequencyTable, TableSet
from l2codec.compiled import Kernel

SYMBOLS, VALUES = Kernel("block_decode", "rans_symbols"), Kernel("block_decode", "rans_values")
SYMBOLS_OF_TWO, VALUES_OF_TWO = (Kernel("block_decode", f"rans_{of}_of_two") for of in ("symbols", "values"))
DECODE, WRITE = Kernel("rans_plain", "rans_decode_plain"), Kernel("values", "write_values")
UNPACK = Kernel("raw", "unpack_symbols")
NO_FLOATS = np.empty(0, np.float32)
SCRATCH = 64  # symbols at a time, so that short blocks take several steps


class Canaries:
    """Puts arrays between bytes that nothing may change."""

    def __init__(self) -> None:
        self._rooms: list[np.ndarray] = []

    def __call__(self, array: np.ndarray) -> np.ndarray:
        room = np.full(array.nbytes + 256, 0xA5, np.uint8)
        part = room[128 : 128 + array.nbytes].view(array.dtype).reshape(array.shape)
        part[...] = array
        self._rooms.append(room)
        return part

    def alive(self) -> bool:
        return all((room[:128] == 0xA5).all() and (room[-128:] == 0xA5).all() for room in self._rooms)


def random_tables(rng: np.random.Generator, n_tables: int) -> TableSet:
    alphabet, bits = ((31, 9), (256, 10))[int(rng.integers(2))]
    counts = [rng.multinomial(1 << bits, rng.dirichlet(np.full(alphabet, 0.3))) for _ in range(n_tables)]
    return TableSet([FrequencyTable(row, bits) for row in counts])


def random_map(rng: np.random.Generator, n_tables: int) -> tuple[ClassMap, np.ndarray]:
    """Return a class map with any offsets, and the class of every symbol by numpy."""

    def offsets(count: int) -> np.ndarray | None:
        return rng.integers(-128, 128, count).astype(np.int8) if rng.integers(2) else None

    base = int(rng.integers(n_tables))
    if rng.integers(3) == 0:
        lengths = rng.integers(0, 90, int(rng.integers(1, 20))) * rng.integers(0, 2)
        lengths[-1] += 1
        row = rng.integers(-128, 128, lengths.size).astype(np.int8)
        sums = base + np.repeat(row.astype(int), lengths)
        return ClassMap((0, 0, 0), n_tables, base, row, row_lengths=lengths), np.clip(sums, 0, n_tables - 1)
    shape = tuple(rng.integers(1, 14, 3).tolist())
    row, column, position = map(offsets, shape)
    sums = np.full(shape, base)
    for axis, vector in enumerate((row, column, position)):
        if vector is not None:
            sums += vector.astype(int).reshape([-1 if i == axis else 1 for i in range(3)])
    return ClassMap(shape, n_tables, base, row, column, position), np.clip(sums.ravel(), 0, n_tables - 1)


def check_blocks(seeds: range) -> int:
    """Decode blocks of any words and states; return how many ended in time."""
    ended = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        tables = random_tables(rng, n_tables := int(rng.integers(1, 6)))
        classes, of_symbols = random_map(rng, n_tables)
        start = int(rng.integers(classes.size))
        count = classes.size - start
        states = rng.integers(0, 1 << 32, int(rng.choice([1, 2, 4, 8, 16, 32]))).astype(np.uint32)
        words = rng.integers(0, 1 << 16, int(rng.integers(0, count + 2))).astype(np.uint16)
        part = of_symbols[start:].astype(np.uint8)
        expected, after = np.zeros(count, np.uint8), states.copy()
        end = DECODE(words, 0, after, tables.rans_slots, part, tables.probability_bits, expected)
        slots = tables.rans_slots

        place = Canaries()
        given = [place(array) for array in (words, states, slots)]
        vectors = [place(array) for array in classes.kernel_arguments]
        scratch, out = place(np.zeros(SCRATCH, np.uint8)), place(np.zeros(count, np.uint8))
        assert SYMBOLS(*given, tables.probability_bits, start, *vectors, scratch, out) == end
        assert place.alive()

        place = Canaries()
        given = [place(array) for array in (words, states, slots)]
        vectors = [place(array) for array in classes.kernel_arguments]
        book = rng.integers(0, 1 << 32, max(tables.alphabet, 64)).astype(np.uint32)
        layout = np.array([count, 1, 0, 0, 0, rng.integers(0, book.size - 63)])
        written = place(np.zeros(count, np.uint32))
        scratches = [place(np.zeros(SCRATCH, np.uint8)) for _ in range(2)]
        of_values = [place(array) for array in (layout, book, NO_FLOATS, NO_FLOATS, NO_FLOATS)]
        assert VALUES(*given, tables.probability_bits, start, *vectors, *scratches, *of_values, written) == end
        assert place.alive()
        if end >= 0:
            ended += 1
            assert out.tolist() == expected.tolist()
            assert written.tolist() == book[expected].tolist()
    return ended


def check_pairs(seeds: range) -> int:
    """Decode pairs of blocks of any words and states; return in how many both ended in time."""
    ended = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        tables = random_tables(rng, 1)
        slots, none, bits = tables.rans_slots, np.empty(0, np.uint8), tables.probability_bits
        count = int(rng.integers(1, 500))
        counts, lanes = (count, int(rng.integers(1, count + 1))), rng.choice([8, 32], 2)
        blocks = [
            (
                rng.integers(0, 1 << 16, int(rng.integers(0, n + 40)), np.uint16),
                rng.integers(1 << 16, 1 << 32, m, np.uint32),
            )
            for n, m in zip(counts, lanes, strict=True)
        ]
        expected = [np.zeros(n, np.uint8) for n in counts]
        ends = [
            DECODE(words, 0, states.copy(), slots, none, bits, out)
            for (words, states), out in zip(blocks, expected, strict=True)
        ]
        book = rng.integers(0, 1 << 32, max(tables.alphabet, 64), np.uint32)
        layout = np.array([sum(counts), 1, 0, 0, 0, rng.integers(0, book.size - 63)])
        of_values = (layout, book, NO_FLOATS, NO_FLOATS, NO_FLOATS)
        scratch = np.zeros(2 * SCRATCH, np.uint8)
        for kernel, arguments, dtype in (
            (SYMBOLS_OF_TWO, (), np.uint8),
            (VALUES_OF_TWO, (0, scratch, *of_values), np.uint32),
        ):
            place = Canaries()
            inputs = [place(array) for block in blocks for array in block]
            outs = [place(np.zeros(n, dtype)) for n in counts]
            found = place(np.zeros(2, np.int64))
            others = [place(a) if isinstance(a, np.ndarray) else a for a in arguments]
            kernel(*inputs, place(slots), none, bits, *others, *outs, found)
            assert place.alive()
            assert [end < 0 for end in found] == [end < 0 for end in ends] or (
                kernel is VALUES_OF_TWO and min(ends) < 0
            )
            if min(ends) >= 0:
                assert found.tolist() == ends
                for out, symbols in zip(outs, expected, strict=True):
                    assert out.tolist() == (book[symbols] if dtype == np.uint32 else symbols).tolist()
        ended += min(ends) >= 0
    return ended


def check_scales(seeds: range) -> None:
    """Write values with scales, from any symbol on."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(1, 14, 3).tolist())
        size, alphabet = int(np.prod(shape)), int(rng.choice([3, 70, 256]))
        start = int(rng.integers(size))
        symbols = rng.integers(0, alphabet, size - start).astype(np.uint8)
        floats = rng.normal(size=alphabet).astype(np.float32)
        row, column = (rng.random(n).astype(np.float32)[: n * rng.integers(2)] for n in shape[:2])
        scales = np.ones(shape, np.float32) * (row[:, None, None] if row.size else np.float32(1))
        place = Canaries()
        layout = np.array([*shape[1:], 0, 0, 0, rng.integers(max(alphabet - 63, 1))])
        scratch = np.zeros(max(alphabet, 64), np.uint32)
        out = place(np.zeros(symbols.size, np.uint32))
        arrays = [place(array) for array in (layout, scratch, floats, row, column)]
        WRITE(place(symbols), start, *arrays, out)
        expected = floats[symbols] * scales.ravel()[start:]
        if column.size:
            expected = expected * np.broadcast_to(column[None, :, None], shape).ravel()[start:]
        assert out.view(np.float32).tolist() == expected.tolist()
        assert place.alive()


def check_raw(seeds: range) -> None:
    """Unpack symbols of every width."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        width, count = seed % 16 + 1, int(rng.integers(1, 200))
        data = rng.integers(0, 256, -(-count * width // 8)).astype(np.uint8)
        bits = np.unpackbits(data, bitorder="little")[: count * width].reshape(count, width)
        place = Canaries()
        out = place(np.zeros(count, np.uint8 if width <= 8 else np.uint16))
        UNPACK(place(data), width, out)
        assert out.tolist() == (bits.astype(int) << np.arange(width)).sum(axis=1).tolist()
        assert place.alive()


def test_blocks_of_any_bytes() -> None:
    assert 10 < check_blocks(range(150)) < 140


def test_pairs_of_blocks_of_any_bytes() -> None:
    assert 10 < check_pairs(range(150)) < 140


def test_scales_of_any_layout() -> None:
    check_scales(range(150))


def test_raw_symbols_of_every_width() -> None:
    check_raw(range(160))


def test_every_index_is_checked() -> None:
    if os.environ.get("NUMBA_BOUNDSCHECK"):
        pytest.skip("this is the process that checks")
    # What is built from vectors has no indices that could be checked: the plain form of the decoder does.
    environ = os.environ | {"NUMBA_BOUNDSCHECK": "1", "L2FMT_KERNEL": "plain"}
    code = (
        "from test_decode_kernels import *\n"
        "check_blocks(range(150)), check_pairs(range(150)), check_scales(range(150)), check_raw(range(160))"
    )
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
