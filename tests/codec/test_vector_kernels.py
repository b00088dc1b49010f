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
from l2codec.search import NONE

PLAIN, PLAIN_FOUR = (Kernel("rans_plain", name) for name in ("rans_decode_plain", "rans_decode_four_plain"))
FORMS = {
    form: (Kernel("vector_decode", f"rans_decode_{form}"), Kernel("vector_decode", f"rans_decode_four_{form}"))
    for form in ("avx512", "avx2")
}
LANES = (1, 2, 4, 8, 16, 32)
# (alphabet, probability bits): narrow and wide entries, symbols of one byte and of two, one symbol that is certain.
MODELS = [(1, 8), (2, 12), (31, 12), (256, 9), (31, 13), (200, 14), (257, 8), (3000, 12), (65536, 14)]

Placed = Callable[[np.ndarray], np.ndarray]
"""Where a test puts the arguments of a kernel: it returns a copy of an array."""


@pytest.fixture(params=FORMS)
def kernels(request: pytest.FixtureRequest) -> tuple[Kernel, Kernel]:
    """`rans_decode` and `rans_decode_four` of each form that this processor can run."""
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


@dataclass
class Four:
    """The arguments of a kernel for four streams, of which some may be shorter."""

    words: np.ndarray
    at: np.ndarray
    states: np.ndarray
    slots: np.ndarray
    search: np.ndarray
    classes: np.ndarray
    bits: int
    out: np.ndarray

    def decoded(self, kernel: Kernel, place: Placed) -> tuple:
        """Return all that decoding changes."""
        given = (self.words, self.at, self.states, self.slots, self.search, self.classes)
        words, at, states, slots, search, classes = map(place, given)
        out = place(self.out)
        kernel(words, at, states, slots, search, classes, self.bits, out)
        return at.tolist(), states.tolist(), out.tolist()


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


def four_streams(seed: int) -> Four:
    """Return four streams of which each may hold anything, and which lie in `words` and `out` one after the other."""
    rng = np.random.default_rng(seed)
    tables = FEW[seed % len(FEW)]()
    lanes = 32 if seed % 5 else int(rng.choice(LANES))
    several = bool(seed % 3) and len(tables) > 1
    sizes = rng.integers(500, 900, 4) * rng.choice([0, 1, 1, 1, 1], 4)
    n_words = np.where(rng.random(4) < 0.6, rng.integers(0, 60, 4), sizes)
    words = rng.integers(0, rng.choice([2, 1 << 16]), n_words.sum()).astype(np.uint16)
    word_ends, ends = np.cumsum(n_words), np.cumsum(sizes)
    at = np.array([word_ends - n_words, word_ends, ends - sizes, ends])
    states = rng.integers(rng.choice([0, 1 << 16]), 1 << 32, (4, lanes)).astype(np.uint32)
    classes = rng.integers(0, len(tables), (4, 900 if several else 0)).astype(np.uint8)
    slots = tables.rans_slots if several else select(tables.rans_slots, len(tables), 0)[0]
    search = tables.search if several else NONE
    return Four(words, at, states, slots, search, classes, tables.probability_bits, np.zeros(ends[-1], np.uint8))


def peaked_tables(n_tables: int, alphabet: int, bits: int, origin: int) -> TableSet:
    """Return tables whose likely symbols lie around the origin; in the first no symbol is impossible."""
    distances = np.abs(np.arange(alphabet) - origin)
    hists = [np.rint(1e9 * np.exp(-distances / scale)).astype(np.int64) for scale in np.geomspace(0.5, 3, n_tables)]
    hists[0] += 1
    return TableSet([FrequencyTable.from_histogram(hist, bits) for hist in hists], origin)


def few_symbols() -> TableSet:
    """Return tables with counts of 0 at both ends of the alphabet and within."""
    counts = [[0, 4, 0, 250, 2, 0], [256, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 256], [0, 1, 0, 254, 0, 1]]
    return TableSet([FrequencyTable(row, 8) for row in counts], 3)


FEW = [
    few_symbols,
    lambda: peaked_tables(1, 31, 12, 15),
    lambda: peaked_tables(8, 31, 12, 15),
    lambda: peaked_tables(5, 32, 10, 0),
    lambda: peaked_tables(16, 169, 12, 56),  # with symbols that are looked up
    lambda: peaked_tables(9, 256, 12, 20),
    lambda: peaked_tables(8, 256, 12, 230),
    lambda: peaked_tables(3, 33, 12, 18),
]


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


def test_four_hostile_streams_come_out_as_each_alone(kernels) -> None:
    ends = []
    for seed in range(160):
        four = four_streams(seed)
        expected = four.decoded(PLAIN_FOUR, copied)
        canaries = Canaries()
        assert four.decoded(kernels[1], canaries) == expected, seed
        assert canaries.alive()
        ends += expected[0][0]
    assert 100 < ends.count(-1) < len(ends) - 100  # both ends are met often


def test_the_search_is_used_where_it_pays() -> None:
    assert [bool(tables().search.size) for tables in FEW] == [True, False, *[True] * 6]
    for tables in (peaked_tables(17, 31, 12, 15), peaked_tables(8, 257, 12, 99), peaked_tables(8, 31, 13, 15)):
        assert not tables.search.size
    flat = TableSet([FrequencyTable([64] * 64, 12)] * 2, 32)
    assert not flat.search.size


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by a call of Linux")
@pytest.mark.parametrize("place", [at_page_end, at_page_start])
def test_nothing_beyond_the_arguments_is_touched(kernels, place: Placed) -> None:
    for stream in hostile_streams(30):
        guarded_stream = stream.placed(place)
        assert guarded_stream.decoded(kernels[0]) == stream.placed(copied).decoded(PLAIN)
    for seed in range(40):
        four = four_streams(seed)
        assert four.decoded(kernels[1], place) == four.decoded(PLAIN_FOUR, copied)


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
    script = "[stream.decoded(PLAIN) for stream in hostile_streams(18)]\n"
    run(script + "[four_streams(seed).decoded(PLAIN_FOUR, copied) for seed in range(8)]", NUMBA_BOUNDSCHECK="1")


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
