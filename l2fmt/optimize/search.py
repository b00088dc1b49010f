"""Search for the coarsest trade-off whose result meets a size; shared by all methods."""

from collections.abc import Callable
from math import log2
from typing import TypeVar

from l2fmt.errors import TargetError

T = TypeVar("T")

TOLERANCE = 0.005  # a result within so much below the target is taken
_AIM = 0.998  # trials aim here: inside the tolerance, and clear of the target
_TRIALS = 24


def search_size(
    produce: Callable[[float], tuple[T, int]],
    target: int,
    weights: int,
    first: Callable[[float], float],
    finest: float,
) -> T:
    """Return the result of `produce` whose size is at most `target` bytes and within 0.5 % of it, or the nearest below.

    `produce(scale)` returns a result and its size, which falls with the scale: about one bit a weight for a factor of
    two; `weights` is how many share the scale, `first(bits)` guesses the scale of so many bits a weight, `finest` is
    the smallest allowed.
    Raises TargetError, saying what can be reached, if even the finest scale is too small or no scale is small enough.
    """
    scale = max(first(8 * target / weights), finest)
    above: tuple[float, int] | None = None  # the coarsest trial that was too large
    below: tuple[float, int] | None = None  # the finest trial that fitted
    best: tuple[T, int] | None = None
    largest_seen = 0
    for _ in range(_TRIALS):
        result, size = produce(scale)
        largest_seen = max(largest_seen, size)
        if size <= target:
            if best is None or size > best[1]:
                best = (result, size)
            if size >= target * (1 - TOLERANCE):
                return result
            if scale <= finest:
                message = f"the finest steps give {size:,} bytes, less than the {target:,} asked for"
                raise TargetError(f"{message}; use a higher ratio, or lossless")
            if below is None or scale < below[0]:
                below = (scale, size)
        elif above is None or scale > above[0]:
            above = (scale, size)
        following = _next(scale, size, target * _AIM, weights, above, below)
        following = max(following, finest)
        if abs(log2(following / scale)) < 1e-6:
            break
        scale = following
        if size > target and scale > first(0.0) * 64:
            break
    if best is not None:  # sizes jump: small models have few codes to trade
        return best[0]
    raise TargetError(
        f"{target:,} bytes cannot be reached: the smallest result has {above[1] if above else largest_seen:,} bytes"
    )


def _next(
    scale: float, size: int, aim: float, weights: int, above: tuple[float, int] | None, below: tuple[float, int] | None
) -> float:
    """Return the next scale to try: between a trial that was too large and one that fitted, by interpolation, else by
    the slope.
    """
    if above is not None and below is not None and above[0] < below[0]:
        share = (above[1] - aim) / max(above[1] - below[1], 1)
        share = min(max(share, 0.05), 0.95)  # a curve that bends must not stall the search
        return 2 ** (log2(above[0]) + share * (log2(below[0]) - log2(above[0])))
    step = 8 * (size - aim) / weights
    return scale * 2 ** min(max(step, -2.0), 2.0)
