"""Floating-point arithmetic as IEEE 754 has it, whatever the caller's thread has been told.

With `torch.set_flush_denormal(True)`, or after a library that was compiled with -ffast-math, a thread takes subnormal
numbers for zero: it would decode other bits. `numpy.seterr` can make exceptions of what is no error here.
"""

import ctypes
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from l2codec.errors import KernelError

_SMALLEST_NORMAL = sys.float_info.min
_SUBNORMAL = b"\1" + bytes(7)  # as bytes: no arithmetic makes it
_DEFAULT = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl, on every processor
_ENVIRONMENT_BYTES = 256  # more than any `fenv_t` has


@contextmanager
def ieee_floats() -> Iterator[None]:
    """Compute with subnormal numbers, and without exceptions, in this thread and those that it starts.

    Raises KernelError where the thread flushes subnormal numbers and the system has no way known to stop it.
    """
    with np.errstate(all="ignore"):
        if not _flushes():
            yield
            return
        before = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        library = _mathematics()
        library.fegetenv(before)
        library.fesetenv(_DEFAULT)
        try:
            yield
        finally:
            library.fesetenv(before)


def _flushes() -> bool:
    """Whether this thread takes subnormal results, or operands, for zero."""
    (subnormal,) = struct.unpack("<d", _SUBNORMAL)
    return _SMALLEST_NORMAL / 2 == 0 or subnormal == 0


def _mathematics() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise KernelError("this thread flushes subnormal numbers to zero: call torch.set_flush_denormal(False) before")
    library = ctypes.CDLL(None)
    return library if hasattr(library, "fesetenv") else ctypes.CDLL("libm.so.6")
