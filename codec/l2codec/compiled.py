"""Compiled kernels, called without importing what compiled them."""

import importlib
from typing import Any


class Kernel:
    """A function of `l2codec.kernels`, compiled for the types of its arguments.

    Arguments are C-contiguous arrays, integers (int64) and floats (float64); the result is an integer or None.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *arguments: Any) -> Any:
        return getattr(importlib.import_module(f"l2codec.kernels.{self.module}"), self.name)(*arguments)
