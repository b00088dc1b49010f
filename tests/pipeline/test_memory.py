"""Decoding takes the memory that `Limits` says."""

import io
import tracemalloc

import numpy as np
import pytest

from l2fmt.container import Reader
from l2fmt.dtypes import DTYPES
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, decode_group, write_files
from l2fmt.transforms import Uniform

SMALL = 1 << 20  # tables, class maps and what an interpreter needs besides


def model(*tensors: QuantizedTensor | PlainTensor, coder: str) -> bytes:
    buffer = io.BytesIO()
    write_files(buffer, tensors, {}, {}, Encoding(coder))
    return buffer.getvalue()


def peak_of_decoding(data: bytes) -> tuple[int, int, int]:
    """Return the peak of memory of decoding the first group a second time, its stored and its decoded bytes."""
    with Reader(data) as reader:
        group = reader.index.groups[0]
        decode_group(reader, 0)
        tracemalloc.start()
        try:
            decode_group(reader, 0)
            return tracemalloc.get_traced_memory()[1], group.length, group.nbytes
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("coder", ["raw", "huffman", "rans"])
def test_one_tensor_takes_its_stored_and_its_decoded_bytes(coder):
    codes = np.random.default_rng(0).integers(-3, 4, (512, 2048), np.int8)
    data = model(QuantizedTensor("weight", DTYPES["F32"], codes.shape, codes, Uniform(0.1)), coder=coder)
    peak, stored, decoded = peak_of_decoding(data)
    assert decoded == 4 << 20
    assert decoded <= peak <= stored + decoded + SMALL


def test_several_tensors_take_twice_the_decoded_bytes():
    # 1,000 vectors: tensors as small as these share a group.
    array = np.zeros(1000, np.float32)
    data = model(*(PlainTensor(f"{n}", DTYPES["F32"], (1000,), lambda: array) for n in range(1000)), coder="raw")
    peak, stored, decoded = peak_of_decoding(data)
    assert decoded == 4_000_000
    assert 2 * decoded <= peak <= stored + 2 * decoded + SMALL
