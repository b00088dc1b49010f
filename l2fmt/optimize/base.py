"""What all methods share: the weights they get, the budget they must meet, and how they are found by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np

from l2fmt.dtypes import DType
from l2fmt.errors import InputError
from l2fmt.pipeline import QuantizedTensor, Size
from l2fmt.transforms import from_float32, to_float32

# A method is a module of this package with a class `METHOD`; naming them here keeps the others unimported.
_METHODS = ("rd",)


@dataclass(frozen=True, eq=False)
class WeightTensor:
    """A tensor to quantize: `load()` returns its weights as float32 of `shape`, all finite."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Budget:
    """What the result must meet; at most one is set, and none means the method's safe default.

    `file_bytes`: the whole file is at most so large, and within 0.5 % of it. `weight_bits`: bits per quantized weight,
        all bytes of their groups
    and tables counted. `max_error`: largest relative mean squared error of any quantized tensor.
    """

    file_bytes: int | None = None
    weight_bits: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("file_bytes", "weight_bits", "max_error") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"only one budget can be given, not {' and '.join(given)}")
        for name in given:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")


Measure = Callable[[Sequence[QuantizedTensor]], Size]
"""Encodes the model with these codes and says how large it is; exact."""

Progress = Callable[[str, float], None]


class Method(Protocol):
    """A way to choose codes. `settings` are recorded in the file."""

    name: str
    settings: dict[str, object]

    def quantize(
        self, tensors: Sequence[WeightTensor], budget: Budget, measure: Measure, progress: Progress
    ) -> list[QuantizedTensor]:
        """Return the codes of all tensors, in order; raise TargetError if the budget cannot be met."""
        ...


def relative_error(tensor: WeightTensor, code: QuantizedTensor) -> float:
    """Return the squared error of the decoded tensor over the squares of its weights; 0 for a tensor of zeros."""
    weights = tensor.load().reshape(-1)
    values = code.transform.values(code.codes.reshape(-1))
    decoded = to_float32(from_float32(values, code.dtype), code.dtype)
    difference = decoded.astype(np.float64) - weights
    energy = float(np.einsum("i,i->", weights, weights, dtype=np.float64))
    return float(difference @ difference) / energy if energy > 0 else 0.0


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return _METHODS


def get_method(name: str) -> Method:
    """Return a method with its default settings by name."""
    if name not in _METHODS:
        raise InputError(f"there is no method {name!r}; the methods are {', '.join(_METHODS)}")
    return import_module(f"l2fmt.optimize.{name}").METHOD()
