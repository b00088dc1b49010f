"""A GPU as a `Device`, through CuPy. Nothing else needs a GPU, and there is as little as possible in here.

Of CuPy, its bindings of NVRTC and of the driver are used: what CuPy itself compiles gets the option -ftz=true, after
all options of the caller, and floats that are subnormal would not be those of the specification.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from typing import Any

import cupy  # pyright: ignore[reportMissingImports]
import numpy as np
from cupy.cuda import driver, nvrtc, runtime  # pyright: ignore[reportMissingImports]

from l2codec.cuda import MODULES, OPTIONS, read_source
from l2codec.cuda.device import Launch, Memory
from l2codec.errors import KernelError
from l2codec.machine_code import Cache

_UNASKED_SHARED_BYTES = 48 << 10  # of a block; more must be asked for
_ERRORS = (runtime.CUDARuntimeError, driver.CUDADriverError)
_compiling = threading.Lock()


class PoolMemory:
    """Memory of CuPy's pool, for work on CuPy's current stream."""

    def __init__(self, nbytes: int):
        self._pointer = cupy.cuda.alloc(max(nbytes, 1))
        self.address = int(self._pointer.ptr)


class CupyDevice:
    """A GPU and a stream on it.

    Args:
        number: of the GPU, by default that of CuPy's current one.
        stream: address of a cudaStream_t, 0 for the default stream; by default CuPy's current stream.
        allocate: returns memory for work on that stream, by default from CuPy's pool.
    """

    threads = 256

    def __init__(
        self,
        number: int | None = None,
        stream: int | None = None,
        allocate: Callable[[int], Memory] = PoolMemory,
    ):
        with _translated():
            self._number = runtime.getDevice() if number is None else number
            self._stream = cupy.cuda.get_current_stream().ptr if stream is None else stream
            self.multiprocessors = _attribute(self._number, runtime.cudaDevAttrMultiProcessorCount)
            self.shared_bytes = _attribute(self._number, runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin)
        self._allocate = allocate

    def resident_blocks(self, module: str, kernel: str, threads: int, shared_bytes: int) -> int:
        with self._current():
            function = _function(self._number, module, kernel, shared_bytes)
            return driver.occupancyMaxActiveBlocksPerMultiprocessor(function, threads, shared_bytes)

    def allocate(self, nbytes: int) -> Memory:
        with self._current():
            return self._allocate(nbytes)

    def staging(self, nbytes: int) -> np.ndarray:
        with self._current():
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), np.uint8, nbytes)

    def upload(self, address: int, data: np.ndarray) -> None:
        with self._current():
            runtime.memcpyAsync(address, data.ctypes.data, data.nbytes, runtime.memcpyHostToDevice, self._stream)

    def download(self, address: int, out: np.ndarray) -> None:
        with self._current():
            runtime.memcpyAsync(out.ctypes.data, address, out.nbytes, runtime.memcpyDeviceToHost, self._stream)

    def launch(self, launch: Launch) -> None:
        values = [np.asarray(argument) for argument in launch.arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        with self._current():
            function = _function(self._number, launch.module, launch.kernel, launch.shared_bytes)
            shape = launch.blocks, 1, 1, launch.threads, 1, 1
            driver.launchKernel(function, *shape, launch.shared_bytes, self._stream, ctypes.addressof(pointers), 0)

    def wait(self) -> None:
        with self._current():
            runtime.streamSynchronize(self._stream)

    @contextmanager
    def _current(self) -> Iterator[None]:
        with _translated(), cupy.cuda.Device(self._number):
            yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise MemoryError(f"the GPU has too little memory: {error}") from error
    except _ERRORS as error:
        raise KernelError(f"the GPU has failed: {error}") from error


@cache
def _attribute(number: int, attribute: int) -> int:
    return runtime.deviceGetAttribute(attribute, number)


@cache
def _function(number: int, module: str, kernel: str, shared_bytes: int) -> int:
    """Return the address of a kernel for the current GPU, which has this number; it is never unloaded."""
    function = _loaded(number, module, kernel)
    if shared_bytes > _UNASKED_SHARED_BYTES:
        most = _attribute(number, runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin)
        driver.funcSetAttribute(function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)
    return function


@cache
def _loaded(number: int, module: str, kernel: str) -> int:
    with _compiling:
        name, image = _image(cupy.cuda.Device(number).compute_capability, module, kernel)
    return driver.moduleGetFunction(driver.moduleLoadData(image), name)


def _image(capability: str, module: str, kernel: str) -> tuple[str, bytes]:
    """Return a kernel's name and machine code for GPUs of a compute capability, such as "90", compiled or kept."""
    kept = _kept(capability)
    symbol = sha256(kernel.encode()).hexdigest()[:32]
    if (content := kept.read(symbol)) is None:
        name, image = compile_kernel(capability, module, kernel)
        content = name.encode() + b"\0" + image
        if kept.prepare() is None:
            kept.write(symbol, content)
    name, _, image = content.partition(b"\0")
    return name.decode(), image


@cache
def _kept(capability: str) -> Cache:
    sources = [read_source(module) for module in MODULES]
    try:
        version = str(nvrtc.getVersion())
    except RuntimeError as error:  # CuPy's, if the library is not there
        raise KernelError(f"NVRTC cannot be used: {error}") from error
    return Cache("cuda", "\n".join([capability, version, *OPTIONS, *sources]).encode())


def compile_kernel(capability: str, module: str, kernel: str) -> tuple[str, bytes]:
    """Return the name and the machine code of a kernel, of GPUs of a compute capability; raises KernelError.

    For a GPU that is newer than NVRTC it is PTX, which the driver compiles.
    """
    known = nvrtc.getSupportedArchs()
    older = max((number for number in known if number <= int(capability)), default=min(known))
    architecture = f"sm_{capability}" if older == int(capability) else f"compute_{older}"
    program: Any = nvrtc.createProgram(read_source(module), f"{module}.cu", (), ())
    try:
        nvrtc.addNameExpression(program, kernel)
        nvrtc.compileProgram(program, (f"-arch={architecture}", "-default-device", *OPTIONS))
        name = nvrtc.getLoweredName(program, kernel)
        if older == int(capability):
            return name, nvrtc.getCUBIN(program) + b"\0"  # CuPy takes the last byte for the end of a text
        return name, nvrtc.getPTX(program) + b"\0"
    except nvrtc.NVRTCError as error:
        raise KernelError(
            f"NVRTC cannot compile {kernel} for {architecture}: {error}\n{nvrtc.getProgramLog(program)}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)
