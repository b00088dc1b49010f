"""CUDA kernels compiled by g++ and run on the CPU, one fiber a thread (shim.h)."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COMPILER = shutil.which("g++")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1")

# Fortified builds forbid to jump between stacks. A product and a sum of floats must stay two operations.
_FLAGS = (
    "-O1",
    "-std=c++20",
    "-fPIC",
    "-shared",
    "-U_FORTIFY_SOURCE",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
)


class LaunchError(Exception):
    """A kernel does what CUDA leaves undefined; the message says where."""


class Library:
    """Kernels of one source, by their names as C++ writes them: `rans_decode<Compact, true, false, Field<u8>>`."""

    def __init__(self, path: Path, kernels: Sequence[str]):
        self._library = ctypes.CDLL(str(path))
        self._library.shim_message.restype = ctypes.c_char_p
        self._names = {kernel: f"kernel_{number}" for number, kernel in enumerate(kernels)}

    def launch(
        self, kernel: str, blocks: int, threads: int, arguments: Sequence[object], shared: int = 0, schedule: int = 0
    ) -> None:
        """Run a kernel on numpy scalars; raises LaunchError.

        `shared` is in bytes. `schedule` is the order in which threads take turns: 0 ascending, 1 descending, else the
        seed of random ones.
        """
        values = [np.asarray(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        self.launch_as_driver(kernel, blocks, threads, ctypes.addressof(pointers), shared, schedule)

    def launch_as_driver(
        self, kernel: str, blocks: int, threads: int, arguments: int, shared: int, schedule: int = 0
    ) -> None:
        """Run a kernel; `arguments` is the address of the addresses of its arguments, as for cuLaunchKernel."""
        shape = (ctypes.c_uint * 3)(blocks, threads, shared)
        run = getattr(self._library, self._names[kernel])
        if not run(ctypes.c_void_p(arguments), shape, ctypes.c_uint(schedule)):
            raise LaunchError(self._library.shim_message().decode())


def build(source: str, kernels: Sequence[str], flags: Sequence[str] = ()) -> Library:
    """Compile a source for the CPU with the kernels named; what is in the folder $CUDA_SHIM_BUILDS is used again."""
    assert COMPILER is not None  # tests are skipped without
    exports = "\n".join(f"EXPORT(kernel_{number}, {kernel})" for number, kernel in enumerate(kernels))
    header = Path(__file__).with_name("shim.h").read_text(encoding="utf-8")
    text = f"{header}\n#line 1\n{source}\n{exports}\n"
    path = (
        Path(os.environ["CUDA_SHIM_BUILDS"])
        / f"{hashlib.sha256((text + ' '.join(flags)).encode()).hexdigest()[:20]}.so"
    )
    if not path.exists():
        command = [COMPILER, *_FLAGS, *flags, "-x", "c++", "-", "-o", str(path)]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
        if done.returncode or done.stderr:
            raise RuntimeError(done.stderr)
    return Library(path, kernels)
