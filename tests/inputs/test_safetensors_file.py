"""Safetensors files: every dtype, order, metadata, and damage."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from l2fmt.errors import InputError
from l2fmt.inputs import open_source

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


def raw_file(header: str | Mapping[str, object], data: bytes = b"") -> bytes:
    """Build the bytes of a safetensors file with any header."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_passes_through(name: str) -> None:
    size = DTYPES[name].itemsize
    data = bytes(i % 2 for i in range(3 * size))
    header = {"t": {"dtype": name, "shape": [3], "data_offsets": [0, len(data)]}}
    with open_source(raw_file(header, data)) as source:
        found = source.get("t")
        assert found.dtype == DTYPES[name]
        assert bytes(found.view(torch.uint8).tolist()) == data
        assert source.nbytes == source.tensor_nbytes("t") == len(data)


def test_order_is_that_of_the_bytes_and_metadata_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "b": torch.ones(2),
        "a": torch.ones(2, dtype=torch.int64),
        "empty": torch.ones(0, 4),
        "one": torch.ones(()),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    with open_source(path) as source:
        assert source.names()[0] == "a"  # the library stores wide dtypes first
        assert sorted(source.names()) == sorted(tensors)
        assert all(torch.equal(source.get(name), tensor) for name, tensor in tensors.items())
        assert source.metadata() == {"format": "pt"}
        assert source.nbytes == 8 + 16 + 4
        assert source.aliases() == {}


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_file({"a": torch.ones(2)}, path)
    assert open_source(str(path)).names() == ["a"]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes(kind: type) -> None:
    with open_source(kind(save({"a": torch.arange(3)}))) as source:
        assert source.get("a").tolist() == [0, 1, 2]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = save({"a": torch.arange(4.0), "b": torch.ones(3)}, metadata={"k": "v"})
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.safetensors"):
            open_source(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (raw_file("{}"), "no tensors"),
        (raw_file({"__metadata__": {"a": "b"}}), "no tensors"),
        (raw_file('{"t":'), "not a valid safetensors file"),
        (raw_file({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(5)), "not a valid"),
        (raw_file({"t": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "F99"),
        (raw_file('{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + '"x":1}', bytes(1)), "not a valid"),
        (
            raw_file(
                '{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
                b"1",
            ),
            "the key 't' appears twice",
        ),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a valid safetensors file"),
    ],
)
def test_damaged_headers(content: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_source(content)


def test_a_dtype_torch_lacks_is_refused_when_read() -> None:
    header = {"t": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}
    with open_source(raw_file(header, bytes(3))) as source, pytest.raises(InputError, match=r"tensor 't'.*F6_E2M3"):
        source.get("t")


def test_a_key_has_nothing_to_choose_from() -> None:
    with pytest.raises(InputError, match="key='model'"):
        open_source(save({"a": torch.ones(1)}), key="model")
