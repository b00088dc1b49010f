"""Encoding by vectors, decoding of several symbols at once, and threads: the bytes and symbols of the plain way."""

import numpy as np
import pytest

from l2codec import (
    ClassMap,
    CodecError,
    CorruptStreamError,
    FrequencyTable,
    ImpossibleSymbolError,
    TableSet,
    decode,
    encode,
    fit_classes,
    processor,
)
from l2codec._parts import POSITION, ROW, Part, padded
from l2codec.compiled import Kernel


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def plain(monkeypatch):
    """The function that encodes with the kernels of any processor."""

    def call(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setenv(processor.VARIABLE, "plain")
            return encode(*arguments, **options)

    return call


@pytest.mark.parametrize("lanes", [1, 16, 32])
@pytest.mark.parametrize("bits", [8, 12, 14])
def test_every_kernel_writes_the_same_bytes(build_case, plain, lanes, bits):
    for seed, alphabet in enumerate((1, 2, 31, 300)):
        for count in (1, lanes - 1, lanes, 5 * lanes, 700):
            case = build_case("rans", min(alphabet, 1 << bits), bits, 1 + seed, lanes, 9, count, seed)
            data = case.encode()
            assert data == plain("rans", case.symbols, case.tables, case.classes, **case.layout)
            assert data == case.encode(backend="reference")
            assert np.array_equal(case.decode(data), case.symbols)


@pytest.mark.parametrize("lanes", [16, 32])
def test_states_at_the_edges_of_every_count(plain, lanes):
    # Counts at powers of two and next to them, where a quotient that is not exact would be off by one.
    for bits in (8, 12, 14):
        powers = 1 << np.arange(bits - 2)
        counts = np.unique(np.concatenate([powers - 1, powers, powers + 1]))
        counts = counts[(counts > 0) & (np.cumsum(counts) < 1 << bits)]
        counts = np.append(counts, (1 << bits) - counts.sum())
        tables = TableSet([FrequencyTable(counts, bits)])
        rng = np.random.default_rng(bits)
        for symbols in (rng.integers(0, counts.size, 20_000), np.repeat(np.arange(counts.size), 40 * lanes)):
            data = encode("rans", symbols, tables, lanes=lanes, block_bits=20)
            assert data == plain("rans", symbols, tables, lanes=lanes, block_bits=20)
            found = decode("rans", data, symbols.size, tables, lanes=lanes, block_bits=20)
            assert np.array_equal(found, symbols)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_impossible_symbol_is_named_wherever_it_is(dtype):
    tables = TableSet([FrequencyTable([100, 0, 156], 8), FrequencyTable([256, 0, 0], 8)])
    classes = ClassMap((100, 1, 1), 2, 0, row=np.arange(100) % 2)
    good = np.zeros(100, dtype)
    for at in (0, 5, 63, 64, 95, 99):
        for wrong in (1, 3, 255, 2 if at % 2 else 1):
            symbols = good.copy()
            symbols[at] = wrong
            with pytest.raises(ImpossibleSymbolError, match=rf"symbol {wrong} at {at} of its block"):
                encode("rans", symbols, tables, classes, lanes=32)


@pytest.mark.parametrize("coder", ["rans", "range", "huffman", "raw"])
def test_threads_do_not_change_the_bytes(build_case, coder):
    case = build_case("rans" if coder == "raw" else coder, 31, 12, 3, 4, 8, 5000, 1)
    if coder == "raw":
        assert encode("raw", case.symbols, width=5, threads=3) == encode("raw", case.symbols, width=5)
        return
    data = case.encode()
    for threads in (2, 3, 100):
        assert case.encode(threads=threads) == data
    bad = case.symbols.copy()
    bad[[700, 4000]] = 31
    for threads in (1, 4):
        with pytest.raises(ImpossibleSymbolError, match="at 188 of its block"):
            encode(coder, bad, case.tables, case.classes, **case.layout, threads=threads)
    with pytest.raises(CodecError, match="at least one thread"):
        case.encode(threads=0)


@pytest.mark.parametrize("weights", [[1], [1, 1], [200, 3, 1, 1], [1] * 31, [1 << i for i in range(14)]])
@pytest.mark.parametrize("bits", [8, 14])
def test_several_symbols_a_lookup(rng, weights, bits):
    tables = TableSet([FrequencyTable.dyadic_from_histogram(np.array(weights), bits)])
    used = np.flatnonzero(tables.tables[0].counts)
    weights = np.array(weights, float)[used]
    symbols = used[rng.choice(used.size, 40_000, p=weights / weights.sum())].astype(np.uint8)
    for count in (1 << bits, (1 << bits) + 17, 40_000):
        data = encode("huffman", symbols[:count], tables, block_bits=16)
        assert np.array_equal(decode("huffman", data, count, tables, block_bits=16), symbols[:count])
        # What is cut off or added is noticed, and nothing beyond `out` is written.
        whole = np.full(count + 32, 99, np.uint8)
        for bad in (data[: len(data) // 2], data[:-1], data + b"\0"):
            if bad == data:  # one symbol takes no bits
                continue
            with pytest.raises(CorruptStreamError):
                decode("huffman", bad, count, tables, block_bits=16, out=whole[16:-16])
        assert (whole[:16] == 99).all()
        assert (whole[-16:] == 99).all()


def test_bursts_are_what_single_lookups_give(build_case):
    tables = build_case("huffman", 31, 12, 3, 1, 8, 10, 5).tables
    for table in range(3):
        symbols, sizes = tables.bursts(table)
        windows = tables.windows[table << 12 : table + 1 << 12]
        for window in range(0, 1 << 12, 7):
            found, used = [], 0
            while len(found) < 8:
                entry = int(windows[window << used & 0xFFF])
                if used + (entry >> 16) > 12:
                    break
                found.append(entry & 0xFFFF)
                used += entry >> 16
            assert sizes[window] == len(found) | used << 8
            assert symbols[window, : len(found)].tolist() == found


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_range_decoding_guesses_the_most_frequent_symbol(rng, share):
    tables = TableSet(
        [FrequencyTable.from_histogram(np.roll(np.array([int(share * 1e6), 5000, 300, 1]), k), 12) for k in range(3)]
    )
    classes = ClassMap((30, 1000, 1), 3, 1, row=rng.integers(-1, 2, 30))
    each = classes.slice(0, 30_000)
    symbols = ((rng.random(30_000) > share) * rng.integers(0, 4, 30_000) + each) % 4
    data = encode("range", symbols.astype(np.uint8), tables, classes)
    assert np.array_equal(decode("range", data, 30_000, tables, classes), symbols)
    leaders = tables.leaders.tolist()
    assert [leader & 0xFFFF for leader in leaders] == [0, 1, 2]


@pytest.mark.parametrize("shape", [(17, 6, 1), (8, 5, 9), (3, 2, 4), (1, 40, 1)])
@pytest.mark.parametrize("n_tables", [3, 20])
def test_totals_are_sums_of_costs(rng, shape, n_tables):
    rows, columns, positions = shape
    symbols = rng.integers(0, 7, rows * columns * positions).astype(np.uint8)
    part = Part(symbols, shape, np.arange(rows + 1) * columns * positions, *(np.zeros(n, np.int64) for n in shape))
    part.row[:] = rng.integers(0, n_tables, rows)
    part.column[:] = rng.integers(-8, 8, columns)
    part.position[:] = rng.integers(-8, 8, positions)
    bits = np.rint(rng.random((n_tables, 7)) * 5000) / 256
    index = [part.row[:, None, None], part.column[None, :, None], part.position[None, None, :]]
    for along in range(ROW, POSITION + 1):
        first, count = (0, n_tables) if along == ROW else (-8, 16)
        found = part.totals(along, padded(bits), first, count)
        others = sum(vector for axis, vector in enumerate(index) if axis != along)
        for candidate in range(count):
            classes = np.clip(np.broadcast_to(others + first + candidate, shape), 0, n_tables - 1)
            costs = np.rint(bits[classes, symbols.reshape(shape)] * 256).astype(np.int64)
            expected = costs.sum(axis=tuple(axis for axis in range(3) if axis != along))
            assert np.array_equal(found[:, candidate], expected)


def test_fitting_does_not_depend_on_threads(rng):
    shapes = [(20, 30, 9), (50, 40, 1), (0, 3, 1)]
    sequences = []
    for shape in shapes:
        scale = np.exp2(rng.normal(0, 1, shape[0]))[:, None, None] * np.ones(shape)
        sequences.append(((np.clip(np.rint(rng.laplace(0, scale)), -9, 9) + 9).astype(np.uint8).ravel(), shape))
    tables, maps = fit_classes(sequences, 19, 9, passes=3)
    for threads in (2, 7):
        again, same = fit_classes(sequences, 19, 9, passes=3, threads=threads)
        assert again == tables
        for one, other in zip(maps, same, strict=True):
            assert np.array_equal(one.slice(0, one.size), other.slice(0, other.size))


def test_vectors_stay_within_their_words(rng):
    if processor.chosen_kernel() != "avx512":
        pytest.skip("this processor has no AVX-512, or is asked not to use it")
    kernel = Kernel("rans_encode_avx512", "rans_encode_avx512")
    tables = TableSet([FrequencyTable([1, 255], 8)])
    for lanes in (16, 32):
        symbols = np.zeros(lanes * 9 + 3, np.uint8)  # each of 8 bits: half a word
        memory = np.full(symbols.size + 16 + 128, 0xABCD, np.uint16)
        words, states = memory[64:-64], np.full(lanes, 1 << 16, np.uint32)
        first = kernel(symbols, np.empty(0, np.uint8), tables.intervals, 2, 8, states, words)
        assert first is not None and first >= 16
        assert (memory[:64] == 0xABCD).all()
        assert (memory[-64:] == 0xABCD).all()
