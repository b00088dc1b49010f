"""What `l2codec.cuda._cupy` asks CuPy for: it decodes and encodes through a CuPy that is simulated."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from l2codec import KernelError, cuda
from l2codec.cuda.device import Launch
from l2codec.cuda.encoding import encode
from tests.cuda import cases
from tests.cuda.fake_cupy import FakeGpus


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("L2FMT_CACHE_DIR", str(tmp_path))
    gpus = FakeGpus()
    gpus.install(monkeypatch)
    yield gpus
    sys.modules.pop("l2codec.cuda._cupy", None)


def reload():
    """Return the module as a new process would import it."""
    sys.modules.pop("l2codec.cuda._cupy", None)
    return importlib.import_module("l2codec.cuda._cupy")


def several() -> cases.Case:
    """Return a case whose tables need more shared memory than a kernel gets unasked."""
    return cases.build("rans", 200, 14, 5, 4, 8, 900, 7)


def test_decoding_and_encoding(gpus):
    made, device = several(), reload().CupyDevice()
    values = cases.Values(cases.garbage(900, np.uint8), 0)
    check = cases.Check("", cases.stream_of(made), values, made.symbols.tobytes())
    assert cases.decode(device, [check]) == []
    assert check.values.out.tobytes() == check.expected
    assert max(gpus.shared.values()) > 5 << 14  # of 5 tables of 2**14 slots
    assert encode(device, "rans", made.symbols, made.tables, made.classes, **made.layout) == made.encode()
    assert set(cuda.OPTIONS) < set(gpus.options) and "-arch=sm_90" in gpus.options


def test_machine_code_is_kept(gpus):
    made = several()
    for expected in (2, 2):  # how many kernels have been compiled: for the tables, and to encode
        device = reload().CupyDevice()
        assert encode(device, "rans", made.symbols, made.tables, made.classes, **made.layout) == made.encode()
        assert gpus.compiled == expected


def test_another_gpu_and_a_stream_of_the_caller(gpus):
    made, asked = several(), []
    module = reload()

    def allocate(nbytes):
        asked.append((nbytes, gpus.current))
        return module.PoolMemory(nbytes)

    gpus.stream = 77
    for number in (1, 0):
        device = module.CupyDevice(number, 77, allocate)
        assert encode(device, "range", made.symbols, made.tables, made.classes, block_bits=8)
        assert asked and {gpu for _, gpu in asked} == {number} and gpus.current == 0
        asked.clear()


def test_a_gpu_that_is_newer_than_the_compiler_gets_ptx(gpus):
    name, image = reload().compile_kernel("105", "tables", "fill_tables")
    assert (name, image[-1:]) == ("lowered", b"\0") and "-arch=compute_90" in gpus.options


def test_without_the_compiler(gpus, monkeypatch):
    def missing():
        raise RuntimeError("no libnvrtc.so")

    module = reload()
    monkeypatch.setattr(module.nvrtc, "getVersion", missing)
    with pytest.raises(KernelError, match=r"NVRTC cannot be used: no libnvrtc\.so"):
        module.CupyDevice().launch(Launch("tables", "fill_tables", 1, 32, []))


def test_errors_of_cuda(gpus, monkeypatch):
    module = reload()
    device = module.CupyDevice()
    with pytest.raises(KernelError, match=r"NVRTC cannot compile nonsense.*\n.*the log"):
        device.launch(Launch("tables", "nonsense", 1, 32, []))
    with pytest.raises(KernelError, match="the GPU has failed: CUDA_ERROR_INVALID_VALUE"):
        device.launch(Launch("tables", "fill_tables", 1, 32, [], 1 << 20))
    full = SimpleNamespace(alloc=lambda nbytes: (_ for _ in ()).throw(module.cupy.cuda.memory.OutOfMemoryError()))
    monkeypatch.setattr(module.cupy.cuda, "alloc", full.alloc)
    with pytest.raises(MemoryError, match="too little memory"):
        device.allocate(1000)
