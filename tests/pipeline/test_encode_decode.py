"""Models written and read back: every transform, coder, dtype and layout against the definition of a decoded value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2fmt.container import Limits, Reader, strip
from l2fmt.container.sections import RESUME
from l2fmt.container.writer import Writer
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError, LimitExceededError, MissingTensorError
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, decode_group, decode_tensor, write_model
from l2fmt.pipeline.resume import check_resume
from l2fmt.transforms import Codebook, Geometric, Joint, Uniform, from_float32, round_mantissa

CODERS = ("rans", "range", "huffman", "raw")
TRANSFORMS = (Uniform(0.05), Joint(0.05, 0.02), Geometric(0.4, 1.03), Codebook(np.linspace(-1, 1, 41), -20))


def written(tensors, encoding=None, **metadata):
    writer = Writer(None, metadata=metadata)
    with writer:
        write_model(writer, tensors, encoding)
    return writer.getvalue()


def codes_of(shape, seed=0, spread=2.0, limit=20):
    values = np.random.default_rng(seed).laplace(0, spread, shape)
    return np.clip(np.rint(values), -limit, limit).astype(np.int16)


def expected(tensor):
    """Decode by definition, spec/transforms.md 1."""
    values = tensor.transform.values(tensor.codes.reshape(tensor.shape))
    trailing = (1,) * (len(tensor.shape) - 1)
    if tensor.row_scale is not None:
        values = values * tensor.row_scale.reshape(-1, *trailing)
    if tensor.column_scale is not None:
        values = values * tensor.column_scale.reshape(1, -1, *trailing[1:])
    return from_float32(values.astype(np.float32), tensor.dtype)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_quantized_tensors_decode_by_definition(coder, transform, dtype):
    shapes = [(16, 8, 3, 3), (40, 30), (7,), (), (5, 0, 3)]
    tensors = [
        QuantizedTensor(f"t{i}", DTYPES[dtype], shape, codes_of(shape, i), transform) for i, shape in enumerate(shapes)
    ]
    reader = Reader(written(tensors, Encoding(coder)))
    for tensor in tensors:
        found = decode_tensor(reader, tensor.name)
        assert found.shape == tensor.shape
        assert found.tobytes() == expected(tensor).tobytes()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("scaled", ["rows", "columns", "both"])
def test_scales_multiply_rows_then_columns(dtype, scaled):
    rng = np.random.default_rng(3)
    row = rng.uniform(0.5, 2, 64).astype(np.float32) if scaled != "columns" else None
    column = rng.uniform(0.5, 2, 48).astype(np.float32) if scaled != "rows" else None
    codes = codes_of((64, 48, 5, 5))  # more than one slice
    tensor = QuantizedTensor("w", DTYPES[dtype], codes.shape, codes, Uniform(0.1), row, column)
    assert decode_tensor(Reader(written([tensor])), "w").tobytes() == expected(tensor).tobytes()


def test_wide_and_narrow_codes_have_their_own_tables():
    narrow = QuantizedTensor("narrow", DTYPES["F32"], (50, 20), codes_of((50, 20)), Uniform(0.1))
    wide = QuantizedTensor("wide", DTYPES["F32"], (50, 20), codes_of((50, 20), 1, 300, 5000), Uniform(0.1))
    reader = Reader(written([narrow, wide]))
    alphabets = {r.alphabet for r in reader.index.table_sets}
    assert any(a <= 256 for a in alphabets) and any(a > 256 for a in alphabets)
    for tensor in (narrow, wide):
        assert decode_tensor(reader, tensor.name).tobytes() == expected(tensor).tobytes()


def test_codes_of_other_tensors_that_have_no_value():
    """A grid that grows fast is infinite at codes that only its neighbour has: they cannot share tables."""
    steep = QuantizedTensor("steep", DTYPES["F32"], (20, 20), codes_of((20, 20), limit=5), Geometric(1.0, 3.0))
    flat = QuantizedTensor("flat", DTYPES["F32"], (50, 20), codes_of((50, 20), 1, 40, 120), Geometric(1.0, 1.05))
    reader = Reader(written([steep, flat]))
    for tensor in (steep, flat):
        assert decode_tensor(reader, tensor.name).tobytes() == expected(tensor).tobytes()


def test_several_blocks_and_many_lanes():
    codes = codes_of((1200, 1000), spread=4.0)
    tensor = QuantizedTensor("big", DTYPES["F32"], codes.shape, codes, Uniform(0.01))
    reader = Reader(written([tensor]))
    stream = reader.index.groups[0].streams[0]
    assert stream.lane_bits == 5 and codes.size > 1 << stream.block_bits
    assert decode_tensor(reader, "big").tobytes() == expected(tensor).tobytes()


def plain(name, dtype, array, bits=None):
    return PlainTensor(name, DTYPES[dtype], array.shape, lambda: array, bits)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_plain_tensors_keep_every_bit(data):
    tensors, arrays = [], {}
    for i in range(data.draw(st.integers(1, 5))):
        name = data.draw(st.sampled_from(sorted(DTYPES)))
        dtype = DTYPES[name]
        shape = data.draw(st.sampled_from([(), (0,), (3,), (2, 3), (4, 1, 2), (17, 5)]))
        size = int(np.prod(shape)) * dtype.words
        words = data.draw(st.binary(min_size=size * dtype.word.itemsize, max_size=size * dtype.word.itemsize))
        if dtype.kind == "bool":
            words = bytes(b & 1 for b in words)
        arrays[f"t{i}"] = np.frombuffer(words, dtype.word).view(dtype.numpy).reshape(shape)
        tensors.append(plain(f"t{i}", name, arrays[f"t{i}"]))
    reader = Reader(written(tensors))
    assert list(reader.tensors) == list(arrays)
    for name, array in arrays.items():
        found = decode_tensor(reader, name)
        assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


def test_smooth_floats_are_coded_and_noise_is_not():
    rng = np.random.default_rng(0)
    smooth = plain("smooth", "F32", rng.normal(size=(300, 200)).astype(np.float32))
    noise = plain("noise", "U8", rng.integers(0, 256, (300, 200)).astype(np.uint8))
    reader = Reader(written([smooth, noise]))
    assert reader.index.groups[0].length < 0.9 * 240_000
    assert reader.index.groups[1].length == 60_000


def test_rounded_vectors_share_a_group():
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.normal(size=10 + i).astype(np.float32) for i in range(20)}
    reader = Reader(written([plain(n, "F32", a, 5) for n, a in arrays.items()]))
    assert len(reader.index.groups) == 1
    for name, array in arrays.items():
        assert decode_tensor(reader, name).tobytes() == round_mantissa(array, 5).tobytes()


@pytest.mark.parametrize("coder", CODERS)
def test_equal_models_give_equal_bytes(coder):
    def model():
        return [
            QuantizedTensor("w", DTYPES["F32"], (40, 30), codes_of((40, 30)), Uniform(0.1)),
            plain("b", "F32", np.random.default_rng(1).normal(size=40).astype(np.float32), 5),
        ]

    assert written(model(), Encoding(coder)) == written(model(), Encoding(coder))


def test_resume_points_are_right_and_can_be_stripped():
    codes = codes_of((600, 500), spread=3.0)
    tensors = [QuantizedTensor("w", DTYPES["F32"], codes.shape, codes, Uniform(0.1))]
    data = written(tensors, Encoding(resume_interval=128))
    with Reader(data) as reader:
        assert reader.section(RESUME) is not None
        assert reader.index.groups[0].streams[0].lane_bits == 5
        assert check_resume(reader) == (600 * 500 - 1) // (32 * 128)
    plain_data = written(tensors)
    assert strip(data, None) == plain_data


def test_decoding_into_memory_of_the_caller():
    codes = codes_of((30, 20))
    tensor = QuantizedTensor("w", DTYPES["BF16"], codes.shape, codes, Uniform(0.1))
    out = np.zeros(600, np.uint16)
    decode_group(Reader(written([tensor])), 0, [out])
    assert out.tobytes() == expected(tensor).tobytes()


def test_limits_come_before_memory():
    tensor = QuantizedTensor("w", DTYPES["F32"], (1000, 1000), np.zeros((1000, 1000), np.int8), Uniform(1.0))
    data = written([tensor])
    assert len(data) < 400  # a table of one symbol codes any number of weights
    with pytest.raises(LimitExceededError, match="'w'"):
        decode_tensor(Reader(data, limits=Limits(max_tensor_bytes=3_999_999)), "w")


def test_what_cannot_be_coded_is_refused():
    with pytest.raises(InputError, match="3 integer codes are needed"):
        QuantizedTensor("w", DTYPES["F32"], (3,), np.zeros(2, np.int8), Uniform(1.0))
    with pytest.raises(InputError, match="I32 cannot be quantized"):
        QuantizedTensor("w", DTYPES["I32"], (3,), np.zeros(3, np.int8), Uniform(1.0))
    with pytest.raises(InputError, match="its codebook has -20 to 20"):
        written([QuantizedTensor("w", DTYPES["F32"], (2, 2), np.full(4, 21), TRANSFORMS[3])])
    with pytest.raises(InputError, match="the step is too fine"):
        written([QuantizedTensor("w", DTYPES["F32"], (2, 1), np.array([0, 1 << 17]), Uniform(1.0))])
    with pytest.raises(InputError, match="the codes of tensor 'w'"):
        written([QuantizedTensor("w", DTYPES["F32"], (100, 200), np.arange(20000), Uniform(1.0))])
    with pytest.raises(InputError, match="'w': its codes 0 to 2 stand for values beyond float32"):
        written([QuantizedTensor("w", DTYPES["F64"], (2, 1), np.array([0, 2]), Uniform(3e38))])
    for value in (0.0, -1.0, np.inf, np.nan, 1e-60, 1e60):
        with pytest.raises(InputError, match=r"'w': a scale is .*; it must be a finite positive float32"):
            QuantizedTensor(
                "w", DTYPES["F32"], (1, 2), np.zeros((1, 2), np.int8), Uniform(1.0), None, np.array([1, value])
            )
    with pytest.raises(InputError, match="there is no coder"):
        Encoding("zip")
    with pytest.raises(MissingTensorError):
        decode_tensor(Reader(written([])), "w")
