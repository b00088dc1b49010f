"""`unpack` writes files that other libraries read."""

import io

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from l2fmt import unpack
from l2fmt.dtypes import DTYPES
from l2fmt.errors import FormatError, InputError, TargetExistsError
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
