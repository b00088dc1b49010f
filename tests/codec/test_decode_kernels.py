"""The kernels around the rANS decoder stay within their arguments, and do what numpy does, whatever a file holds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2codec import ClassMap, CorruptStreamError, FrequencyTable, TableSet, encode, rans
from l2codec.blocks import boundaries, select
from l2codec.compiled import Kernel
from l2codec.model import NO_VECTORS
from l2codec.search import NONE

SYMBOLS, VALUES = Kernel("block_decode", "rans_symbols"), Kernel("block_decode", "rans_values")
WRITE, UNPACK = Kernel("values", "write_values"), Kernel("raw", "unpack_symbols")
NO_FLOATS = np.empty(0, np.float32)
BLOCK, STEP = 256, 64  # symbols of a block, which takes several steps


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


def check_runs(seeds: range) -> int:
    """Decode runs of blocks, some of which hold any words and states or have any length; return how many are whole."""
    n_whole = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        tables = random_tables(rng, n_tables := int(rng.integers(1, 6)))
        classes, of_symbols = random_map(rng, n_tables)
        if one := not rng.integers(3):
            of_symbols = np.full(classes.size, classes.base)
        allowed = [np.flatnonzero(table.counts) for table in tables.tables]
        symbols = np.array([rng.choice(allowed[number]) for number in of_symbols], np.uint8)
        lanes, start = int(rng.choice([1, 8, 32, 32, 32])), int(rng.integers(-(-symbols.size // BLOCK))) * BLOCK
        model = (tables, classes.base if one else classes)
        data = np.frombuffer(encode("rans", symbols, *model, lanes=lanes, block_bits=8), np.uint8).copy()
        bounds = boundaries(data, symbols.size, 8)[start // BLOCK :].copy()
        damage = int(rng.integers(6))
        if damage == 0:
            data[bounds[0] :] = rng.integers(0, 256, data.size - bounds[0])
        elif damage == 1:
            data[rng.integers(bounds[0], data.size)] ^= 1 << rng.integers(8)
        elif damage == 2:
            bounds[rng.integers(bounds.size)] += rng.integers(-9, 10)
            bounds = np.clip(bounds, 0, data.size)
        whole = is_whole(data, bounds, model, lanes, symbols[start:], of_symbols[start:])
        n_whole += whole
        book = rng.integers(0, 1 << 32, max(tables.alphabet, 64)).astype(np.uint32)
        layout = np.array([symbols.size, 1, 0, 0, 0, rng.integers(0, book.size - 63)])
        for kernel, of_values, dtype in (
            (SYMBOLS, (), np.uint8),
            (VALUES, (layout, book, NO_FLOATS, NO_FLOATS, NO_FLOATS), np.uint32),
        ):
            place = Canaries()
            slots = tables.rans_slots if not one else select(tables.rans_slots, n_tables, classes.base)[0]
            words = place(data[: data.size // 2 * 2].view(np.uint16))
            stream = (place(bounds), place(slots), place(NONE if one else tables.search), tables.probability_bits)
            vectors = [place(array) for array in (NO_VECTORS if one else classes.kernel_arguments)]
            scratch = [np.zeros((4, lanes), np.uint32), np.zeros((4, 4), np.int64)]
            scratch += [np.zeros((4, 0 if one else STEP), np.uint8), np.zeros(4 * STEP, np.uint8)]
            out = place(np.zeros(symbols.size - start, dtype))
            others = [place(array) for array in (*scratch, *of_values)]
            assert bool(kernel(words, *stream, start, BLOCK, *vectors, *others, out)) == whole
            assert place.alive()
            if whole:
                assert out.tolist() == (book[symbols[start:]] if of_values else symbols[start:]).tolist()
    return n_whole


def is_whole(
    data: np.ndarray,
    bounds: np.ndarray,
    model: tuple[TableSet, ClassMap | int],
    lanes: int,
    symbols: np.ndarray,
    classes: np.ndarray,
) -> bool:
    """Return whether all blocks of a run decode, one after the other, and begin with a whole word."""
    tables, _ = model
    try:
        for number in range(bounds.size - 1):
            if bounds[number] % 2 or bounds[number + 1] < bounds[number]:
                return False
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            block, out = data[bounds[number] : bounds[number + 1]], np.zeros(symbols[part].size, np.uint8)
            rans.decode_block(block, tables, classes[part].astype(np.uint8), lanes, out)
    except CorruptStreamError:
        return False
    return True


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


def test_runs_of_blocks_of_any_bytes() -> None:
    assert 30 < check_runs(range(150)) < 120


def test_scales_of_any_layout() -> None:
    check_scales(range(150))


def test_raw_symbols_of_every_width() -> None:
    check_raw(range(160))


def test_every_index_is_checked() -> None:
    if os.environ.get("NUMBA_BOUNDSCHECK"):
        pytest.skip("this is the process that checks")
    # What is built from vectors has no indices that could be checked: the plain form of the decoder does.
    environ = os.environ | {"NUMBA_BOUNDSCHECK": "1", "L2FMT_KERNEL": "plain"}
    code = "from test_decode_kernels import *\ncheck_runs(range(150)), check_scales(range(150)), check_raw(range(160))"
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
