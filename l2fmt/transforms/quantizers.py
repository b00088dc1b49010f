"""The quantizing transforms: what value an integer code stands for, and which code a weight gets (spec/transforms.md 3
to 6).

A code `q` is a signed integer, 0 for a pruned weight; the symbol of a file is `q + offset`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from l2fmt import _registry
from l2fmt.errors import CorruptFileError, InputError


class Transform(Protocol):
    """What the pipeline needs of a transform."""

    name: ClassVar[str]
    id: ClassVar[int]

    def parameters(self, offset: int) -> list[Any]:
        """Return the parameters as the index stores them, for symbols `q + offset`."""
        ...

    def values(self, codes: np.ndarray) -> np.ndarray:
        """Return the float32 value of each integer code, to the bit as the specification says."""
        ...

    def codes(self, weights: np.ndarray) -> np.ndarray:
        """Return the code of each weight by plain rounding, int32; not part of the format."""
        ...


def _positive(**parameters: float) -> None:
    for name, value in parameters.items():
        if not (np.isfinite(np.float32(value)) and np.float32(value) > 0):
            raise InputError(f"{name} must be a positive, finite float32, not {value}")


def _signed(magnitudes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    # copysign would make -0.0 of code 0's value; spec: +0
    return np.where(codes < 0, -magnitudes, magnitudes).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Uniform:
    """`q * step`."""

    step: float
    name: ClassVar[str] = "uniform"
    id: ClassVar[int] = _registry.TRANSFORMS["uniform"]

    def __post_init__(self) -> None:
        _positive(step=self.step)

    def parameters(self, offset: int) -> list[Any]:
        return [offset, float(np.float32(self.step))]

    def values(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes).astype(np.float32) * np.float32(self.step)

    def codes(self, weights: np.ndarray) -> np.ndarray:
        return np.rint(weights / np.float32(self.step)).astype(np.int32)


@dataclass(frozen=True)
class Joint:
    """Joint prune and quantize: 0 within `threshold`, cells of `step` beyond it (L2 paper, Eq. 11)."""

    step: float
    threshold: float
    name: ClassVar[str] = "joint"
    id: ClassVar[int] = _registry.TRANSFORMS["joint"]

    def __post_init__(self) -> None:
        _positive(step=self.step, threshold=self.threshold)

    def parameters(self, offset: int) -> list[Any]:
        return [offset, float(np.float32(self.step)), float(np.float32(self.threshold))]

    def values(self, codes: np.ndarray) -> np.ndarray:
        q = np.asarray(codes)
        cell = (np.abs(q).astype(np.float32) - np.float32(0.5)) * np.float32(self.step)
        return np.where(q == 0, np.float32(0), _signed(np.float32(self.threshold) + cell, q))

    def codes(self, weights: np.ndarray) -> np.ndarray:
        excess = (np.abs(weights) - np.float32(self.threshold)) / np.float32(self.step)
        q = np.where(excess < 0, 0, np.floor(excess) + 1)
        return (np.sign(weights) * q).astype(np.int32)


@dataclass(frozen=True)
class Geometric:
    """`sign(q) * scale * (growth^|q| - 1)`: the log transform of the L2 paper, PNMQ's power grid."""

    scale: float
    growth: float
    name: ClassVar[str] = "geometric"
    id: ClassVar[int] = _registry.TRANSFORMS["geometric"]

    def __post_init__(self) -> None:
        _positive(scale=self.scale, growth=self.growth)

    def parameters(self, offset: int) -> list[Any]:
        return [offset, float(np.float32(self.scale)), float(np.float32(self.growth))]

    def values(self, codes: np.ndarray) -> np.ndarray:
        q = np.asarray(codes)
        largest = int(np.abs(q).max(initial=0))
        # cumulative products in order: each power is one rounded multiplication of the one before (spec 5)
        factors = np.full(largest + 1, np.float64(np.float32(self.growth)))
        factors[0] = 1.0
        with np.errstate(over="ignore"):
            powers = np.multiply.accumulate(factors)
            grid = (np.float64(np.float32(self.scale)) * (powers - 1.0)).astype(np.float32)
        return _signed(grid[np.abs(q)], q)

    def codes(self, weights: np.ndarray) -> np.ndarray:
        if self.growth <= 1:
            raise InputError(f"rounding to a geometric grid needs a growth above 1, not {self.growth}")
        magnitude = np.log1p(np.abs(weights).astype(np.float64) / self.scale) / np.log(self.growth)
        return (np.sign(weights) * np.rint(magnitude)).astype(np.int32)


def logarithmic(scale: float, step: float) -> Geometric:
    """Return the L2 paper's log transform, `T(w) = sign(w) ln(1 + |w| / scale) / step` (methods: transform `log`)."""
    return Geometric(scale=scale, growth=float(np.exp(step)))


@dataclass(frozen=True, eq=False)
class Codebook:
    """Stored values: code `q` is the value `table[q - lowest]`."""

    table: np.ndarray
    lowest: int = 0
    rounding: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False)
    name: ClassVar[str] = "codebook"
    id: ClassVar[int] = _registry.TRANSFORMS["codebook"]

    def __post_init__(self) -> None:
        table = np.ascontiguousarray(self.table, dtype=np.float32).copy()
        if table.ndim != 1 or not 1 <= table.size <= _registry.MAX_ALPHABET or not np.isfinite(table).all():
            raise InputError(f"a codebook has 1 to {_registry.MAX_ALPHABET} finite values in one dimension")
        table.flags.writeable = False
        object.__setattr__(self, "table", table)

    def parameters(self, offset: int) -> list[Any]:
        if offset != -self.lowest:
            raise InputError(
                f"the codes of a codebook begin at {self.lowest}: the offset must be {-self.lowest}, not {offset}"
            )
        return [self.table.astype("<f4").tobytes()]

    def values(self, codes: np.ndarray) -> np.ndarray:
        return self.table[np.asarray(codes) - self.lowest]

    def codes(self, weights: np.ndarray) -> np.ndarray:
        if self.rounding is not None:
            return self.rounding(weights)
        order = np.argsort(self.table, kind="stable")
        middles = (self.table[order][1:].astype(np.float64) + self.table[order][:-1]) / 2
        return (order[np.searchsorted(middles, weights)] + self.lowest).astype(np.int32)


def exponential(scale: float, step: float, largest: int) -> Codebook:
    """Return the L2 paper's exp transform, `T(w) = sign(w) (exp(|w| / scale) - 1) / step`, for codes up to `largest`.

    Its inverse needs a logarithm, which IEEE 754 does not fix: the grid is stored.
    """
    _positive(scale=scale, step=step)
    q = np.arange(-largest, largest + 1)
    table = np.sign(q) * np.log1p(np.abs(q) * step) * scale

    def rounding(weights: np.ndarray) -> np.ndarray:
        code = np.sign(weights) * np.rint(np.expm1(np.abs(weights).astype(np.float64) / scale) / step)
        return np.clip(code, -largest, largest).astype(np.int32)

    return Codebook(table, -largest, rounding)


def from_parameters(transform_id: int, parameters: Sequence[Any]) -> tuple[Transform, int]:
    """Return the transform of an index entry and its offset: a symbol `u` is the code `u - offset`.

    Raises CorruptFileError for parameters out of range (the container checks their number and types).
    """
    try:
        match transform_id, list(parameters):
            case Uniform.id, [offset, step]:
                return Uniform(step), offset
            case Joint.id, [offset, step, threshold]:
                return Joint(step, threshold), offset
            case Geometric.id, [offset, scale, growth]:
                return Geometric(scale, growth), offset
            case Codebook.id, [values]:
                return Codebook(np.frombuffer(values, "<f4")), 0
    except InputError as error:
        raise CorruptFileError(str(error)) from None
    raise CorruptFileError(f"transform {transform_id} does not have {len(parameters)} parameters")
