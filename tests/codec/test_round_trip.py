"""Every coder gives back what it was given, and the kernels agree with the reference to the byte."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2codec import decode, encode

relaxed = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
seeds = st.integers(0, 2**32 - 1)
cases = {
    "coder": st.sampled_from(["rans", "range", "huffman"]),
    "alphabet": st.sampled_from([1, 2, 3, 31, 256, 257, 3000]),
    "probability_bits": st.integers(8, 14),
    "n_tables": st.sampled_from([1, 2, 5, 16]),
    "lanes": st.sampled_from([1, 2, 4, 8, 16, 32]),
    "block_bits": st.integers(8, 10),
    "seed": seeds,
}


@given(**cases, count=st.sampled_from([0, 1, 31, 32, 33, 255, 256, 257, 1024, 2000, 5000]))
@settings(max_examples=300, **relaxed)
def test_kernels_round_trip(build_case, **parameters):
    case = build_case(**parameters)
    data = case.encode()
    decoded = case.decode(data)
    assert decoded.dtype == (np.uint8 if parameters["alphabet"] <= 256 else np.uint16)
    assert np.array_equal(decoded, case.symbols)
    assert case.encode() == data


@given(**cases | {"block_bits": st.just(8)}, count=st.sampled_from([0, 1, 2, 31, 32, 33, 256, 300]))
@settings(max_examples=150, **relaxed)
def test_kernels_agree_with_the_reference(build_case, **parameters):
    case = build_case(**parameters)
    data = case.encode()
    assert case.encode(backend="reference") == data
    assert np.array_equal(case.decode(data, backend="reference"), case.symbols)


@given(width=st.integers(0, 16), count=st.sampled_from([0, 1, 7, 8, 9, 100]), seed=seeds)
@settings(max_examples=200, deadline=None)
def test_raw_round_trip(width, count, seed):
    symbols = np.random.default_rng(seed).integers(0, 1 << width, count).astype(np.uint16)
    data = encode("raw", symbols, width=width)
    assert len(data) == (count * width + 7) // 8
    assert data == encode("raw", symbols, width=width, backend="reference")
    for backend in ("numba", "reference"):
        decoded = decode("raw", data, count, width=width, backend=backend)
        assert decoded.dtype == (np.uint8 if width <= 8 else np.uint16)
        assert np.array_equal(decoded, symbols)


@pytest.mark.parametrize("width", [3, 8, 11])
def test_raw_crosses_slices(width):
    symbols = np.random.default_rng(0).integers(0, 1 << width, (1 << 20) + 5).astype(np.uint16)
    assert np.array_equal(decode("raw", encode("raw", symbols, width=width), symbols.size, width=width), symbols)


@pytest.mark.parametrize("coder", ["rans", "range", "huffman"])
def test_large_blocks(build_case, coder):
    case = build_case(coder, 31, 12, 5, 32, 16, 200_001, 7)
    assert np.array_equal(case.decode(case.encode()), case.symbols)


@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_a_lane_costs_24_bits(build_case, lanes):
    from l2codec import code_length

    over = []
    for seed in range(20):
        case = build_case("rans", 31, 12, 1, lanes, 12, 4000, seed)
        over.append(8 * len(case.encode()) - code_length(case.symbols, case.tables, case.classes))
    assert abs(np.mean(over) / lanes - 24) < 8
