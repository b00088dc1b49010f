"""Compiled kernels, called without importing what compiled them."""

from collections.abc import Callable
from ctypes import c_int64
from struct import Struct
from struct import error as StructError
from typing import Any

import numpy as np

from l2codec import machine_code

_USABLE = 0x101  # numpy's flags for C-contiguous and aligned
_DTYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f4", "f8"}


class Kernel:
    """A function of `l2codec.kernels`, compiled for the types of its arguments.

    Arguments are arrays of one or two dimensions, integers (int64) and floats (float64); the result is an integer or
    None. Arrays hold native integers or floats, are C-contiguous and aligned; read-only ones are not told apart, so a
    kernel must not write to what callers may pass read-only. Threads run it at the same time, without the GIL.
    Raises TypeError for other arguments, OverflowError for larger integers, RuntimeError where a kernel raises an
    error, as for an index when NUMBA_BOUNDSCHECK is set, and KernelError if there can be no kernel, for instance
    because L2FMT_KERNEL does not fit the processor.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name
        self._entries: dict[tuple[Any, ...], tuple[Callable[..., bytes], Callable[..., int]]] = {}

    def __call__(self, *arguments: Any) -> Any:
        key, values = [], []  # the key says types, by whatever is the fastest to get at
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                if argument.flags.num & _USABLE != _USABLE:
                    raise self._unusable(arguments, argument, "is not C-contiguous and aligned")
                key.append(argument.dtype)
                key.append(argument.ndim)
                values.append(id(argument))
            else:
                key.append(type(argument))
                values.append(argument)
        key = tuple(key)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._entry(arguments)
        packed, function = entry
        result = c_int64()
        try:
            status = function(packed(*values), result)
        except StructError as error:
            raise OverflowError(f"kernel {self.name} cannot take an integer beyond 64 bits: {error}") from None
        if status == machine_code.RETURNED:
            return result.value
        if status == machine_code.RETURNED_NONE:
            return None
        raise RuntimeError(f"kernel {self.name} failed: an index was out of bounds, or it raised an error")

    def _entry(self, arguments: tuple[Any, ...]) -> tuple[Callable[..., bytes], Callable[..., int]]:
        """Return how to pack arguments of these types, and the function that takes them."""
        types = tuple(self._type(arguments, argument) for argument in arguments)
        values = Struct("=" + "".join("d" if name == "float" else "q" for name in types))
        return values.pack, machine_code.entry_point(self.module, self.name, types)

    def _type(self, arguments: tuple[Any, ...], argument: Any) -> str:
        """Return the type of an argument as `l2codec.kernels._compiler` reads it."""
        if isinstance(argument, int | np.integer):
            return "int"
        if isinstance(argument, float | np.floating):
            return "float"
        if not isinstance(argument, np.ndarray):
            raise self._unusable(arguments, argument, f"is a {type(argument).__name__}")
        dtype = f"{argument.dtype.kind}{argument.dtype.itemsize}"
        if dtype not in _DTYPES or not argument.dtype.isnative or argument.ndim not in (1, 2):
            raise self._unusable(arguments, argument, f"is an array of {argument.dtype.str}, {argument.ndim}-D")
        return f"{dtype}_{argument.ndim}"

    def _unusable(self, arguments: tuple[Any, ...], argument: Any, why: str) -> TypeError:
        number = next(number for number, other in enumerate(arguments) if other is argument)
        return TypeError(f"kernel {self.name} cannot take argument {number}, which {why}")
