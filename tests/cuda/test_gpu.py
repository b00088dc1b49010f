"""The tests of the simulated device once more on a real one, through CuPy, and what only a real one can show."""

import importlib.util

import numpy as np
import pytest
import torch

import l2fmt.cuda
from l2fmt.torch import load_file, load_model, save_file
from tests.cuda.test_files import test_every_invalid_vector_is_refused_with_the_same_words, test_every_valid_vector
from tests.cuda.test_streams import (
    checks,
    test_encoding_what_takes_no_kernel,
    test_floats_become_float16_as_numpy_rounds_them,
    test_long_streams_of_one_of_several_tables,
    test_streams_that_are_decoded_together,
    test_streams_that_are_encoded,
    test_symbols_that_cannot_be_encoded,
    test_tables,
)
from tests.cuda.test_torch import (
    Gpu,
    file,
    lossless,
    net,
    raw,
    same,
    test_files_that_a_gpu_writes_are_the_same,
    test_modules,
    test_parameters_that_are_not_contiguous,
    test_quantized_models,
    test_single_tensors,
    test_tensors_are_those_of_the_cpu,
    test_the_first_error_in_order_is_raised_whatever_the_batches,
    test_threads_read,
    test_values_that_are_not_finite,
    twelve,
)


def _missing() -> str | None:
    """Return why nothing can be tested here."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_missing() is not None, reason=_missing() or "")]

__all__ = [
    "checks",
    "file",
    "lossless",
    "raw",
    "test_encoding_what_takes_no_kernel",
    "test_every_invalid_vector_is_refused_with_the_same_words",
    "test_every_valid_vector",
    "test_files_that_a_gpu_writes_are_the_same",
    "test_floats_become_float16_as_numpy_rounds_them",
    "test_long_streams_of_one_of_several_tables",
    "test_modules",
    "test_parameters_that_are_not_contiguous",
    "test_quantized_models",
    "test_single_tensors",
    "test_streams_that_are_decoded_together",
    "test_streams_that_are_encoded",
    "test_symbols_that_cannot_be_encoded",
    "test_tables",
    "test_tensors_are_those_of_the_cpu",
    "test_the_first_error_in_order_is_raised_whatever_the_batches",
    "test_threads_read",
    "test_values_that_are_not_finite",
    "twelve",
]


@pytest.fixture(scope="module")
def device():
    from l2codec.cuda._cupy import CupyDevice

    return CupyDevice()


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(l2fmt.cuda.gpu(torch.device("cuda"))).patch(monkeypatch)


def test_work_is_on_the_current_stream_and_waits_for_what_was_there_before(lossless, file):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles
        found = load_file(file, "cuda")
        doubled = {name: tensor + tensor for name, tensor in found.items() if tensor.dtype == torch.float32}
    torch.cuda.current_stream().wait_stream(stream)
    assert all(same(found[name], tensor) for name, tensor in lossless.items())
    assert all(same(tensor, 2 * lossless[name]) for name, tensor in doubled.items())


def test_the_current_device_stays_as_it_is(file, lossless):
    count = torch.cuda.device_count()
    for number in range(count):
        found = load_file(file, number)
        assert {tensor.device for tensor in found.values()} == {torch.device("cuda", number)}
        assert all(same(found[name], tensor) for name, tensor in lossless.items())
        assert torch.cuda.current_device() == 0


def test_a_module_on_a_gpu_is_decoded_there(gpu, tmp_path):
    source, target = net(), net().to(gpu.device)
    save_file(source.state_dict(), tmp_path / "net.l2c")
    load_model(target, tmp_path / "net.l2c")
    assert gpu.used == 1
    assert all(same(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_scratch_memory_is_released(file):
    load_file(file, "cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    found = load_file(file, "cuda")
    sizes = {tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in found.values()}
    del found
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before and sum(sizes.values()) > 0


def test_too_little_memory_leaves_no_half_filled_module(tmp_path):
    source, target = torch.nn.Linear(8000, 8000, bias=False), torch.nn.Linear(8000, 8000, bias=False).cuda()
    with torch.no_grad():
        source.weight.copy_(torch.from_numpy(np.ones((8000, 8000), np.float32)))
    save_file(source.state_dict(), tmp_path / "net.l2c")
    before = target.weight.detach().clone()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total + 1e-4)
    try:
        with pytest.raises(MemoryError):
            load_model(target, tmp_path / "net.l2c")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(target.weight, before)
