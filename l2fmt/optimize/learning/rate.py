"""The rate while training: a differentiable estimate, the size of the file it stands for, and the weight it gets."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from l2fmt.optimize.learning.counter import count_bits, relaxation_of


class RateEstimate:
    """Turns counted bits into the bytes of the whole file, by the last file that was measured.

    What the counter does not know (the class model, headers, tables) changes slowly: it is kept as it was then.
    """

    def __init__(self) -> None:
        self.state = (1.0, 1.0, 0.125)  # bits counted when measured, bytes then, bytes that each further bit adds

    def calibrate(self, bits: float, size: int, weight_bytes: int) -> None:
        """Set the size at `bits` counted, and how many of the file's bytes are those of the codes."""
        self.state = (bits, float(size), weight_bytes / bits if bits > 0 else 0.125)

    def size(self, bits: float) -> float:
        """Return the estimated size when the counter says `bits`."""
        counted, size, slope = self.state
        return size + (bits - counted) * slope


class Counting:
    """How the rate is counted: with tables of their own for every tensor, as the paper does.

    `resolution` sets the relaxation of each tensor to its range of codes over it, as published; without it all have
    `relaxation`, and are counted at once.
    """

    def __init__(self, kernel: str, resolution: float | None, relaxation: float, query_path: bool):
        self._kernel, self._resolution, self._relaxation, self._query = kernel, resolution, relaxation, query_path
        self._owners: tuple[tuple[str, ...], Tensor] | None = None

    def bits(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the bits of all codes, a float64 scalar with gradients."""
        if not codes:
            return torch.zeros((), dtype=torch.float64)
        if self._resolution is not None:
            counted = [
                count_bits(c, relaxation_of(c, self._resolution), self._kernel, query_path=self._query)
                for c in codes.values()
            ]
            return torch.stack(counted).sum()
        flat = torch.cat([c.reshape(-1) for c in codes.values()])
        owners = self._owner_of(codes, flat.device)
        return count_bits(
            flat, self._relaxation, self._kernel, query_path=self._query, classes=owners, n_classes=len(codes)
        )

    def _owner_of(self, codes: Mapping[str, Tensor], device: torch.device) -> Tensor:
        names = tuple(codes)
        if self._owners is None or self._owners[0] != names or self._owners[1].device != device:
            counts = torch.tensor([c.numel() for c in codes.values()], device=device)
            index = torch.arange(len(codes), device=device).repeat_interleave(counts)
            self._owners = (names, index)
        return self._owners[1]


class Gate:
    """The published rule: full weight while the estimate exceeds the target, a hundredth of it below."""

    def __init__(self, weight: float):
        self._weight = weight
        self.state = 0.0

    def __call__(self, excess: float) -> float:
        return self._weight if excess >= 0 else self._weight / 100


class Balance:
    """Finds the weight that holds the rate at the target: it grows while the estimate exceeds it, and falls below.

    Called with the excess of the estimate over the target, relative; `weight` is where it begins.
    """

    def __init__(self, weight: float, gain: float = 0.3, damping: float = 20.0):
        self.state, self._gain, self._damping = math.log(weight), gain, damping

    def __call__(self, excess: float) -> float:
        excess = min(max(excess, -0.25), 0.25)
        self.state = min(max(self.state + self._gain * excess, -20.0), 20.0)
        return math.exp(self.state + self._damping * excess)
