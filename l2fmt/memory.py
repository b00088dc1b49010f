"""Memory of torch for tensors to be decoded: on any device, and in the CPU's as fast as the system fills it."""

import ctypes
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2codec import KernelError
from l2fmt.container import TensorEntry
from l2fmt.errors import InputError, UnsupportedError

_LARGE = 1 << 17  # bytes of a tensor for which huge pages are asked for; such tensors often lie side by side


@dataclass(frozen=True)
class TorchFramework:
    """Makes tensors in the CPU's memory; with `dtype` floating-point tensors are converted to it, wherever they are."""

    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, dtype: torch.dtype | None) -> "TorchFramework":
        """Return the framework for a dtype of the caller, or raise InputError."""
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype {dtype} is no floating-point dtype of torch; only such tensors are converted")
        return cls(dtype)

    def threads(self) -> int:
        return torch.get_num_threads()

    def allocate(self, entry: TensorEntry) -> tuple[Tensor, np.ndarray]:
        tensor = allocate(
            entry.shape,
            torch_dtype(entry),
            torch.device("cpu"),
            f"tensor {entry.name!r} takes {entry.nbytes} bytes",
        )
        memory = bytes_of(tensor)
        _prefer_huge_pages(memory)
        return tensor, memory.view(entry.dtype.word)

    def finish(self, tensor: Tensor, entry: TensorEntry) -> Tensor:
        return tensor if self.dtype is None or not entry.dtype.is_float else tensor.to(self.dtype)

    def part(self, tensor: Tensor, index: Any) -> Tensor:
        return tensor[index].clone()


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device, what: str) -> Tensor:
    """Return a new tensor; raise MemoryError, which says for what it was, if there is not so much memory.

    Raises KernelError if a GPU has failed at something that it was asked for before.
    """
    try:
        # As bytes: with torch.use_deterministic_algorithms memory is filled, which not every dtype can be.
        memory = torch.empty(prod(shape) * dtype.itemsize, dtype=torch.uint8, device=device)
    except RuntimeError as error:  # without a type of its own where the CPU's memory is out
        if device.type == "cuda" and not isinstance(error, torch.cuda.OutOfMemoryError):
            raise KernelError(f"the GPU has failed: {error}") from error
        raise MemoryError(f"{what}: {error}") from error
    return memory.view(dtype).view(tuple(shape))


def torch_dtype(entry: TensorEntry) -> torch.dtype:
    """Return the dtype of a tensor; raise UnsupportedError if this torch lacks it."""
    dtype = getattr(torch, entry.dtype.torch_name, None)
    if dtype is None:
        raise UnsupportedError(
            f"tensor {entry.name!r} is {entry.dtype}, which torch {torch.__version__} does not have; "
            "l2fmt.numpy returns its bits"
        )
    return dtype


def bytes_of(tensor: Tensor) -> np.ndarray:
    """Return the memory of a contiguous tensor as uint8, whatever its shape and dtype."""
    # One element or none counts as contiguous whatever its stride, which `view` would refuse.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()


def _prefer_huge_pages(memory: np.ndarray) -> None:
    """Ask Linux for huge pages, as NumPy does for its arrays: filling new memory is then twice as fast or more.

    What is asked for are all pages with bytes of the tensor, so that tensors side by side can share a huge page.
    """
    if memory.size < _LARGE or (madvise := _madvise()) is None:
        return
    address = memory.ctypes.data
    first, end = address // mmap.PAGESIZE, -(-(address + memory.size) // mmap.PAGESIZE)
    madvise(first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)  # if refused, nothing changes


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """Return the function of the C library, None where it or huge pages are missing."""
    function = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
