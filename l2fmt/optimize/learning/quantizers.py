"""The transforms of the L2 paper as differentiable modules: what a weight decodes to, and its code, with gradients.

A quantizer maps weights w to real codes c = T(w), rounds them to integers q, and maps these back, w' = T^-1(q).
Rounding passes the gradient through unchanged (straight-through): q counts as c + constant. All parameters are
positive and held as logarithms, so that a gradient step changes each by a factor, whatever the scale of its tensor.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from l2fmt.errors import InputError
from l2fmt.transforms import Joint, Transform, Uniform, exponential, logarithmic

_LEAST = 2.0**-100  # smaller parameters would leave the normal numbers of float32
MAX_CODE = 2000  # codes beyond it would need tables larger than they save


class Quantizer(nn.Module, ABC):
    """A transform with learned positive parameters, one scalar each.

    `codes(w)` is T and `values(q)` its inverse, both elementwise on float32 of any shape and differentiable in the
    input and the parameters.
    """

    parameter_names: ClassVar[tuple[str, ...]]

    def __init__(self, **parameters: float):
        super().__init__()
        self._scales = 0
        for name in self.parameter_names:
            value = min(max(parameters[name], _LEAST), 1 / _LEAST)
            self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(value))))

    def parameter(self, name: str) -> Tensor:
        """Return a parameter, positive."""
        return getattr(self, f"log_{name}").exp()

    @abstractmethod
    def codes(self, weights: Tensor) -> Tensor:
        """Return the real codes of weights."""

    @abstractmethod
    def values(self, codes: Tensor) -> Tensor:
        """Return what real codes decode to."""

    def scale_by(self, scale: Tensor) -> None:
        """Let decoded weights be multiplied by a scale, too; the weights it is given are then those over it."""
        self.register_buffer(f"scale_{self._scales}", scale, persistent=False)
        self._scales += 1

    def decoded(self, codes: Tensor) -> Tensor:
        """Return the weights that codes decode to, scales included."""
        values = self.values(codes)
        for number in range(self._scales):
            values = values * self.get_buffer(f"scale_{number}")
        return values

    def forward(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoded weights and the real codes, each with its gradients."""
        codes = self.codes(weights)
        bounded = codes.detach().clamp(-MAX_CODE, MAX_CODE)
        return self.decoded(codes + (bounded.round() - codes.detach())), codes

    def integers(self, weights: Tensor) -> Tensor:
        """Return the integer codes, int32."""
        with torch.no_grad():
            return self.codes(weights).clamp(-MAX_CODE, MAX_CODE).round().to(torch.int32)

    @abstractmethod
    def transform(self, largest: int) -> Transform:
        """Return the transform of the file, for codes of at most `largest`."""


class LinearQuantizer(Quantizer):
    """Multiples of a step."""

    parameter_names = ("step",)

    def codes(self, weights: Tensor) -> Tensor:
        return weights / self.parameter("step")

    def values(self, codes: Tensor) -> Tensor:
        return codes * self.parameter("step")

    def transform(self, largest: int) -> Transform:
        return Uniform(_number(self.parameter("step")))


class JointQuantizer(Quantizer):
    """Joint prune and quantize: zero up to a threshold, cells of a step beyond it (Eq. 11)."""

    parameter_names = ("step", "threshold")

    def codes(self, weights: Tensor) -> Tensor:
        step, threshold = self.parameter("step"), self.parameter("threshold")
        size = weights.abs()
        beyond = weights.sign() * (0.5 + (size - threshold) / step)
        return torch.where(size <= threshold, weights / (2 * threshold), beyond)

    def values(self, codes: Tensor) -> Tensor:
        # A pruned code is exactly 0 here, but stands for `weights / (2 threshold)` in the gradient.
        step, threshold = self.parameter("step"), self.parameter("threshold")
        size = codes.abs()
        beyond = codes.sign() * (threshold + (size - 0.5) * step)
        return torch.where(size <= 0.5, 2 * threshold * codes, beyond)

    def transform(self, largest: int) -> Transform:
        return Joint(_number(self.parameter("step")), _number(self.parameter("threshold")))


class LogQuantizer(Quantizer):
    """A grid that widens away from zero: sign(w) ln(1 + |w| / scale) / step."""

    parameter_names = ("step", "scale")

    def codes(self, weights: Tensor) -> Tensor:
        scale, step = self.parameter("scale"), self.parameter("step")
        # At 0 the sign would take the gradient away, and no weight that decodes to 0 could ever come back.
        beyond = weights.sign() * torch.log1p(weights.abs() / scale) / step
        return torch.where(weights == 0, weights / (scale * step), beyond)

    def values(self, codes: Tensor) -> Tensor:
        scale, step = self.parameter("scale"), self.parameter("step")
        size = (codes.abs() * step).clamp(max=80.0)  # exp stays finite
        return torch.where(codes == 0, codes * step * scale, codes.sign() * torch.expm1(size) * scale)

    def transform(self, largest: int) -> Transform:
        return logarithmic(_number(self.parameter("scale")), _number(self.parameter("step")))


class ExpQuantizer(Quantizer):
    """A grid that narrows away from zero: sign(w) (exp(|w| / scale) - 1) / step."""

    parameter_names = ("step", "scale")

    def codes(self, weights: Tensor) -> Tensor:
        scale, step = self.parameter("scale"), self.parameter("step")
        size = (weights.abs() / scale).clamp(max=80.0)
        return torch.where(weights == 0, weights / (scale * step), weights.sign() * torch.expm1(size) / step)

    def values(self, codes: Tensor) -> Tensor:
        scale, step = self.parameter("scale"), self.parameter("step")
        return torch.where(codes == 0, codes * step * scale, codes.sign() * torch.log1p(codes.abs() * step) * scale)

    def transform(self, largest: int) -> Transform:
        return exponential(_number(self.parameter("scale")), _number(self.parameter("step")), max(largest, 1))


@dataclass(frozen=True)
class _Kind:
    """A kind of quantizer, and its parameters for weights with a largest magnitude and a step near zero."""

    make: Callable[..., Quantizer]
    start: Callable[[float, float], dict[str, float]]


# Each start gives cells of about `step` near zero; the scales are the paper's, relative to the peak.
_KINDS = {
    "linear": _Kind(LinearQuantizer, lambda peak, step: {"step": step}),
    "joint": _Kind(JointQuantizer, lambda peak, step: {"step": step, "threshold": step / 2}),
    "log": _Kind(LogQuantizer, lambda peak, step: {"scale": peak / (math.e - 1), "step": step * (math.e - 1) / peak}),
    "exp": _Kind(ExpQuantizer, lambda peak, step: {"scale": peak / math.log(2), "step": step * math.log(2) / peak}),
}


def transform_names() -> tuple[str, ...]:
    """Return the names that `make_quantizer` knows."""
    return tuple(_KINDS)


def make_quantizer(kind: str, weights: Tensor, step: float | None = None) -> Quantizer:
    """Return a quantizer of a kind for weights: its cells near zero are `step` wide, by default 1/256 of the range.

    Constant tensors, zeros and single elements get a positive step too: a tensor of zeros any, another one of which its
    value is a multiple. Raises InputError for an unknown kind.
    """
    if kind not in _KINDS:
        raise InputError(f"there is no transform {kind!r}; the transforms are {', '.join(_KINDS)}")
    low, high = (float(weights.min()), float(weights.max())) if weights.numel() else (0.0, 0.0)
    peak = max(abs(low), abs(high)) or 1.0
    if step is None:
        step = (high - low) / 256 if high > low else peak / 128
    step = max(step, peak / MAX_CODE)
    return _KINDS[kind].make(**_KINDS[kind].start(peak, step))


def _number(value: Tensor) -> float:
    return float(value.detach())
