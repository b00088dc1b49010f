"""Files decoded block by block, by threads: several streams of different blocks, scales of every dtype, raw codes."""

import numpy as np
import pytest

from l2codec import ClassMap, FrequencyTable, TableSet, encode
from l2fmt.container import Reader
from l2fmt.container.entries import Stream, TableSetEntry
from l2fmt.container.writer import Writer
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline import decode_group
from l2fmt.transforms import Geometric, Uniform, from_float32, to_float32

SHAPE = (300, 40, 5)
COUNT = 300 * 40 * 5
UNIFORM, GEOMETRIC, BITS = 1, 3, 0
RANS, RAW = 1, 0


def tables_of(symbols, alphabet, n_tables=1):
    hist = np.bincount(symbols, minlength=alphabet)
    return TableSet([FrequencyTable.from_histogram(hist + 50 * k, 12) for k in range(n_tables)], alphabet // 2)


def entry_of(tables):
    bits, origin = tables.probability_bits, tables.origin
    return TableSetEntry(bits, tables.alphabet, origin, len(tables), tables.to_bytes())


def written(dtype, transform, parameters, scales, streams, table_sets, row=b"", column=b""):
    with Writer() as writer:
        for tables in table_sets:
            writer.add_table_set(entry_of(tables))
        writer.add_group([("w", DTYPES[dtype], SHAPE)], transform, parameters, scales, streams, row, column)
    return writer.getvalue()


def decoded(data, threads):
    with Reader(data) as reader:
        return decode_group(reader, 0, threads=threads)["w"]


@pytest.mark.parametrize("scale_dtype", ["F32", "F16", "BF16", "F8_E8M0"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_scales_of_every_dtype(dtype, scale_dtype):
    rng = np.random.default_rng(0)
    symbols = np.clip(rng.normal(50, 12, COUNT), 0, 99).astype(np.uint8)
    tables = tables_of(symbols, 100)
    stream = encode("rans", symbols, tables, lanes=32, block_bits=12)
    scale = DTYPES[scale_dtype]
    if scale_dtype == "F8_E8M0":
        row, column = (rng.integers(110, 140, n).astype(np.uint8) for n in SHAPE[:2])
    else:
        row, column = (from_float32(rng.uniform(0.1, 3, n).astype(np.float32), scale) for n in SHAPE[:2])
    value = Uniform(0.37).values(np.arange(100) - 50)[symbols].reshape(SHAPE)
    for first, second in ((row, None), (None, column), (row, column)):
        expected = value
        if first is not None:
            expected = expected * to_float32(first, scale)[:, None, None]
        if second is not None:
            expected = expected * to_float32(second, scale)[None, :, None]
        scales = tuple(None if s is None else scale for s in (first, second))
        raw = [b"" if s is None else s.tobytes() for s in (first, second)]
        entry = Stream(RANS, len(stream), block_bits=12, lane_bits=5)
        data = written(dtype, UNIFORM, [50, float(np.float32(0.37))], scales, [(entry, stream)], [tables], *raw)
        expected = from_float32(np.ascontiguousarray(expected), DTYPES[dtype])
        assert all(decoded(data, threads).tobytes() == expected.tobytes() for threads in (1, 3))


def test_fields_whose_blocks_have_different_lengths():
    rng = np.random.default_rng(1)
    words = rng.normal(size=COUNT).astype(np.float32).view(np.uint32)
    shift, streams, table_sets = 0, [], []
    for width, coder, block_bits in ((8, RAW, 0), (8, RANS, 9), (7, RAW, 0), (9, RANS, 13)):
        field = (words >> shift) & ((1 << width) - 1)
        shift += width
        if coder == RAW:
            data = encode("raw", field, width=width)
            streams.append((Stream(RAW, len(data), width), data))
            continue
        tables = tables_of(field, 1 << width)
        data = encode("rans", field.astype(np.uint16), tables, lanes=8, block_bits=block_bits)
        entry = Stream(RANS, len(data), table_set=len(table_sets), block_bits=block_bits, lane_bits=3)
        streams.append((entry, data))
        table_sets.append(tables)
    file = written("F32", BITS, [0, 8, 8, 7, 9], (None, None), streams, table_sets)
    assert all(decoded(file, threads).tobytes() == words.tobytes() for threads in (1, 2, 4))


def test_raw_codes_need_finite_values_only_where_they_occur():
    parameters = [128, 1.0, 2.0]  # 2 ** 128 is beyond float32
    codes = np.arange(COUNT) % 255 + 1
    codes[codes == 128 + 127] = 128
    expected = Geometric(1.0, 2.0).values(codes - 128)

    def file(codes):
        data = encode("raw", codes, width=8)
        return written("F32", GEOMETRIC, parameters, (None, None), [(Stream(RAW, len(data), 8), data)], [])

    assert np.array_equal(decoded(file(codes), 2).ravel(), expected)
    with pytest.raises(CorruptFileError, match="'w': a symbol has no value"):
        decoded(file(codes - 1), 2)


def test_errors_are_those_of_the_first_block():
    symbols = np.random.default_rng(0).integers(0, 100, COUNT).astype(np.uint8)
    tables = tables_of(symbols, 100, 3)
    classes = ClassMap(SHAPE, 3, 1)
    data = bytearray(encode("rans", symbols, tables, classes, lanes=8, block_bits=12))
    data[-1] ^= 1
    data[len(data) // 3] ^= 1
    entry = Stream(RANS, len(data), class_base=1, block_bits=12, lane_bits=3)
    file = written("F32", UNIFORM, [50, 1.0], (None, None), [(entry, bytes(data))], [tables])
    found = set()
    for threads in (1, 2, 5):
        with pytest.raises(CorruptFileError) as caught:
            decoded(file, threads)
        found.add(str(caught.value))
    assert len(found) == 1 and "'w': block 4" in found.pop()
