"""Errors of the codec: those of arguments and streams are `ValueError`s, all say what was found and where."""

from collections.abc import Sequence

import numpy as np


class CodecError(ValueError):
    """An argument of the codec cannot be used, or a stream cannot be decoded."""


class CorruptStreamError(CodecError):
    """The bytes of a stream or of a table set violate spec/entropy-coding.md."""


class ImpossibleSymbolError(CodecError):
    """A symbol to be encoded lies outside the alphabet or has count 0 in the table of its class."""

    @classmethod
    def at(cls, symbols: Sequence[int] | np.ndarray, index: int) -> "ImpossibleSymbolError":
        """Return the error for one symbol of a block."""
        return cls(f"symbol {symbols[index]} at {index} of its block has no count in the table of its class")


class UnknownCoderError(CodecError):
    """No coder has this id or name."""


class KernelError(RuntimeError):
    """There can be no kernel in this process, whatever the stream: L2FMT_KERNEL or Numba's settings are in the way."""
