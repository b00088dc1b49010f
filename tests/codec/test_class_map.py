"""Class maps against the plain formula, what they cost, and what they refuse."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2codec import ClassMap, CodecError, FrequencyTable, TableSet, _reference, code_length, recommended_layout


@given(st.integers(0, 700), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_slices_follow_the_formula(build_class_map, count, n_tables, seed):
    rng = np.random.default_rng(seed)
    classes = build_class_map(count, n_tables, rng)
    if isinstance(classes, int):
        return
    expected = _reference.class_list(classes, count)
    assert classes.size == count == len(expected)
    assert classes.slice(0, count).tolist() == expected
    start, stop = sorted(rng.integers(0, count + 1, 2).tolist())
    buffer = np.full(count + 3, 99, np.uint8)
    part = classes.slice(start, stop, buffer)
    assert part.tolist() == expected[start:stop]
    assert np.shares_memory(part, buffer) or part.size == 0
    assert (buffer[stop - start :] == 99).all()


@pytest.mark.parametrize("shape", [(1, 1 << 40, 1), (1 << 20, 1 << 10, 1 << 10), (1, 1, 1 << 40), (1 << 40, 1, 1)])
def test_slices_take_memory_for_the_slice_alone(shape):
    vectors = [np.ones(n, np.int8) if n <= 1 << 20 else None for n in shape]
    classes = ClassMap(shape, 4, 0, *vectors)
    tracemalloc.start()
    part = classes.slice((1 << 39) + 12345, (1 << 39) + 22345)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert (part == min(3, sum(v is not None for v in vectors))).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (2, 3, 1), "n_tables": 0},
        {"shape": (2, 3, 1), "n_tables": 65},
        {"shape": (2, 3, 1), "n_tables": 2, "base": 2},
        {"shape": (2, 3, 1), "n_tables": 2, "base": -1},
        {"shape": (2, 3), "n_tables": 2},
        {"shape": (2, -3, 1), "n_tables": 2},
        {"shape": (2, 3, 1), "n_tables": 2, "row": np.zeros(3, np.int8)},
        {"shape": (2, 3, 1), "n_tables": 2, "row": np.zeros((2, 1), np.int8)},
        {"shape": (2, 3, 1), "n_tables": 2, "column": np.array([1, 2, 128])},
        {"shape": (2, 3, 1), "n_tables": 2, "position": np.zeros(1)},
        {"shape": (0, 0, 0), "n_tables": 2, "row_lengths": np.array([1, -1])},
        {"shape": (0, 0, 0), "n_tables": 2, "row_lengths": np.array([1]), "column": np.zeros(1, np.int8)},
    ],
)
def test_invalid_maps_are_refused(arguments):
    with pytest.raises(CodecError):
        ClassMap(**arguments)


def test_maps_keep_their_own_vectors():
    row = np.array([0, 1], np.int8)
    classes = ClassMap((2, 3, 1), 2, 0, row)
    row[:] = 0
    assert classes.slice(0, 6).tolist() == [0, 0, 0, 1, 1, 1]
    assert not classes.is_constant
    assert ClassMap((2, 3, 1), 1, 0, row + 1).is_constant
    with pytest.raises(CodecError):
        classes.slice(3, 7)


def test_code_length_is_the_sum_of_the_costs():
    tables = TableSet([FrequencyTable([128, 64, 64, 0], 8), FrequencyTable([16, 16, 32, 192], 8)])
    symbols = np.array([0, 1, 2, 3, 3, 0], np.uint8)
    classes = ClassMap((2, 3, 1), 2, 0, np.array([0, 1]))
    assert code_length(symbols, tables, classes) == pytest.approx(1 + 2 + 2 + 2 * np.log2(256 / 192) + 4)
    assert code_length(symbols, tables, 1) == pytest.approx(4 + 4 + 3 + 2 * np.log2(256 / 192) + 4)
    assert code_length(symbols, tables, 0) == np.inf
    assert code_length(symbols[:0], tables, 0) == 0


@pytest.mark.parametrize("rate", [0.01, 0.3, 2, 8])
@pytest.mark.parametrize("count", [1, 1000, 10**5, 3 * 10**6, 10**8])
def test_the_recommended_layout_is_cheap(count, rate):
    lanes, block_bits = recommended_layout(rate * count, count)
    blocks = -(-count // 2**block_bits)
    overhead = (24 * lanes + (32 if blocks > 1 else 0)) * blocks
    assert overhead <= (0.0018 if blocks == 1 else 0.001) * rate * count or lanes == 1
    if rate * count > 24_000 * 32 * 2 and rate >= 1:
        assert lanes == 32
