"""Compile every CUDA kernel for every architecture with NVRTC, which needs no GPU: python tools/compile_cuda.py.

Prints registers, and fails on an error or a spill. Needs the package nvidia-cuda-nvrtc; says so and succeeds without.
"""

import ctypes
import importlib.util
import re
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from l2codec import cuda

ARCHITECTURES = (75, 80, 86, 89, 90, 100)

LOOKUPS = ("Compact", "Wide<u8>", "Wide<u16>")
SINKS = (
    *(f"Symbol<{word}>" for word in ("u8", "u16")),
    *(f"{kind}<{word}>" for kind in ("Field", "Word") for word in ("u8", "u16", "u32", "u64")),
    *(f"Scaled<{word}>" for word in ("u16", "u32", "u64")),
)
FLAGS = ("false", "true")
SYMBOLS = ("u8", "u16")

# The kernels of each module: what a host may ask for.
KERNELS = {
    "tables": ["fill_tables"],
    "rans_decode": [
        *(f"rans_decode<{', '.join(p)}>" for p in product(LOOKUPS, ("true",), FLAGS, SINKS)),
        *(f"rans_decode<{', '.join(p)}>" for p in product(LOOKUPS[1:], ("false",), FLAGS, SINKS)),
    ],
    "rans_encode": [f"rans_encode<{', '.join(p)}>" for p in product(FLAGS, SYMBOLS)],
    "range": [
        *(f"range_decode<{', '.join(p)}>" for p in product(FLAGS, SINKS)),
        *(f"range_encode<{', '.join(p)}>" for p in product(FLAGS, SYMBOLS)),
    ],
    "huffman": [
        *(f"huffman_decode<{', '.join(p)}>" for p in product(FLAGS, SINKS)),
        *(f"huffman_encode<{', '.join(p)}>" for p in product(FLAGS, SYMBOLS)),
    ],
    "raw": [f"raw_decode<{sink}>" for sink in SINKS],
}

_USE = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", re.DOTALL
)


class CompileError(Exception):
    """NVRTC has refused a source; the message is its log."""


class Nvrtc:
    """The compiler of the package nvidia-cuda-nvrtc."""

    def __init__(self, folder: Path):
        for builtins in folder.glob("libnvrtc-builtins.so.*"):  # the compiler does not look beside itself for them
            ctypes.CDLL(str(builtins))
        (path,) = folder.glob("libnvrtc.so.*")
        self._library = ctypes.CDLL(str(path))

    @classmethod
    def find(cls) -> "Nvrtc | None":
        """Return the compiler, None if the package is not installed."""
        spec = importlib.util.find_spec("nvidia")
        folders = [] if spec is None else list(spec.submodule_search_locations or [])
        found = [path.parent for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
        return cls(found[0]) if found else None

    def compile(self, source: str, kernels: Sequence[str], architecture: int) -> dict[str, tuple[int, int]]:
        """Return (registers, bytes spilled) of each kernel; raises CompileError."""
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            for kernel in kernels:
                self._call("nvrtcAddNameExpression", program, kernel.encode())
            options = [f"-arch=sm_{architecture}", "--ptxas-options=-v", "-default-device", *cuda.OPTIONS]
            array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            code = self._library.nvrtcCompileProgram(program, len(options), array)
            log = self._log(program)
            if code:
                raise CompileError(log)
            use = {name: (int(registers), int(a) + int(b)) for name, a, b, registers in _USE.findall(log)}
            return {kernel: use[self._lowered(program, kernel)] for kernel in kernels}
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _lowered(self, program: ctypes.c_void_p, kernel: str) -> str:
        name = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", program, kernel.encode(), ctypes.byref(name))
        return (name.value or b"").decode()

    def _log(self, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self._call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self._call("nvrtcGetProgramLog", program, log)
        return log.value.decode()

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise CompileError(f"{name} has failed with error {code}")


def main() -> int:
    """Compile everything, print a line a module and architecture, and return the exit code."""
    nvrtc = Nvrtc.find()
    if nvrtc is None:
        print("skipped: the package nvidia-cuda-nvrtc is not installed")
        return 0
    spilling = 0
    for module, kernels in KERNELS.items():
        source = cuda.read_source(module)
        for architecture in ARCHITECTURES:
            use = nvrtc.compile(source, kernels, architecture)
            registers = [r for r, _ in use.values()]
            spilled = {kernel: spill for kernel, (_, spill) in use.items() if spill}
            spilling += len(spilled)
            print(
                f"sm_{architecture} {module}: {len(use)} kernels, {min(registers)} to {max(registers)} registers, "
                f"{len(spilled)} with spills {spilled or ''}".rstrip(),
                flush=True,
            )
    return int(spilling > 0)


if __name__ == "__main__":
    sys.exit(main())
