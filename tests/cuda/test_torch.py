"""`device="cuda"` of l2fmt.torch, with the simulated device in place of a GPU: its memory is the CPU's, torch's too."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

import l2fmt.cuda
from l2codec import KernelError
from l2codec.cuda.device import Device
from l2fmt.container import Reader
from l2fmt.container.reader import GroupBytes
from l2fmt.cuda import Place, TensorMemory
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError, InputError, MissingDependencyError, UnsupportedError
from l2fmt.pipeline import Encoding, QuantizedTensor, on_device, write_files
from l2fmt.torch import load_file, load_model, safe_open, save_file
from l2fmt.transforms import Uniform
from tests.cuda.device import Recorder, ShimDevice
from tests.cuda.test_files import decode

TORCH_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.complex64)


class Gpu:
    """What `device="cuda"` means in a test; `used` counts how often."""

    def __init__(self, place: Place):
        self._place, self.device, self.used = place, place.device, 0

    def open(self) -> Device:
        self.used += 1
        return self._place.open()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> "Gpu":
        monkeypatch.setattr(l2fmt.cuda, "gpu", lambda device: Place(self.device, self.open))
        return self


@pytest.fixture(scope="module")
def lossless() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {f"w{i}": torch.randn(70, 90, generator=generator).to(dtype) for i, dtype in enumerate(TORCH_DTYPES)}
    made |= {f"v{i}": torch.randn(i, generator=generator) for i in range(5)}
    return made | {"large": torch.randn(160, 110, generator=generator), "tied": made["w1"], "flag": torch.tensor(True)}


@pytest.fixture(scope="module")
def file(lossless, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "lossless.l2c"
    save_file(lossless, path)
    return path


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """A file of twelve groups."""
    generator = torch.Generator().manual_seed(1)
    path = tmp_path_factory.mktemp("gpu") / "twelve.l2c"
    save_file({f"w{i}": torch.randn(160, 110, generator=generator) for i in range(12)}, path)
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A file with coder `raw`, in which the last symbol of the alphabet would be infinite."""
    path, codes = tmp_path_factory.mktemp("gpu") / "raw.l2c", np.arange(-3, 4, dtype=np.int8).repeat(9)
    write_files(path, [QuantizedTensor("w", DTYPES["F32"], (63,), codes, Uniform(1e38))], {}, {}, Encoding("raw"))
    return path


@pytest.fixture(scope="module")
def codec(file, model, twelve) -> ShimDevice:
    recorder = Recorder()
    for source in (file, model, twelve):
        decode(source, recorder)
    device = ShimDevice()
    device.prepare(recorder.kernels)
    return device


@pytest.fixture
def gpu(monkeypatch, codec):
    return Gpu(Place(torch.device("cpu"), lambda: codec)).patch(monkeypatch)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether tensors have the same dtype, shape and bits."""
    pair = found.cpu(), expected.cpu()
    return found.dtype == expected.dtype and found.shape == expected.shape and len(set(map(bits, pair))) == 1


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())


def test_tensors_are_those_of_the_cpu(gpu, file, lossless):
    found = load_file(file, "cuda")
    assert gpu.used == 1 and list(found) == list(load_file(file))
    assert all(same(found[name], tensor) for name, tensor in lossless.items())
    assert found["tied"] is found["w1"]
    assert all(tensor.device.type == gpu.device.type and tensor.is_contiguous() for tensor in found.values())
    storages = {
        name: tensor.untyped_storage().data_ptr() for name, tensor in found.items() if name != "tied" and tensor.numel()
    }
    assert len(set(storages.values())) == len(storages)  # memory of its own, also of those that were coded together


def test_quantized_models(gpu, model_path):
    expected = load_file(model_path)
    found = load_file(model_path, "cuda")
    assert all(same(found[name], tensor) for name, tensor in expected.items())
    halves = load_file(model_path, "cuda", dtype=torch.bfloat16)
    expected = load_file(model_path, dtype=torch.bfloat16)
    assert all(same(halves[name], tensor) for name, tensor in expected.items())
    assert halves["tied.weight"] is halves["head.weight"]


def test_single_tensors(gpu, file, lossless):
    with safe_open(file, "pt", "cuda") as opened:
        for name, tensor in lossless.items():
            assert same(opened.get_tensor(name), tensor), name
        before = gpu.used
        first, second = opened.get_tensor("v3"), opened.get_tensor("v3")
        assert first is not second and first.data_ptr() != second.data_ptr()
        opened.get_tensor("v4")
        assert gpu.used - before <= 1  # a group of small tensors is kept
        assert same(opened.get_slice("large")[3:5], lossless["large"][3:5])
        assert list(opened.get_tensors()) == opened.keys()


def test_values_that_are_not_finite(gpu, raw):
    assert same(load_file(raw, "cuda")["w"], load_file(raw)["w"])


def test_files_that_a_gpu_writes_are_the_same(gpu, lossless, file, tmp_path):
    save_file(lossless, tmp_path / "again.l2c", device="cuda")
    assert gpu.used == 1 and (tmp_path / "again.l2c").read_bytes() == file.read_bytes()


def test_threads_read(gpu, file, lossless):
    found = load_file(file, "cuda", threads=3)
    assert all(same(found[name], tensor) for name, tensor in lossless.items())


def test_work_in_flight_is_bounded(gpu, codec, monkeypatch, twelve):
    expected, peaks, size = load_file(twelve), [], twelve.stat().st_size
    for limit in (1 << 40, 1):
        monkeypatch.setattr(on_device, "_BATCH_BYTES", limit)
        codec.peak_bytes = 0
        found = load_file(twelve, "cuda")
        assert all(same(found[name], tensor) for name, tensor in expected.items())
        peaks.append(codec.peak_bytes)
    assert peaks[0] > size and peaks[1] < size / 2 and not codec.live  # two groups of twelve, with their tables


def tampering(numbers: set[int], cut: int) -> Callable[[Reader, int], GroupBytes]:
    """Return a `Reader.read_group` that spoils the longest streams of some groups."""
    read_group = Reader.read_group

    def tampered(reader: Reader, number: int) -> GroupBytes:
        data = read_group(reader, number)
        if number in numbers:
            place = max(range(len(data.streams)), key=lambda i: len(data.streams[i]))
            part = data.streams[place].copy()
            part[len(part) // 2 :] ^= 0x55
            data.streams[place] = part[: len(part) - cut]
        return data

    return tampered


@pytest.mark.parametrize(("groups", "cut"), [((1,), 0), ((1, 2), 0), ((2, 0), 3)])
def test_the_first_error_in_order_is_raised_whatever_the_batches(gpu, monkeypatch, file, groups, cut):
    with Reader(file) as reader:
        long = [n for n, g in enumerate(reader.index.groups) if any(stream.length > 200 for stream in g.streams)]
    monkeypatch.setattr(Reader, "read_group", tampering({long[i] for i in groups}, cut))
    for limit in (1 << 40, 1):
        monkeypatch.setattr(on_device, "_BATCH_BYTES", limit)
        errors = []
        for device in ("cpu", "cuda"):
            with pytest.raises(CorruptFileError) as caught:
                load_file(file, device, threads=1)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
    assert not getattr(gpu.open(), "live", [])


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 1))


def test_modules(gpu, tmp_path):
    source, target = net(), net().to(gpu.device)
    save_file(source.state_dict(), tmp_path / "net.l2c")
    assert load_model(target, tmp_path / "net.l2c", device="cuda") == ([], [])
    assert gpu.used == 1
    assert all(same(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_parameters_that_are_not_contiguous(gpu, tmp_path):
    source, target = net(), net().to(gpu.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert not target[0].weight.is_contiguous()  # pyright: ignore[reportIndexIssue]
    save_file(source.state_dict(), tmp_path / "net.l2c")
    load_model(target, tmp_path / "net.l2c", device="cuda")
    assert all(same(value, source.state_dict()[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("what", ["memory", "file"])
def test_a_failure_leaves_no_half_filled_module(gpu, codec, monkeypatch, tmp_path, what):
    source, target = net(), net().to(gpu.device)
    save_file(source.state_dict(), tmp_path / "net.l2c")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    data = bytearray((tmp_path / "net.l2c").read_bytes())
    if what == "file":
        data[-20] ^= 1
        (tmp_path / "net.l2c").write_bytes(data)
    else:
        monkeypatch.setattr(codec, "allowed_bytes", 100)
    with pytest.raises(MemoryError if what == "memory" else CorruptFileError):
        load_model(target, tmp_path / "net.l2c", device="cuda")
    assert all(same(value, before[name]) for name, value in target.state_dict().items())


def test_arrays_are_not_on_a_gpu(gpu, file):
    with pytest.raises(InputError, match="'cuda'"):
        safe_open(file, "np", "cuda")


def test_what_is_missing_is_named(monkeypatch, file):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match=r"finds no CUDA device; device='cpu'"):
        load_file(file, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UnsupportedError, match=r"'cuda:2'.*2 CUDA devices"):
        load_file(file, 2)
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "l2codec.cuda._cupy", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'l2fmt\[cuda13\]'"):
        load_file(file, "cuda:1")


def test_memory_of_torch():
    memory = TensorMemory(1000, torch.device("cpu"))
    assert memory.address % 8 == 0
    with pytest.raises(MemoryError, match="scratch"):
        TensorMemory(1 << 60, torch.device("cpu"))


@pytest.mark.parametrize(("error", "kind"), [(torch.cuda.OutOfMemoryError, MemoryError), (RuntimeError, KernelError)])
def test_a_gpu_that_has_failed_is_not_out_of_memory(monkeypatch, error, kind):
    def failing(*arguments, **options):
        raise error("broken")

    monkeypatch.setattr(torch, "empty", failing)
    with pytest.raises(kind, match="broken"):
        TensorMemory(1000, torch.device("cuda", 0))
