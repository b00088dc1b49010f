"""The part of CuPy that `l2codec.cuda._cupy` uses, for a GPU that is simulated: kernels run on the CPU, in its memory.

Functions take what CuPy's bindings take: integers, and addresses as integers.
"""

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from l2codec import cuda
from tests.cuda import shim
from tests.cuda.device import LARGE

UNASKED_SHARED_BYTES = 48 << 10
SHARED_ATTRIBUTE = 8


class FakeError(RuntimeError):
    """What the driver, the runtime and NVRTC raise."""


class FakeGpus:
    """Two GPUs. Streams are known by any number, `stream` is the one that must be used."""

    def __init__(self) -> None:
        self.current, self.stream, self.compiled = 0, 0, 0
        self.options: list[str] = []
        self.shared: dict[int, int] = {}  # what has been asked for, by function
        self._functions: list[tuple[int, str, shim.Library]] = []  # the GPU, and the kernel
        self._allocated: list[Any] = []

    # The driver.

    def load(self, image: bytes) -> int:
        module, kernel = image.decode().rstrip("\0").split("|")
        self._functions.append((self.current, kernel, shim.build(cuda.read_source(module), [kernel])))
        return len(self._functions)

    def launch(self, function: int, *arguments: int) -> None:
        gpu, kernel, library = self._functions[function - 1]
        blocks, *ones, threads, one, another, shared, stream, parameters, extra = arguments
        assert [*ones, one, another, extra] == [1, 1, 1, 1, 0] and (gpu, stream) == (self.current, self.stream)
        if shared > self.shared.get(function, UNASKED_SHARED_BYTES):
            raise FakeError("CUDA_ERROR_INVALID_VALUE")
        library.launch_as_driver(kernel, blocks, threads, parameters, shared)

    # The runtime.

    def copy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        assert kind in (1, 2) and stream == self.stream
        ctypes.memmove(target, source, nbytes)

    def wait(self, stream: int) -> None:
        assert stream == self.stream

    # NVRTC.

    def compile(self, program: dict[str, Any], options: tuple[str, ...]) -> None:
        self.options, self.compiled = list(options), self.compiled + 1
        if "nonsense" in program["kernel"]:
            raise FakeError("NVRTC_ERROR_COMPILATION")
        module = program["name"].removesuffix(".cu")
        program["image"] = f"{module}|{program['kernel']}".encode()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of CuPy."""
        modules = {name: ModuleType(name) for name in ("cupy", "cupy.cuda")}
        parts = {
            "driver": SimpleNamespace(
                CUDADriverError=FakeError,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=SHARED_ATTRIBUTE,
                moduleLoadData=self.load,
                moduleGetFunction=lambda module, name: {"lowered": module}[name],
                funcSetAttribute=lambda function, attribute, value: self.shared.update({function: value}),
                launchKernel=self.launch,
                occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared: 2048 // threads,
            ),
            "runtime": SimpleNamespace(
                CUDARuntimeError=FakeError,
                cudaDevAttrMultiProcessorCount=16,
                cudaDevAttrMaxSharedMemoryPerBlockOptin=97,
                memcpyHostToDevice=1,
                memcpyDeviceToHost=2,
                getDevice=lambda: self.current,
                deviceGetAttribute=lambda attribute, number: {16: 2, 97: LARGE}[attribute],
                memcpyAsync=self.copy,
                streamSynchronize=self.wait,
            ),
            "nvrtc": SimpleNamespace(
                NVRTCError=FakeError,
                getSupportedArchs=lambda: (75, 80, 90),
                getVersion=lambda: (13, 0),
                createProgram=lambda source, name, headers, names: {"name": name},
                addNameExpression=lambda program, kernel: program.update(kernel=kernel),
                compileProgram=self.compile,
                getLoweredName=lambda program, kernel: "lowered",
                getCUBIN=lambda program: program["image"],
                getPTX=lambda program: program["image"],
                getProgramLog=lambda program: "the log",
                destroyProgram=lambda program: program.clear(),
            ),
            "memory": SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
            "Device": self._device,
            "alloc": self._alloc,
            "alloc_pinned_memory": bytearray,
            "get_current_stream": lambda: SimpleNamespace(ptr=self.stream),
        }
        for name, part in parts.items():
            setattr(modules["cupy.cuda"], name, part)
        modules["cupy"].cuda = modules["cupy.cuda"]  # pyright: ignore[reportAttributeAccessIssue]
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "l2codec.cuda._cupy", raising=False)

    def _alloc(self, nbytes: int) -> SimpleNamespace:
        memory = np.empty(nbytes + 256, np.uint8)
        return SimpleNamespace(ptr=memory.ctypes.data + -memory.ctypes.data % 256, memory=memory)

    def _device(self, number: int) -> "_Current":
        return _Current(self, number)


class _Current:
    """`with cupy.cuda.Device(number):`"""

    compute_capability = "90"

    def __init__(self, gpus: FakeGpus, number: int):
        self._gpus, self._number, self._before = gpus, number, gpus.current

    def __enter__(self) -> None:
        self._gpus.current = self._number

    def __exit__(self, *exception: object) -> None:
        self._gpus.current = self._before
