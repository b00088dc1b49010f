"""`l2fmt.torch`: the names and manners of safetensors."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import l2fmt
import l2fmt.numpy
from l2fmt.container import Limits
from l2fmt.errors import (
    InputError,
    LimitExceededError,
    MissingFileError,
    MissingTensorError,
    TargetExistsError,
    UnsupportedError,
)
from l2fmt.torch import load, load_file, load_model, safe_open, save, save_file, save_model


class Net(nn.Module):
    def __init__(self, outputs: int = 3):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, outputs)


def test_load_file_returns_all_tensors_and_ties_aliases(model_path):
    found = load_file(model_path)
    assert list(found) == [
        *("conv.weight", "conv.bias", "norm.weight", "norm.steps", "head.weight"),
        *("table", "exact", "mask", "empty", "tied.weight"),
    ]
    assert found["tied.weight"] is found["head.weight"]
    assert found["head.weight"].dtype == torch.float16
    assert found["table"].dtype == torch.bfloat16
    assert set(found["table"].unique().tolist()) <= {0.0, 1.0, -1.0, 7.0}
    assert found["norm.steps"].item() == 12345


def test_dtype_converts_floats_only(model_path):
    found = load_file(model_path, dtype=torch.bfloat16)
    kinds = {name: tensor.dtype for name, tensor in found.items()}
    assert kinds.pop("norm.steps") == torch.int64
    assert kinds.pop("mask") == torch.bool
    assert set(kinds.values()) == {torch.bfloat16}
    assert found["tied.weight"] is found["head.weight"]
    with pytest.raises(InputError, match="floating-point"):
        load_file(model_path, dtype=torch.int8)


@pytest.mark.parametrize(
    ("device", "kind", "match"),
    [
        ("cuda", UnsupportedError, "'cuda'.*no CUDA device.*device='cpu'"),
        (0, UnsupportedError, "'cuda:0'.*no CUDA device"),
        ("cuda:1", UnsupportedError, "no CUDA device"),
        ("meta", UnsupportedError, "cpu"),
        ("toaster", InputError, "toaster"),
    ],
)
def test_other_devices_are_refused_clearly(monkeypatch, model_path, device, kind, match):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for function in (load_file, lambda path, device: safe_open(path, "pt", device)):
        with pytest.raises(kind, match=match):
            function(model_path, device)
    assert load_file(model_path, torch.device("cpu"))


def test_a_dtype_that_this_torch_lacks(monkeypatch, model_path):
    monkeypatch.delattr(torch, "bfloat16")
    with pytest.raises(UnsupportedError, match="tensor 'table' is BF16"):
        load_file(model_path)


def test_limits_are_checked(model_path):
    with pytest.raises(LimitExceededError, match="max_decoded_bytes"):
        load_file(model_path, limits=Limits(max_decoded_bytes=1000))


def test_missing_paths_and_folders(tmp_path, model):
    with pytest.raises(MissingFileError, match=r"nothing.l2c"):
        load_file(tmp_path / "nothing.l2c")
    with pytest.raises(MissingFileError, match="without a model"):
        load_file(tmp_path)
    (tmp_path / "a.l2c").write_bytes(model)
    assert "exact" in load_file(tmp_path)
    (tmp_path / "b.l2c").write_bytes(model)
    with pytest.raises(InputError, match=r"several models; choose one of a.l2c, b.l2c"):
        load_file(str(tmp_path))


def test_load_takes_bytes_and_no_path(model, model_path):
    assert load(model)["norm.steps"].item() == 12345
    assert load(memoryview(model))["norm.steps"].item() == 12345  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="use load_file"):
        load(str(model_path))  # pyright: ignore[reportArgumentType]


def test_safe_open_is_lazy_and_says_what_is_there(model_path):
    with safe_open(model_path, framework="pt", device="cpu") as file:
        assert file.keys()[0] == "conv.weight"
        assert set(file.offset_keys()) == set(file.keys())
        assert file.metadata() == {"author": "nobody"}
        assert file.dtype("table") == "BF16"
        assert file.shape("tied.weight") == (10, 16)
        assert file.get_tensors()["exact"].dtype == torch.float64
        with pytest.raises(MissingTensorError, match=r"did you mean 'conv.bias'"):
            file.get_tensor("conv.bais")


def test_no_metadata_is_none():
    with safe_open(save({"a": torch.ones(2)})) as file:  # pyright: ignore[reportArgumentType]
        assert file.metadata() is None


def test_slices(model_path):
    whole = load_file(model_path)["conv.weight"]
    with safe_open(model_path) as file:
        part = file.get_slice("conv.weight")
        assert part.get_shape() == [16, 8, 3, 3]
        assert part.get_dtype() == "F32"
        for index in (0, slice(2, 9), (slice(None), 3), (..., 1), [1, 5], slice(None, None, 2)):
            assert torch.equal(part[index], whole[index])
        assert part[3].untyped_storage().nbytes() == whole[3].nbytes
        part[0].zero_()
        assert torch.equal(part[0], whole[0])
        with pytest.raises(MissingTensorError):
            file.get_slice("nothing")


def test_each_get_tensor_is_independent(model_path):
    with safe_open(model_path) as file:
        for name in ("conv.weight", "norm.weight", "tied.weight"):
            first = file.get_tensor(name)
            expected = first.clone()
            first.zero_()
            assert torch.equal(file.get_tensor(name), expected)


def test_vectors_of_a_shared_group_are_decoded_once(monkeypatch):
    import l2fmt.store

    tensors = {f"bn.{i}": torch.randn(20) for i in range(200)}
    calls = []
    decode = l2fmt.store.decode_group
    monkeypatch.setattr(l2fmt.store, "decode_group", lambda *a: calls.append(a) or decode(*a))
    with safe_open(save(tensors)) as file:  # pyright: ignore[reportArgumentType]
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    assert len(calls) == 1


def test_the_cache_of_groups_is_bounded(monkeypatch):
    import l2fmt.store

    monkeypatch.setattr(l2fmt.store, "_CACHE_BYTES", 0)
    tensors = {f"{kind}.{i}": torch.ones(5, dtype=kind) for kind in (torch.float32, torch.float16) for i in range(3)}
    data = save({str(name): tensor for name, tensor in tensors.items()})
    with safe_open(data) as file:  # pyright: ignore[reportArgumentType]
        for name in file.keys() * 2:
            assert torch.equal(file.get_tensor(name), tensors[name])
        assert len(file._store._cache) == 1


def test_numpy_arrays_from_the_same_class(model_path):
    with safe_open(model_path, framework="np") as file:
        assert file.get_tensor("exact").dtype == "float64"
    with pytest.raises(InputError, match="'tf'"):
        safe_open(model_path, framework="tf")


def test_metadata_of_the_producer_is_not_carried_over():
    data = save({"a": torch.ones(1)}, {"author": "x", "l2fmt.original_bytes": "999"})
    with safe_open(data) as file:  # pyright: ignore[reportArgumentType]
        assert file.metadata() == {"author": "x"}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"a": [1.0]}, "tensor 'a' is a list"),
        ({"a": torch.ones(2).to_sparse()}, "'a' is sparse"),
        ({"a": torch.ones(2, device="meta")}, "'a' is on the meta device"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "tensor 'a': dtype complex128"),
        ({"a\n": torch.ones(2)}, "control character"),
        ({"": torch.ones(2)}, "bytes"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, tensors, match):
    with pytest.raises(InputError, match=match):
        save_file(tensors, tmp_path / "x.l2c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tensor",
    [torch.from_numpy(np.empty(0, np.float32)), torch.ones(1).expand(0), torch.ones(4, 5)[:, 2][:1], torch.ones(9)[8]],
    ids=["empty", "expanded to nothing", "one of a column", "one"],
)
def test_tensors_of_one_element_or_none_have_any_stride(tensor):
    assert torch.equal(load(save({"x": tensor}))["x"], tensor)
    assert l2fmt.diff({"x": tensor}, {"x": tensor})[0].status == "identical"


def test_overwriting(tmp_path):
    path = tmp_path / "x.l2c"
    save_file({"a": torch.ones(2)}, path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(TargetExistsError):
        save_file({"a": torch.ones(2)}, path, overwrite=False)
    assert not load_file(path)["a"].any()


def test_nothing_at_all(tmp_path):
    save_file({}, tmp_path / "x.l2c")
    assert load_file(tmp_path / "x.l2c") == {}


def test_models_with_tied_weights(tmp_path):
    path = tmp_path / "net.l2c"
    torch.manual_seed(0)
    net = Net()
    save_model(net, path, {"kind": "test"})
    with safe_open(path) as file:
        assert file.aliases() == {"head.weight": "embed.weight"}
    other = Net()
    assert load_model(other, path) == ([], [])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.head.weight is other.embed.weight


def test_a_tied_name_is_not_missing(tmp_path):
    state = Net().state_dict()
    del state["embed.weight"]
    save_file(state, tmp_path / "net.l2c")
    net = Net()
    assert load_model(net, tmp_path / "net.l2c") == ([], [])
    assert torch.equal(net.embed.weight, state["head.weight"])


def test_a_model_that_does_not_fit_is_not_touched(tmp_path):
    path = tmp_path / "net.l2c"
    save_model(Net(outputs=7), path)
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=r"'out.weight' has shape \[7, 4\] in the file and \[3, 4\] in the module"):
        load_model(net, path, strict=False)
    save_file({"out.weight": torch.zeros(3, 4), "extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"missing 'embed.weight'.*unexpected 'extra'"):
        load_model(net, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    missing, unexpected = load_model(net, path, strict=False)
    assert "out.bias" in missing and unexpected == ["extra"]
    assert not net.out.weight.any()


def test_the_package_offers_the_same_functions(model_path):
    assert l2fmt.load_file is load_file and l2fmt.safe_open is safe_open
    assert l2fmt.load_file(model_path).keys() == load_file(model_path).keys()


VALID = sorted((Path(__file__).parents[2] / "spec" / "vectors" / "valid").iterdir())


@pytest.fixture
def flushing():
    """A thread in which subnormal numbers are zero, and floating-point errors are exceptions."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot be told to")
    with np.errstate(all="raise"):
        yield
    torch.set_flush_denormal(False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there can it be undone")
@pytest.mark.parametrize("threads", [1, 3])
def test_the_caller_may_flush_subnormals(request, threads):
    def bits(path: Path) -> dict[str, bytes]:
        return {name: a.tobytes() for name, a in l2fmt.numpy.load_file(path, threads=threads).items()}

    expected = {path: bits(path) for path in VALID}
    request.getfixturevalue("flushing")
    for path in VALID:
        assert bits(path) == expected[path], path.stem
        l2fmt.verify(path)
    assert (torch.tensor([1e-38]) / 4).item() == 0  # the thread is as it was


def test_deterministic_algorithms():
    def bits() -> list[bytes]:
        found = [tensor for path in VALID for tensor in load_file(path).values() if tensor.numel()]
        return [tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in found]

    expected = bits()
    torch.use_deterministic_algorithms(True)
    try:
        assert bits() == expected
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_module_on_the_meta_device(model_path):
    with torch.device("meta"):
        net = nn.Linear(3, 4)
    with pytest.raises(InputError, match=r"meta device.*to_empty"):
        load_model(net, model_path)


def test_saving_under_another_default_device():
    tensors = {"a": torch.randn(3, 4)}
    with torch.device("meta"):
        data = save(tensors)
    assert torch.equal(load(data)["a"], tensors["a"])


def test_limits_and_threads_of_load_model(tmp_path):
    net = Net()
    save_model(net, tmp_path / "net.l2c")
    assert load_model(Net(), tmp_path / "net.l2c", threads=2) == ([], [])
    with pytest.raises(LimitExceededError):
        load_model(Net(), tmp_path / "net.l2c", limits=Limits(max_decoded_bytes=10))
