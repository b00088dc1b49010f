"""`unpack` writes files that other libraries read."""

import io

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import l2codec
from l2codec import FrequencyTable, TableSet
from l2fmt import Limits, unpack
from l2fmt._registry import RANS, UNIFORM
from l2fmt.container import Reader, Stream, TableSetEntry, Writer
from l2fmt.dtypes import DTYPES
from l2fmt.errors import FormatError, InputError, LimitExceededError, TargetExistsError
from l2fmt.torch import load, save


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and a[n].shape == b[n].shape
        and torch.equal(a[n].reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8))
        for n in a
    )


def test_safetensors_with_every_name_and_the_metadata(model, tmp_path):
    path = tmp_path / "model.safetensors"
    unpack(model, path)
    assert same(safetensors.torch.load_file(path), load(model))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"author": "nobody", "format": "pt"}


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name not in ("F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4_X2")])
def test_every_dtype_in_safetensors(dtype, tmp_path):
    kind = getattr(torch, DTYPES[dtype].torch_name)
    tensors = {
        "x": torch.arange(6).to(kind),
        "scalar": torch.tensor(1).to(kind),
        "empty": torch.empty((0, 2), dtype=kind),
    }
    tensors["bytes"] = torch.arange(3, dtype=torch.uint8)
    unpack(save(tensors), tmp_path / "x.safetensors")
    assert same(safetensors.torch.load_file(tmp_path / "x.safetensors"), tensors)


def test_packed_pairs_are_counted_one_by_one_in_safetensors(tmp_path):
    pairs = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
    unpack(save({"x": pairs}), tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.get_slice("x").get_dtype() == "F4"
        found = file.get_tensor("x")
    assert found.dtype == pairs.dtype and found.view(torch.uint8).tolist() == pairs.view(torch.uint8).tolist()


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_a_state_dict_keeps_ties(model, tmp_path, name):
    unpack(model, tmp_path / name)
    state = torch.load(tmp_path / name, weights_only=True)
    assert same(state, load(model))
    assert state["tied.weight"].data_ptr() == state["head.weight"].data_ptr()


class OneWay(io.RawIOBase):
    """A pipe: it can be written and nothing else."""

    def __init__(self):
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("format", ["safetensors", "pt"])
def test_into_a_pipe(model, format):
    pipe = OneWay()
    unpack(model, pipe, format=format)
    read = safetensors.torch.load if format == "safetensors" else lambda data: torch.load(io.BytesIO(data))
    assert same(read(pipe.data), load(model))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_dtype(model, tmp_path, name):
    unpack(model, tmp_path / name, dtype=torch.float16)
    read = safetensors.torch.load_file if name.endswith("s") else torch.load
    assert same(read(tmp_path / name), load(model, dtype=torch.float16))


def test_nothing_is_left_of_a_failure(model, flipped, tmp_path):
    for target in (tmp_path / "x.safetensors", tmp_path / "x.pt"):
        with pytest.raises(FormatError):
            unpack(flipped(model, 8 * (len(model) - 900)), target)
    with pytest.raises(InputError, match="format 'gguf'"):
        unpack(model, tmp_path / "x", format="gguf")
    with pytest.raises(InputError, match="target"):
        unpack(model, 3)
    with pytest.raises(InputError, match="__metadata__"):
        unpack(save({"__metadata__": torch.ones(1)}), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.pt").write_bytes(b"precious")
    with pytest.raises(TargetExistsError):
        unpack(model, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == b"precious"
    unpack(model, tmp_path / "x.pt", overwrite=True)
    assert same(torch.load(tmp_path / "x.pt"), load(model))


def test_copies_of_tied_weights_count(tmp_path):
    """A kilobyte may name a tensor of a megabyte 100,000 times: 100 GB in safetensors, and nothing in a state dict."""
    with Writer(tmp_path / "bomb.l2c") as writer:
        writer.add_table_set(TableSetEntry(8, 1, 0, 1, TableSet([FrequencyTable([256], 8)]).to_bytes()))
        stream = Stream(RANS, block_bits=30)
        data = l2codec.encode("rans", np.zeros(1 << 18, np.uint8), TableSet([FrequencyTable([256], 8)]), block_bits=30)
        writer.add_group([("w", DTYPES["F32"], (512, 512))], UNIFORM, [0, 1.0], (None, None), [(stream, data)])
        for number in range(100_000):
            writer.add_alias(f"a{number}", "w")
    limits = Limits(max_decoded_bytes=1 << 30)
    with pytest.raises(LimitExceededError, match=r"each alias: 104858648576 is above.*max_decoded_bytes") as caught:
        unpack(tmp_path / "bomb.l2c", tmp_path / "bomb.safetensors", limits=limits)
    assert caught.value.limit == "max_decoded_bytes"
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.l2c"]
    assert (tmp_path / "bomb.l2c").stat().st_size < 300_000
    unpack(tmp_path / "bomb.l2c", tmp_path / "bomb.pt", limits=limits)
    assert (tmp_path / "bomb.pt").stat().st_size < 30_000_000


def test_the_limit_of_copies(model, tmp_path):
    with Reader(model) as reader:
        total = sum(reader.resolve(name).nbytes for name in reader.names())
        assert total > reader.index.nbytes
    with pytest.raises(LimitExceededError, match="a copy for each alias"):
        unpack(model, tmp_path / "x.safetensors", limits=Limits(max_decoded_bytes=total - 1))
    unpack(model, tmp_path / "x.safetensors", limits=Limits(max_decoded_bytes=total))
    unpack(model, tmp_path / "x.pt", limits=Limits(max_decoded_bytes=total - 1))
