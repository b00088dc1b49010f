"""Values of symbols against what numpy makes of them: every kind of word, scale, conversion, layout and coder."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2codec import (
    ClassMap,
    CodecError,
    CorruptStreamError,
    FrequencyTable,
    Stream,
    TableSet,
    Values,
    decode,
    decode_values,
    encode,
)

WORDS = (np.uint8, np.uint16, np.uint32, np.uint64)


def to_words(values: np.ndarray, word: type, bfloat16: bool) -> np.ndarray:
    """Return float32 values as words, by numpy's own conversions."""
    if bfloat16:
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype({2: np.float16, 4: np.float32, 8: np.float64}[np.dtype(word).itemsize]).view(word)


def slow(values: Values, symbols: np.ndarray) -> np.ndarray:
    """Return what `values` must become for symbols, by numpy."""
    word = values.out.dtype.type
    if isinstance(values.codebook, int):
        shifted = symbols.astype(word) << word(values.codebook)
        return values.out | shifted if values.join else shifted
    found = values.codebook[symbols]
    if found.dtype != np.float32:
        return found
    rows, columns, positions = values.shape or (1, symbols.size, 1)
    with np.errstate(over="ignore", under="ignore"):
        found = found.reshape(rows, columns, positions)
        if values.row_scale is not None:
            found = found * values.row_scale[:, None, None]
        if values.column_scale is not None:
            found = found * values.column_scale[None, :, None]
    return to_words(np.ascontiguousarray(found.ravel()), word, values.bfloat16)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_every_coder_writes_the_values_of_its_symbols(build_case, data):
    draw = data.draw
    coder, seed = draw(st.sampled_from(["rans", "range", "huffman"])), draw(st.integers(0, 1 << 30))
    lanes, alphabet = draw(st.sampled_from([1, 4, 8, 16, 32])), draw(st.sampled_from([1, 2, 40, 64, 65, 170, 256, 300]))
    count, n_tables = draw(st.integers(0, 3000)), draw(st.integers(1, 5))
    case = build_case(coder, alphabet, 10, n_tables, lanes, draw(st.integers(8, 11)), count, seed)
    rng = np.random.default_rng(seed)
    positions = next(p for p in draw(st.permutations([9, 4, 1])) if count % p == 0)
    columns = next(c for c in draw(st.permutations([400, 60, 7, 1])) if count // positions % c == 0)
    shape = (count // positions // columns, columns, positions)
    word, kind = draw(st.sampled_from(WORDS)), draw(st.sampled_from(["words", "floats", "shift", "join"]))
    out = rng.integers(0, 200, count).astype(word)
    if kind == "floats" and word != np.uint8:
        row, column = (rng.uniform(0.01, 9, n).astype(np.float32) if draw(st.booleans()) else None for n in shape[:2])
        codebook = (rng.normal(size=alphabet) * 10.0 ** rng.integers(-9, 6, alphabet)).astype(np.float32)
        bfloat16 = word == np.uint16 and draw(st.booleans())
        values = Values(out, codebook, row, column, shape, bfloat16)
    elif kind == "words" or alphabet > 256:
        values = Values(out, rng.integers(0, np.iinfo(word).max, alphabet, word))
    else:
        values = Values(out, draw(st.integers(0, 8 * out.itemsize - 8)), join=kind == "join")
    expected = slow(values, case.symbols)
    stream = case.encode()
    found = decode_values(
        coder, stream, values, case.tables, case.classes, **case.layout, threads=draw(st.integers(1, 3))
    )
    assert found is out and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("count", [256, 257, 512, 1000, 1024, 1300])
def test_blocks_that_are_decoded_together(count):
    rng = np.random.default_rng(count)
    symbols = rng.choice(5, count, p=[0.5, 0.2, 0.1, 0.1, 0.1]).astype(np.uint8)
    tables = TableSet([FrequencyTable.from_histogram(np.bincount(symbols, minlength=5), 12)])
    layout: dict[str, Any] = {"lanes": 32, "block_bits": 8}
    data = encode("rans", symbols, tables, **layout)
    assert Stream("rans", data, count, tables, **layout).part_size == (1 << 18 if count > 256 else 256)
    row = rng.random(count).astype(np.float32)
    values = Values(np.zeros(count, np.uint32), np.arange(5, dtype=np.float32), row, shape=(count, 1, 1))
    assert np.array_equal(decode("rans", data, count, tables, **layout), symbols)
    written = decode_values("rans", data, values, tables, **layout)
    assert np.array_equal(written.view(np.float32), symbols * row)
    for number in range(-(-count // 256)):
        first = (4 * -(-count // 256) if count > 256 else 0) + sum(
            len(encode("rans", symbols[256 * n : 256 * (n + 1)], tables, **layout)) for n in range(number)
        )
        broken = bytearray(data)
        broken[first + 3] ^= 0x40  # of the first lane's state
        for decoder in (
            lambda broken=broken: decode("rans", broken, count, tables, **layout),
            lambda broken=broken: decode_values("rans", broken, values, tables, **layout),
        ):
            with pytest.raises(CorruptStreamError, match=f"block {number}: "):
                decoder()


@pytest.mark.parametrize("width", [0, 3, 8, 11, 16])
def test_raw_symbols_have_values_too(width):
    rng = np.random.default_rng(width)
    symbols = rng.integers(0, 1 << width, 5000)
    codebook = rng.integers(0, 1 << 32, 1 << width).astype(np.uint32)
    values = Values(np.zeros(symbols.size, np.uint32), codebook)
    data = encode("raw", symbols, width=width)
    assert np.array_equal(decode_values("raw", data, values, width=width), codebook[symbols])


def test_raw_symbols_without_a_value_are_corruption():
    data = encode("raw", np.array([0, 1, 2, 3]), width=2)
    with pytest.raises(CorruptStreamError, match="symbol 3 is beyond the codebook of 3"):
        decode_values("raw", data, Values(np.zeros(4, np.uint32), np.zeros(3, np.uint32)), width=2)
    valid = np.array([True, True, False, True])
    values = Values(np.zeros(4, np.uint32), np.zeros(4, np.uint32), valid=valid)
    with pytest.raises(CorruptStreamError, match="has no value"):
        decode_values("raw", data, values, width=2)
    fine = encode("raw", np.array([0, 1, 1, 3]), width=2)
    decode_values("raw", fine, values, width=2)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_short_floats_round_as_numpy_rounds(bfloat16):
    rng = np.random.default_rng(1)
    exponents = np.arange(255, dtype=np.uint32)[:, None] << 23
    mantissas = np.concatenate(
        [rng.integers(0, 1 << 23, 60), np.arange(8) << 12, (np.arange(8) << 13) + 1, [(1 << 23) - 1]]
    )
    bits = (exponents | mantissas.astype(np.uint32)).ravel()
    floats = np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)  # no NaN: values are finite numbers
    symbols = np.arange(floats.size, dtype=np.uint16)
    for shape in ((1, symbols.size, 1), (symbols.size, 1, 1)):  # with a table of the row, and without
        values = Values(np.zeros(symbols.size, np.uint16), floats, shape=shape, bfloat16=bfloat16)
        values.write(symbols, 0)
        assert np.array_equal(values.out, slow(values, symbols))


@pytest.mark.parametrize("origin", [0, 50, 100, 199])
def test_symbols_far_from_the_likely_ones_are_looked_up_as_well(origin):
    symbols = np.random.default_rng(0).integers(0, 200, 9999).astype(np.uint8)
    tables = TableSet([FrequencyTable.from_histogram(np.bincount(symbols, minlength=200), 12)], origin)
    data = encode("rans", symbols, tables, lanes=32)
    for word in WORDS:
        codebook = np.random.default_rng(1).integers(0, np.iinfo(word).max, 200, word)
        found = decode_values("rans", data, Values(np.zeros(symbols.size, word), codebook), tables, lanes=32)
        assert np.array_equal(found, codebook[symbols])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_decoding_to_symbols_does_not_depend_on_threads(build_case, seed, threads):
    case = build_case("rans", 60, 12, 4, 32, 8, 5000, seed)
    assert np.array_equal(case.decode(case.encode(), threads=threads), case.symbols)


@pytest.mark.parametrize("shape", [(3, 70000, 1), (3, 1, 70000), (2, 9000, 9), (2, 5, 15000)])
def test_classes_of_long_rows_are_summed_in_parts(shape):
    rng = np.random.default_rng(0)
    vectors = [rng.integers(-6, 7, n) for n in shape]
    classes = ClassMap(shape, 16, 7, *vectors)
    row, column, position = vectors
    expected = np.clip(7 + row[:, None, None] + column[:, None] + position, 0, 15).ravel()
    start = shape[1] * shape[2] - 1000
    assert np.array_equal(classes.slice(start, start + 3000), expected[start : start + 3000])


def test_corruption_names_the_first_block_whatever_the_threads():
    symbols = np.random.default_rng(0).integers(0, 50, 5000).astype(np.uint8)
    tables = TableSet([FrequencyTable.from_histogram(np.bincount(symbols), 12)])
    data = bytearray(encode("rans", symbols, tables, lanes=4, block_bits=8))
    for at in (-3, len(data) // 2):
        data[at] ^= 1
    values = Values(np.zeros(symbols.size, np.uint32), np.zeros(50, np.uint32))
    messages = set()
    for threads in (1, 2, 3, 8):
        with pytest.raises(CorruptStreamError) as caught:
            decode("rans", data, 5000, tables, lanes=4, block_bits=8, threads=threads)
        messages.add(str(caught.value))
        with pytest.raises(CorruptStreamError) as caught:
            decode_values("rans", data, values, tables, lanes=4, block_bits=8, threads=threads)
        messages.add(str(caught.value))
    assert len(messages) == 1 and "block 9" in messages.pop()


@pytest.mark.parametrize(
    "arguments",
    [
        {"out": np.zeros(6, np.int32), "codebook": np.zeros(4, np.int32)},
        {"out": np.zeros((2, 3), np.uint32), "codebook": np.zeros(4, np.uint32)},
        {"out": np.zeros(12, np.uint32)[::2], "codebook": np.zeros(4, np.uint32)},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.uint16)},
        {"out": np.zeros(6, np.uint8), "codebook": np.zeros(4, np.float32)},
        {"out": np.zeros(6, np.uint32), "codebook": 32},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.uint32), "join": True},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.uint32), "valid": np.ones(3, bool)},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.uint32), "row_scale": np.ones(1, np.float32)},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.float32), "row_scale": np.ones(2, np.float32)},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.float32), "row_scale": np.ones(1)},
        {"out": np.zeros(6, np.uint32), "codebook": np.zeros(4, np.float32), "shape": (2, 2, 1)},
    ],
)
def test_values_that_do_not_fit_are_refused(arguments):
    with pytest.raises(CodecError):
        Values(**arguments)


def test_streams_refuse_values_of_another_size():
    tables = TableSet([FrequencyTable([128, 64, 64], 8)])
    stream = Stream("rans", encode("rans", np.array([0, 1, 2, 0]), tables), 4, tables)
    for values in (
        Values(np.zeros(5, np.uint32), np.zeros(3, np.uint32)),
        Values(np.zeros(4, np.uint32), np.zeros(2, np.uint32)),
        Values(np.zeros(4, np.uint8), 7),
    ):
        with pytest.raises(CodecError):
            stream.decode_values(0, values)
    with pytest.raises(CodecError, match="no part 1"):
        stream.decode(1, np.zeros(4, np.uint8))
    with pytest.raises(CodecError, match="at least one thread"):
        decode("rans", b"", 0, tables, threads=0)
