"""The differentiable entropy counter of the paper (Eq. 12 to 16), exact and in linear time.

Every code counts for one, but softly: a kernel of half width `relaxation` spreads it, and a symbol's count is the mass
between its two boundaries. Codes are rounded to integers, so that boundaries are the only places where the mass is ever
asked for: one pass adds what each code has below the few boundaries near it, and nothing is sorted or sampled. Sums are
float64; the mass of a single code has the codes' own precision.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from l2fmt.errors import InputError

MOST_COUNTS = 1 << 20  # of a tensor, all classes together; quantized weights need far fewer
_SMALLEST_RELAXATION = 1e-6
_CPU_BLOCK, _GPU_BLOCK = 1 << 16, 1 << 24  # codes at a time, at least: what caches hold, what keeps temporaries small


class Kernel(NamedTuple):
    """A symmetric kernel on [-1, 1] as `cdf(t)` and `density(1 - |t|)`; both may overwrite what they are given."""

    cdf: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]


KERNELS = {
    "cosine": Kernel(
        lambda t: t.mul_(math.pi / 2).sin_().add_(1).mul_(0.5),
        lambda rest: rest.mul_(math.pi / 2).sin_().mul_(math.pi / 4),
    ),
    "linear": Kernel(lambda t: t.add_(1).mul_(0.5), lambda rest: (rest > 0).to(rest.dtype).mul_(0.5)),
    "triangle": Kernel(lambda t: (t - 0.5 * t * t.abs()).add_(0.5), lambda rest: rest),
}


def count_bits(
    codes: Tensor,
    relaxation: Tensor | float,
    kernel: str = "cosine",
    *,
    query_path: bool = True,
    classes: Tensor | None = None,
    n_classes: int = 1,
) -> Tensor:
    """Return the bits of the rounded codes under a static table of their soft counts, differentiable in the codes.

    S = -sum_i log2(n[q_i] / N) with q = round(codes), half to even, and n the soft counts (paper, Eq. 8 and 12 to 16).
    The gradient has two paths: every code moves the counts, and every symbol, by straight-through rounding, the place
    where the table is read; without `query_path` only the first. Equal codes cost nothing and get no gradient.

    codes float32 or float64 of any shape; relaxation positive, in symbols, taken as a constant; classes integers below
    n_classes of the codes' shape, each with a table of its own. Returns a float64 scalar on the codes' device. Raises
    InputError for an unknown kernel, codes that are not finite, and more than `MOST_COUNTS` counts.
    """
    if kernel not in KERNELS:
        raise InputError(f"there is no kernel {kernel!r}; the kernels are {', '.join(KERNELS)}")
    grid = _grid(codes, classes, n_classes, relaxation)
    if grid is None:
        return (codes * 0).sum(dtype=torch.float64)
    return _CountBits.apply(codes.reshape(-1), classes, grid, KERNELS[kernel], query_path)


def hard_bits(codes: Tensor, classes: Tensor | None = None, n_classes: int = 1) -> float:
    """Return the zero-order entropy of the rounded codes in bits, summed over classes; arguments as of `count_bits`."""
    grid = _grid(codes, classes, n_classes, _SMALLEST_RELAXATION)
    if grid is None:
        return 0.0
    hard = _symbols(grid.sums(grid.keys(codes.detach().reshape(-1), classes)))
    return float(_code_length(hard, hard))


def relaxation_of(codes: Tensor, resolution: float) -> Tensor:
    """Return (max - min) / resolution of the codes as a detached scalar, positive even for equal codes (paper, 3.3)."""
    if codes.numel() == 0:
        return codes.new_tensor(_SMALLEST_RELAXATION)
    low, high = torch.aminmax(codes.detach())
    return ((high - low) / resolution).clamp(min=_SMALLEST_RELAXATION)


@dataclass(frozen=True)
class _Grid:
    """Tables: column i stands for symbol `origin` + i and for the boundary above it.

    `reach` is how many boundaries a code may touch on either side of its nearest; so many columns and one more are
    spare at both ends.
    """

    origin: int
    columns: int
    n_classes: int
    reach: int
    relaxation: float

    def blocks(self, codes: Tensor) -> Iterator[slice]:
        """Yield slices of the codes, each at least as long as a table, whose cost stays in proportion."""
        size = max(2 * self.n_classes * self.columns, _CPU_BLOCK if codes.device.type == "cpu" else _GPU_BLOCK)
        return (slice(start, start + size) for start in range(0, codes.numel(), size))

    def keys(self, codes: Tensor, classes: Tensor | None) -> Tensor:
        """Return int32[N]: twice the place of each code rounded down, and 1 more if it rounds up."""
        keys = torch.empty(codes.shape, dtype=torch.int32, device=codes.device)
        for block in self.blocks(codes):
            down = codes[block].floor()
            keys[block] = codes[block].round().sub_(down).add_(down.sub_(self.origin), alpha=2)
        return keys if classes is None else keys.add_(classes.reshape(-1).to(torch.int32), alpha=2 * self.columns)

    def distances(self, codes: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield (block, s, distances over the relaxation) from the codes to the boundary s above their nearest."""
        for block in self.blocks(codes):
            nearest = codes[block].floor().sub_(codes[block]).add_(0.5)
            for shift in range(-self.reach, self.reach + 1):
                yield block, shift, (nearest + shift).div_(self.relaxation)

    def sums(self, keys: Tensor, values: Tensor | None = None) -> Tensor:
        """Return float64[n_classes, columns, 2]: for each key the sum of the float64 values, or how often it occurs."""
        size = (self.n_classes, self.columns, 2)
        return torch.bincount(keys, values, minlength=math.prod(size)).view(size).double()


class _CountBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Tensor, classes: Tensor | None, grid: _Grid, kernel: Kernel, query: bool) -> Tensor:
        keys = grid.keys(codes, classes)
        numbers = grid.sums(keys)
        below = numbers.sum(2).roll(grid.reach + 1, 1).cumsum(1)  # codes with all their mass below the boundary
        for block, shift, distance in grid.distances(codes):
            below += grid.sums(keys[block], kernel.cdf(distance.clamp_(-1, 1)).double()).sum(2).roll(shift, 1)
        soft = below.diff(dim=1, prepend=below.new_zeros(grid.n_classes, 1))
        hard = _symbols(numbers)
        ctx.save_for_backward(codes, keys, soft, hard)
        ctx.grid, ctx.kernel, ctx.query_path = grid, kernel, query
        return _code_length(hard, soft)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bits: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        codes, keys, soft, hard = ctx.saved_tensors
        grid = ctx.grid
        each = torch.where(hard > 0, -grad_bits / (grid.relaxation * math.log(2)) / soft, 0.0)
        price = hard * each
        step = price.roll(-1, 1) - price  # a code that moves up takes mass out of the bin below, into the bin above
        gradient = torch.zeros_like(codes)
        slope = torch.zeros_like(soft)
        for block, shift, distance in grid.distances(codes):
            density = ctx.kernel.density(distance.abs_().neg_().add_(1).clamp_(min=0))
            of_key = step.roll(-shift, 1).to(codes.dtype).view(-1).repeat_interleave(2)
            gradient[block].addcmul_(density, of_key.index_select(0, keys[block]))
            if ctx.query_path:
                slope += grid.sums(keys[block], density.double()).sum(2).roll(shift, 1)
        if ctx.query_path:
            reading = each * slope.diff(dim=1, prepend=slope.new_zeros(grid.n_classes, 1))
            of_key = torch.stack([reading, reading.roll(-1, 1)], 2).to(codes.dtype).view(-1)
            for block in grid.blocks(codes):
                gradient[block] += of_key.index_select(0, keys[block])
        return gradient, None, None, None, None


def _symbols(numbers: Tensor) -> Tensor:
    """Return float64[n_classes, columns]: how often each symbol occurs, from how often each key does."""
    return numbers[..., 0] + numbers[..., 1].roll(1, 1)


def _code_length(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the bits of so many symbols under tables of soft counts; both float64[n_classes, columns]."""
    total = hard.sum(1, keepdim=True).clamp(min=1)
    return -torch.xlogy(hard, soft / total).sum() / math.log(2)


def _grid(codes: Tensor, classes: Tensor | None, n_classes: int, relaxation: Tensor | float) -> _Grid | None:
    """Check the arguments and return the tables they need; None if all codes are equal, or there are none."""
    if codes.dtype not in (torch.float32, torch.float64):
        raise InputError(f"codes must be float32 or float64, not {codes.dtype}")
    if classes is not None and (classes.shape != codes.shape or classes.is_floating_point()):
        found = f"{classes.dtype} of shape {tuple(classes.shape)}"
        raise InputError(f"classes must be integers of the codes' shape {tuple(codes.shape)}, not {found}")
    low, high = torch.stack(torch.aminmax(codes.detach())).tolist() if codes.numel() else (0.0, 0.0)
    if not math.isfinite(high - low):
        raise InputError(f"codes must be finite, not from {low} to {high}")
    width = float(relaxation.detach() if isinstance(relaxation, Tensor) else relaxation)
    if not 0 < width < math.inf:
        raise InputError(f"the relaxation must be positive and finite, not {width}")
    if classes is not None and codes.numel():
        least, most = torch.stack(torch.aminmax(classes)).tolist()
        if least < 0 or most >= n_classes:
            raise InputError(f"classes must be from 0 to {n_classes - 1}, not from {least} to {most}")
    if low == high:
        return None
    origin, reach = math.floor(low), math.ceil(width + 0.5) - 1
    columns = math.floor(high) - origin + 2 * reach + 3
    if columns * n_classes > MOST_COUNTS:
        what = f"codes from {low:g} to {high:g}, relaxed by {width:g}, in {n_classes} classes"
        raise InputError(f"a tensor may need at most {MOST_COUNTS} counts, not {columns * n_classes}: {what}")
    return _Grid(origin - reach - 1, columns, n_classes, reach, width)
