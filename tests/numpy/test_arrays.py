"""`l2fmt.numpy`: arrays, and no torch."""

import subprocess
import sys

import numpy as np
import pytest

from l2fmt.errors import InputError, UnsupportedError
from l2fmt.numpy import load, load_file, safe_open, save, save_file


def test_it_works_without_torch(tmp_path):
    script = f"""
import sys
sys.modules["torch"] = None
import numpy as np, l2fmt, l2fmt.numpy
path = {str(tmp_path / "a.l2c")!r}
l2fmt.numpy.save_file({{"a": np.arange(6.0).reshape(2, 3), "b": np.ones(3, np.float16)}}, path)
assert l2fmt.numpy.load_file(path)["a"].sum() == 15
with l2fmt.numpy.safe_open(path) as file:
    assert file.get_tensor("b").dtype == np.float16
assert l2fmt.verify(path).tensors == 2
assert l2fmt.inspect(path).tensors[0].shape == (2, 3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "u8", "c8"])
def test_both_byte_orders(kind, order):
    array = np.arange(-3, 9).astype(order + kind).reshape(3, 4)
    found = load(save({"a": array}))["a"]
    assert np.array_equal(found, array)
    assert found.dtype == np.dtype("<" + kind)


def test_arrays_that_are_the_same_memory_are_stored_once():
    array = np.arange(12.0).reshape(3, 4)
    found = load(save({"a": array, "b": array, "view": array[:], "t": array.T, "row": array[1], "e": array[:0]}))
    assert found["a"] is found["b"] is found["view"]
    assert np.array_equal(found["t"], array.T) and np.array_equal(found["row"], array[1])
    assert found["e"].shape == (0, 4)


def test_floats_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.linspace(-3, 3, 40).reshape(8, 5)
    arrays = {name: values.astype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
    with safe_open(save(arrays)) as file:  # pyright: ignore[reportArgumentType]
        assert [file.dtype(name) for name in arrays] == ["BF16", "F8_E4M3", "F8_E5M2"]
        for name, array in arrays.items():
            assert np.array_equal(file.get_tensor(name).view(array.dtype), array)


def test_conversion(model_path):
    assert load_file(model_path)["table"].dtype == np.uint16
    found = load_file(model_path, dtype=np.float32)
    assert set(np.unique(found["table"])) <= {0.0, 1.0, -1.0, 7.0}
    assert (found["exact"].dtype, found["norm.steps"].dtype, found["mask"].dtype) == ("float32", "int64", "bool")
    for wrong in (np.int32, "nonsense", "bfloat16"):
        with pytest.raises(InputError, match="float16"):
            load_file(model_path, dtype=wrong)


def test_eight_bit_floats_are_not_converted():
    import torch

    from l2fmt.torch import save as save_torch

    data = save_torch({"scale": torch.ones(3).to(torch.float8_e4m3fn)})
    assert load(data)["scale"].dtype == np.uint8
    with pytest.raises(UnsupportedError, match="'scale' is F8_E4M3"):
        load(data, dtype=np.float32)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([1.0], "tensor 'a' is a list"),
        (np.array(["text"]), "tensor 'a': dtype str"),
        (np.array([None]), "tensor 'a': dtype object"),
        (np.ones(2, np.complex128), "tensor 'a': dtype complex128"),
    ],
)
def test_what_cannot_be_saved_is_named(value, match):
    with pytest.raises(InputError, match=match):
        save({"a": value})


def test_scalars_and_slices(tmp_path):
    save_file({"s": np.float32(3), "a": np.arange(20).reshape(4, 5)}, tmp_path / "x.l2c", {"k": "v"})  # pyright: ignore
    with safe_open(tmp_path / "x.l2c") as file:
        assert file.metadata() == {"k": "v"}
        assert file.get_tensor("s").shape == ()
        part = file.get_slice("a")
        assert part[1, 2] == 7 and np.array_equal(part[:, ::2], np.arange(20).reshape(4, 5)[:, ::2])
        part[0][:] = 0
        assert part[0].sum() == 10
    with pytest.raises(InputError, match="framework 'pt'"):
        safe_open(tmp_path / "x.l2c", framework="pt")
