"""Every form of the rANS decoder gives what the plain one gives, and stays within its arguments, whatever they hold."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from l2codec import FrequencyTable, TableSet, encode, processor
from l2codec.blocks import select, symbol_dtype
from l2codec.compiled import Kernel
from l2codec.rans import split_block

PLAIN, PLAIN_TWO = (Kernel("rans_plain", name) for name in ("rans_decode_plain", "rans_decode_two_plain"))
FORMS = {
    form: (Kernel("vector_decode", f"rans_decode_{form}"), Kernel("vector_decode", f"rans_decode_two_{form}"))
    for form in ("avx512", "avx2")
}
LANES = (1, 2, 4, 8, 16, 32)
# (alphabet, probability bits): narrow and wide entries, symbols of one byte and of two, one symbol that is certain.
MODELS = [(1, 8), (2, 12), (31, 12), (256, 9), (31, 13), (200, 14), (257, 8), (3000, 12), (65536, 14)]

Placed = Callable[[np.ndarray], np.ndarray]
"""Where a test puts the arguments of a kernel: it returns a copy of an array."""


@pytest.fixture(params=FORMS)
def kernels(request: pytest.FixtureRequest) -> tuple[Kernel, Kernel]:
    """`rans_decode` and `rans_decode_two` of each form that this processor can run."""
    if missing := processor.missing(request.param):
        pytest.skip(f"{request.param} needs {', '.join(missing)}")
    return FORMS[request.param]


@dataclass
class Stream:
    """The arguments of a kernel for one stream."""

    words: np.ndarray
    states: np.ndarray
    slots: np.ndarray
    classes: np.ndarray
    bits: int
    out: np.ndarray
    position: int = 0

    def placed(self, place: Placed) -> "Stream":
        words, states, slots, classes, out = map(place, (self.words, self.states, self.slots, self.classes, self.out))
        return Stream(words, states, slots, classes, self.bits, out, self.position)

    def decoded(self, kernel: Kernel) -> tuple:
        """Return all that decoding changes."""
        end = kernel(self.words, self.position, self.states, self.slots, self.classes, self.bits, self.out)
        return end, self.states.tolist(), self.out.tolist()


def decoded_two(kernel: Kernel, first: Stream, second: Stream) -> list[tuple]:
    """Return what `Stream.decoded` does, for two streams of one table that are decoded at once."""
    ends = np.zeros(2, np.int64)
    parts = [(s.words, s.position, s.states, s.out) for s in (first, second)]
    kernel(*parts[0], *parts[1], first.slots, first.classes, first.bits, ends)
    streams = zip(ends.tolist(), (first, second), strict=True)
    return [(end, stream.states.tolist(), stream.out.tolist()) for end, stream in streams]


def random_tables(rng: np.random.Generator, alphabet: int, bits: int, n_tables: int) -> TableSet:
    """Return tables from even to steep, with counts of 0 where there are more symbols than counts."""
    shapes = [np.exp(-rng.choice([0.001, 0.3, 2]) * np.arange(alphabet)) for _ in range(n_tables)]
    counts = [rng.permutation(rng.multinomial(1 << bits, shape / shape.sum())) for shape in shapes]
    return TableSet([FrequencyTable(row, bits) for row in counts])


def random_stream(rng: np.random.Generator, tables: TableSet, lanes: int, classes: bool, count: int) -> Stream:
    """Return what a hostile block could hold: any words, too few or too many, and any states, even forbidden ones."""
    n_words = int(rng.choice(np.array([0, 1, lanes - 1, lanes, rng.integers(0, count + 2), count])))
    words = rng.integers(0, rng.choice([2, 1 << 16]), n_words).astype(np.uint16)
    states = rng.integers(rng.choice([0, 1 << 16]), 1 << 32, lanes).astype(np.uint32)
    which = rng.integers(0, len(tables), count).astype(np.uint8) if classes else int(rng.integers(len(tables)))
    slots, which = select(tables.rans_slots if rng.integers(4) else tables.wide_slots, len(tables), which)
    out = np.zeros(count, symbol_dtype(tables.alphabet))
    return Stream(words, states, slots, which, tables.probability_bits, out, int(rng.integers(0, n_words + 1)) // 2)


def hostile_streams(count: int) -> Iterator[Stream]:
    for seed in range(count):
        rng = np.random.default_rng(seed)
        tables = random_tables(rng, *MODELS[seed % len(MODELS)], n_tables=int(rng.choice([1, 2, 5])))
        for lanes in LANES:
            yield random_stream(rng, tables, lanes, bool(rng.integers(2)), int(rng.integers(0, 700)))


def copied(array: np.ndarray) -> np.ndarray:
    return array.copy()


@dataclass
class Canaries:
    """Puts arrays between bytes that nothing may change."""

    placed: list[tuple[np.ndarray, int]] = field(default_factory=list)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        room = np.full(array.nbytes + 256, 0xA5, np.uint8)
        part = room[128 : 128 + array.nbytes].view(array.dtype).reshape(array.shape)
        part[:] = array
        self.placed.append((room, array.nbytes))
        return part

    def alive(self) -> bool:
        return all((room[:128] == 0xA5).all() and (room[128 + size :] == 0xA5).all() for room, size in self.placed)


def at_page_end(array: np.ndarray) -> np.ndarray:
    """Return a copy that ends where a page begins that nobody may read."""
    return guarded(array, at_end=True)


def at_page_start(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins where a page ends that nobody may read."""
    return guarded(array, at_end=False)


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    page = mmap.PAGESIZE
    inner = -(-max(array.nbytes, 1) // page) * page
    memory = np.frombuffer(mmap.mmap(-1, inner + 2 * page), np.uint8)
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    for address in (memory.ctypes.data, memory.ctypes.data + page + inner):
        assert mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) == 0, os.strerror(ctypes.get_errno())
    first = page + (inner - array.nbytes if at_end else 0)
    part = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    part[:] = array
    return part


@pytest.mark.parametrize(("alphabet", "bits"), MODELS)
@pytest.mark.parametrize("n_tables", [1, 3])
def test_streams_of_the_encoder_come_back(kernels, alphabet: int, bits: int, n_tables: int) -> None:
    rng = np.random.default_rng(alphabet + bits)
    tables = random_tables(rng, alphabet, bits, n_tables)
    for lanes in LANES:
        count = 3000 + lanes // 2  # the last row is not whole, where there is more than one lane
        symbols = rng.choice(np.flatnonzero(tables.tables[0].counts), count).astype(symbol_dtype(alphabet))
        data = np.frombuffer(encode("rans", symbols, tables, 0, lanes=lanes), np.uint8)
        states, words = split_block(data, lanes)
        slots, classes = select(tables.rans_slots, n_tables, 0 if lanes == 16 else np.zeros(count, np.uint8))
        stream = Stream(words, states, slots, classes, bits, np.zeros_like(symbols))
        for kernel in (PLAIN, kernels[0]):
            assert stream.placed(copied).decoded(kernel) == (words.size, [1 << 16] * lanes, symbols.tolist())


def test_hostile_streams_come_out_as_from_the_plain_kernel(kernels) -> None:
    results = []
    for stream in hostile_streams(120):
        canaries = Canaries()
        expected = stream.placed(copied).decoded(PLAIN)
        assert stream.placed(canaries).decoded(kernels[0]) == expected
        assert canaries.alive()
        results.append(expected[0])
    assert 100 < results.count(-1) < len(results) - 100  # both ends are met often


def test_two_hostile_streams_come_out_as_each_alone(kernels) -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tables = random_tables(rng, *((31, 12), (3000, 12))[seed % 2], n_tables=1)
        lanes, count = ([32, 32], 900) if seed % 5 else (rng.choice(LANES, 2).tolist(), 100)
        first, second = (
            random_stream(rng, tables, each, False, count - seed % 3 * at) for at, each in enumerate(lanes)
        )
        first.slots = second.slots = tables.rans_slots
        expected = [stream.placed(copied).decoded(PLAIN) for stream in (first, second)]
        assert decoded_two(PLAIN_TWO, first.placed(copied), second.placed(copied)) == expected
        canaries = Canaries()
        assert decoded_two(kernels[1], first.placed(canaries), second.placed(canaries)) == expected
        assert canaries.alive()


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by a call of Linux")
@pytest.mark.parametrize("place", [at_page_end, at_page_start])
def test_nothing_beyond_the_arguments_is_touched(kernels, place: Placed) -> None:
    for stream in hostile_streams(30):
        guarded_stream = stream.placed(place)
        assert guarded_stream.decoded(kernels[0]) == stream.placed(copied).decoded(PLAIN)
    for count in (31, 32, 33, 400):
        rng = np.random.default_rng(count)
        tables = random_tables(rng, 31, 12, 1)
        first, second = (random_stream(rng, tables, 32, False, count) for _ in range(2))
        first.slots = second.slots = tables.rans_slots
        expected = [stream.placed(copied).decoded(PLAIN) for stream in (first, second)]
        assert decoded_two(kernels[1], first.placed(place), second.placed(place)) == expected


@pytest.mark.parametrize("lanes", LANES)
def test_the_words_end_anywhere(kernels, lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    tables = random_tables(rng, 31, 12, 1)
    symbols = rng.choice(np.flatnonzero(tables.tables[0].counts), 160).astype(np.uint8)
    states, words = split_block(np.frombuffer(encode("rans", symbols, tables, lanes=lanes), np.uint8), lanes)
    nothing = np.empty(0, np.uint8)
    for n_words in range(words.size):
        stream = Stream(words[:n_words], states, tables.rans_slots, nothing, 12, np.zeros_like(symbols))
        result = stream.placed(copied).decoded(kernels[0])
        assert result[0] == -1
        assert result == stream.placed(copied).decoded(PLAIN)


def test_the_plain_kernel_passes_checks_of_every_index() -> None:
    run("[stream.decoded(PLAIN) for stream in hostile_streams(18)]", NUMBA_BOUNDSCHECK="1")


def test_entries_may_be_gathered_or_loaded_one_by_one(kernels, tmp_path: Path) -> None:
    # What this processor would not do; the machine code is kept apart, as it is not that of the source.
    script = """
slowly = processor.gathers_slowly()
processor.gathers_slowly = lambda: not slowly
for stream in hostile_streams(8):
    assert stream.placed(copied).decoded(FORMS["avx2"][0]) == stream.placed(copied).decoded(PLAIN)
"""
    if kernels is FORMS["avx512"]:
        pytest.skip("gathers as avx2 does")
    run(script, L2FMT_CACHE_DIR=str(tmp_path))


def run(script: str, **variables: str) -> None:
    """Run a script in another process, which sees the names of this module."""
    done = subprocess.run(
        [sys.executable, "-c", f"from test_vector_kernels import *\n{script}"],
        cwd=Path(__file__).parent,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
