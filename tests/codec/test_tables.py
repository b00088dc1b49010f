"""Frequency tables: validation, optimality of the quantizers, and the canonical serialised form."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2codec import CodecError, CorruptStreamError, FrequencyTable, TableSet, _quantize, _reference

histograms = st.lists(st.integers(0, 1000) | st.integers(0, 3), min_size=1, max_size=40)


def code_length(hist, counts, total):
    return sum(h * math.log2(total / c) if c else 0 for h, c in zip(hist, counts, strict=True) if h)


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([255], 8), ([256, 1], 8), ([-1, 257], 8), ([], 8), ([[256]], 8), ([256.0], 8), ([128], 7), ([1 << 15], 15)],
)
def test_invalid_counts_are_refused(counts, bits):
    with pytest.raises(CodecError):
        FrequencyTable(counts, bits)


def test_a_table_is_immutable_and_comparable():
    given_counts = np.array([100, 156])
    table = FrequencyTable(given_counts, 8)
    given_counts[0] = 0
    assert table.counts.tolist() == [100, 156]
    with pytest.raises(ValueError, match="read-only"):
        table.counts[0] = 1
    assert table == FrequencyTable([100, 156], 8) != FrequencyTable([156, 100], 8)
    assert len({table, FrequencyTable([100, 156], 8)}) == 1
    assert not table.is_dyadic
    assert FrequencyTable([64, 64, 128, 0], 8).is_dyadic
    assert np.array_equal(FrequencyTable([64, 64, 128, 0], 8).cost_bits(), [2, 2, 1, np.inf])


@pytest.mark.parametrize("total_bits", [3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_quantized_counts_are_optimal(total_bits, seed):
    rng = np.random.default_rng(seed)
    hist = rng.integers(0, [2, 5, 100, 10000][seed % 4], 4)
    hist[0] += 1
    used, total = np.flatnonzero(hist), 1 << total_bits
    found = _quantize.optimal_counts(hist, total_bits)
    assert found.sum() == total
    assert (found > 0).tolist() == (hist > 0).tolist()
    compositions = itertools.product(range(1, total + 1), repeat=used.size)
    best = min(code_length(hist[used], c, total) for c in compositions if sum(c) == total)
    assert code_length(hist, found, total) <= best + 1e-6


@pytest.mark.parametrize("seed", range(30))
def test_no_exchange_improves_the_quantized_counts(seed):
    """At the optimum of a separable convex cost no unit moved from one symbol to another gains."""
    rng = np.random.default_rng(seed)
    hist = np.floor(rng.exponential(10 ** rng.uniform(0, 6), int(rng.integers(2, 300)))).astype(np.int64)
    hist[-1] += 1
    bits = int(rng.integers(9, 15))
    counts = FrequencyTable.from_histogram(hist, bits).counts[hist > 0].astype(np.float64)
    used = hist[hist > 0]
    gain = (used * np.log2((counts + 1) / counts)).max()
    loss = np.where(counts > 1, used * np.log2(counts / np.maximum(counts - 1, 0.5)), np.inf).min()
    assert gain <= loss * (1 + 1e-6)


@given(histograms, st.integers(8, 14))
@settings(deadline=None)
def test_tables_of_any_histogram(hist, bits):
    for make in (FrequencyTable.from_histogram, FrequencyTable.dyadic_from_histogram):
        table = make(hist, bits)
        if any(hist):
            assert [c > 0 for c in table.counts] == [h > 0 for h in hist]
    assert table.is_dyadic


def test_ties_go_to_the_lower_symbols():
    assert FrequencyTable.from_histogram([1, 1, 1], 8).counts.tolist() == [86, 85, 85]


def test_more_symbols_than_slots_are_refused():
    with pytest.raises(CodecError):
        FrequencyTable.from_histogram(np.ones(257, int), 8)
    assert (FrequencyTable.dyadic_from_histogram(np.ones(256, int), 8).counts == 1).all()


@pytest.mark.parametrize("seed", range(20))
def test_prefix_codes_are_optimal(seed):
    """Against all complete sets of code lengths within the limit."""
    rng = np.random.default_rng(seed)
    limit, n = 4, int(rng.integers(2, 6))
    hist = rng.integers(1, [3, 30, 3000][seed % 3], n) ** int(rng.integers(1, 3))
    found = _quantize.dyadic_counts(hist, limit)
    assert found.sum() == 1 << limit
    lengths = itertools.product(range(1, limit + 1), repeat=n)
    best = min(sum(hist * np.array(ls)) for ls in lengths if sum(2.0**-l for l in ls) <= 1)  # noqa: E741
    assert code_length(hist, found, 1 << limit) == pytest.approx(best)


def random_set(rng, alphabet, n_tables, bits):
    tables = []
    for _ in range(n_tables):
        hist = np.floor(rng.exponential(rng.choice([0.5, 3, 300]), alphabet)).astype(np.int64)
        tables.append(FrequencyTable.from_histogram(hist, bits))
    return TableSet(tables, int(rng.integers(alphabet)))


@given(st.sampled_from([1, 2, 3, 31, 256]), st.integers(1, 4), st.integers(8, 14), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_serialised_sets_round_trip(alphabet, n_tables, bits, seed):
    tables = random_set(np.random.default_rng(seed), alphabet, n_tables, bits)
    data = tables.to_bytes()
    counts = [table.counts.tolist() for table in tables.tables]
    assert data == _reference.write_tables(counts, tables.origin)
    assert TableSet.from_bytes(data, n_tables, alphabet, bits, tables.origin) == tables
    assert _reference.read_tables(data, n_tables, alphabet, bits, tables.origin) == counts


@pytest.mark.parametrize("seed", range(15))
def test_the_serialised_form_is_canonical(seed):
    """Whatever is done to the bytes, they are refused or they are the one form of what they then mean."""
    rng = np.random.default_rng(seed)
    alphabet, n_tables = int(rng.choice([2, 5, 31])), int(rng.integers(1, 3))
    tables = random_set(rng, alphabet, n_tables, 8)
    data = tables.to_bytes()
    changed = [data[:i] for i in range(len(data))] + [data + b"\0"]
    changed += [(int.from_bytes(data, "little") ^ 1 << i).to_bytes(len(data), "little") for i in range(8 * len(data))]
    for bad in changed:
        arguments = (n_tables, alphabet, 8, tables.origin)
        try:
            parsed = TableSet.from_bytes(bad, *arguments)
        except CorruptStreamError:
            with pytest.raises(CorruptStreamError):
                _reference.read_tables(bad, *arguments)
        else:
            assert parsed.to_bytes() == bad
            assert _reference.read_tables(bad, *arguments) == [table.counts.tolist() for table in parsed.tables]


@pytest.mark.parametrize(
    "arguments",
    [(0, 6, 8, 1), (65, 6, 8, 1), (1, 0, 8, 0), (1, 65537, 8, 0), (1, 6, 7, 1), (1, 6, 15, 1), (1, 6, 8, 6)],
)
def test_parameters_out_of_range_are_refused(arguments):
    with pytest.raises(CodecError):
        TableSet.from_bytes(b"\x80\x60\x80\x40\x10", *arguments)


def test_sets_must_share_their_form():
    a, b = FrequencyTable([256], 8), FrequencyTable([128, 128], 8)
    for tables, origin in (
        ([a, b], 0),
        ([a, FrequencyTable([512], 9)], 0),
        ([], 0),
        ([a] * 65, 0),
        ([a], 1),
        ([a], -1),
    ):
        with pytest.raises(CodecError):
            TableSet(tables, origin)
    assert TableSet([b], 0) != TableSet([b], 1)
