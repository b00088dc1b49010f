"""What is saved comes back bit for bit: every dtype, every pattern, every shape, in one file or in shards."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import l2fmt.numpy
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError, FormatError, InputError, TargetExistsError
from l2fmt.torch import load, load_file, safe_open, save, save_file

NAMES = sorted(DTYPES)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def from_bits(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return a tensor of random bit patterns: infinities and NaNs with payloads among them."""
    kind = DTYPES[dtype]
    if 0 in shape:
        return torch.empty(shape, dtype=getattr(torch, kind.torch_name))
    data = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * kind.itemsize, np.uint8)
    if dtype == "BOOL":
        data &= 1
    return torch.from_numpy(data).view(getattr(torch, kind.torch_name)).reshape(shape)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


@pytest.mark.parametrize("dtype", NAMES)
def test_every_dtype_and_shape(dtype):
    shapes = [(), (0,), (1,), (7,), (3, 5), (2, 0, 3), (4, 3, 2, 2), (300, 70)]
    tensors = {str(shape): from_bits(dtype, shape, seed) for seed, shape in enumerate(shapes)}
    assert_same(load(save(tensors)), tensors)


@pytest.mark.parametrize(("dtype", "word"), [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("C64", 4)])
def test_special_values(dtype, word):
    kind = DTYPES[dtype]
    sign, top = 1 << (8 * word - 1), (1 << (8 * word - 1)) - 1
    exponent = top - ((1 << (kind.mantissa_bits or 0)) - 1)
    patterns = [0, sign, 1, sign | 1, exponent, sign | exponent, exponent | 1, exponent | 0x2A, top, sign | top]
    words = np.array(patterns, f"<u{word}")
    tensors = {"special": torch.from_numpy(words.view(np.uint8).copy()).view(getattr(torch, kind.torch_name))}
    assert_same(load(save(tensors)), tensors)
    assert l2fmt.numpy.load(save(tensors))["special"].tobytes() == words.tobytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12),
        st.tuples(st.sampled_from(NAMES), st.lists(st.integers(0, 6), max_size=3).map(tuple), st.integers(0, 1 << 32)),
        max_size=5,
    )
)
def test_any_dictionary(described):
    tensors = {name: from_bits(*arguments) for name, arguments in described.items()}
    data = save(tensors, {"any": "thing"})
    assert_same(load(data), tensors)
    assert data == save(tensors, {"any": "thing"})
    arrays = l2fmt.numpy.load(data)
    assert {name: array.tobytes() for name, array in arrays.items()} == {n: bits(t) for n, t in tensors.items()}


def test_smooth_tensors_of_every_float(tmp_path):
    values = torch.randn(200, 130, generator=torch.Generator().manual_seed(0))
    floats = [kind for kind in DTYPES.values() if kind.is_float]
    tensors = {kind.name: values.to(getattr(torch, kind.torch_name)) for kind in floats}
    save_file(tensors, tmp_path / "floats.l2c")
    assert_same(load_file(tmp_path / "floats.l2c"), tensors)
    original = sum(len(bits(tensor)) for tensor in tensors.values())
    assert (tmp_path / "floats.l2c").stat().st_size < 0.95 * original


def test_views_are_saved_as_what_they_show():
    base = torch.arange(60.0).reshape(6, 10)
    tensors = {"t": base.t(), "step": base[::2, 1::3], "expanded": base[:1].expand(4, 10), "row": base[2]}
    tensors["conj"] = torch.view_as_complex(base.reshape(6, 5, 2)).conj()
    found = load(save(tensors))
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_tied_tensors_come_back_as_one():
    weight = torch.randn(8, 4)
    tensors = {
        "a": weight,
        "b": weight,
        "view": weight.view(8, 4),
        "t": weight.t(),
        "part": weight[:4],
        "copy": weight.clone(),
    }
    data = save(tensors)
    found = load(data)
    assert found["a"] is found["b"] is found["view"]
    assert len({found[name].data_ptr() for name in ("a", "t", "part", "copy")}) == 4
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
    assert list(l2fmt.numpy.load(data)) == ["a", "t", "part", "copy", "b", "view"]


def test_shards(tmp_path):
    shared = torch.randn(40, 10)
    tensors = {f"layer.{i}": torch.randn(30, 10) for i in range(6)} | {"tied": shared, "big": torch.randn(100, 100)}
    tensors["alias"] = shared
    save_file(tensors, tmp_path / "model.l2c", {"a": "b"}, max_shard_bytes=3000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[-1] == "model.l2c.index.json" and len(names) > 3
    for path in (tmp_path / "model.l2c.index.json", tmp_path, tmp_path / "model.l2c"):
        found = load_file(path)
        assert {name: bits(tensor) for name, tensor in found.items()} == {n: bits(t) for n, t in tensors.items()}
        assert found["alias"] is found["tied"]
        with safe_open(path) as file:
            assert file.metadata() == {"a": "b"}
            assert set(file.keys()) == set(file.offset_keys()) == set(tensors)
            assert file.aliases() == {"alias": "tied"}
            assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    save_file(tensors, tmp_path / "single.l2c", max_shard_bytes=1 << 30)
    assert (tmp_path / "single.l2c").exists()


def test_shards_replace_a_model_as_a_whole(tmp_path):
    path = tmp_path / "model.l2c"
    old, new = ({f"w{i}": torch.full((500,), value) for i in range(3)} for value in (1.0, 2.0))
    save_file(old, path)
    with pytest.raises(TargetExistsError):
        save_file(new, path, max_shard_bytes=2000, overwrite=False)
    save_file(old, path, max_shard_bytes=2000)
    assert not path.exists() and load_file(path)["w2"][0] == 1
    for value in (False, True):
        with pytest.raises(InputError if value else TargetExistsError):
            save_file(new | {"bad\n": torch.ones(500)}, path, max_shard_bytes=2000, overwrite=value)
        assert len(list(tmp_path.iterdir())) == 4 and all(w[0] == 1 for w in load_file(path).values())
    save_file(new, path, max_shard_bytes=2000)
    assert len(list(tmp_path.iterdir())) == 4 and all(w[0] == 2 for w in load_file(path).values())


def test_shards_of_two_models_are_no_model(tmp_path):
    names = [f"w{i}" for i in range(3)]
    for model in ("one", "other"):
        (tmp_path / model).mkdir()
        tensors = {name: torch.randn(500) for name in names}
        save_file(tensors, tmp_path / model / "model.l2c", max_shard_bytes=2000)
        l2fmt.index(tmp_path / model)  # changes shards, but not what they hold
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(tmp_path / model).items())
    second = "model-00002-of-00003.l2c"
    (tmp_path / "one" / second).write_bytes((tmp_path / "other" / second).read_bytes())
    with pytest.raises(CorruptFileError, match=f"{second}' is not the one that the shard index was written for"):
        load_file(tmp_path / "one")


def test_load_then_save_to_the_same_path(tmp_path):
    path = tmp_path / "model.l2c"
    save_file({"a": torch.randn(50, 50), "b": torch.arange(5)}, path)
    before = path.read_bytes()
    save_file(load_file(path), path)
    assert path.read_bytes() == before
    with safe_open(path) as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118 (no mapping)
        assert torch.equal(file.get_tensor("b"), torch.arange(5))
    assert path.read_bytes() == before


def test_threads_share_one_open_file(tmp_path):
    tensors = {f"small.{i}": torch.randn(10 + i) for i in range(40)} | {
        f"big.{i}": torch.randn(150, 200) for i in range(6)
    }
    save_file(tensors, tmp_path / "model.l2c")
    wrong: list[object] = []
    with safe_open(tmp_path / "model.l2c") as file:

        def read(names: list[str]) -> None:
            try:
                wrong.extend(name for name in names if not torch.equal(file.get_tensor(name), tensors[name]))
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=read, args=(sorted(tensors, key=lambda n: hash((n, i))),)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_corrupt_file_leaves_nothing(tmp_path, model_path, flipped):
    state = {"conv.weight": torch.zeros(16, 8, 3, 3)}
    data = model_path.read_bytes()
    with safe_open(model_path) as file:
        group_start = len(data) - 600
        assert "exact" in file.keys()  # noqa: SIM118
    model_path.write_bytes(flipped(data, 8 * group_start))
    with pytest.raises(FormatError):
        state = load_file(model_path)
    assert not state["conv.weight"].any()
    assert [path.name for path in tmp_path.iterdir()] == ["model.l2c"]


MEMORY = """
import resource, sys
import numpy as np
from l2fmt.torch import load_file, save_file
import torch
path, warm = sys.argv[1:]
load_file(warm)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
tensors = load_file(path)
print(peak() - before, sum(t.nbytes for t in tensors.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_of_loading(tmp_path, model_path):
    from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, write_files
    from l2fmt.transforms import Uniform

    rng = np.random.default_rng(0)
    codes = np.rint(rng.standard_normal((2500, 2000), np.float32)).astype(np.int8)
    noise = rng.standard_normal(1 << 20, np.float32)
    tensors = [QuantizedTensor(f"w{i}", DTYPES["F32"], codes.shape, codes, Uniform(0.1)) for i in range(4)]
    plain = PlainTensor("noise", DTYPES["F32"], noise.shape, lambda: noise)
    path = tmp_path / "large.l2c"
    write_files(path, [*tensors, plain], {}, {}, Encoding(tables=1))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(model_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    peak, decoded = map(int, done.stdout.split())
    assert decoded > 80e6
    assert peak <= decoded + path.stat().st_size + (64 << 20)
