"""Search for the coarsest trade-off whose result meets a size; shared by all methods."""

from collections.abc import Callable
from math import log2
from typing import Protocol, TypeVar

from l2fmt.errors import TargetError
from l2fmt.optimize.base import Budget, Progress, Task
from l2fmt.pipeline import QuantizedTensor

T = TypeVar("T")

TOLERANCE = 0.005  # a result within so much below the target is taken
_CLOSE = 0.0015  # for one that leaves more than this, one more trial is made first
AIM = 0.999  # trials and training aim here: clear of the target, as sizes jump a little
_TRIALS = 24
# Octaves that the scale changes by, as long as all trials are on one side of the target: at least, at most, and how
# many times as many as before.
_LEAST_STRIDE, _STRIDE, _GROWTH = 0.002, 2.0, 4.0


class Scalable(Protocol):
    """A model of which one scale fixes all steps."""

    size: int
    finest_scale: float

    def first_scale(self, bits: float) -> float:
        """Return a guess of the scale at which codes take `bits` a weight."""
        ...

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        """Return all codes at a scale."""
        ...


def codes_of_size(model: Scalable, task: Task) -> list[QuantizedTensor]:
    """Return the codes that meet the task's budget of bytes, or of bits a weight, as `search_size` says."""
    target, of = target_of(task.budget, model.size)
    trials = iter(range(1, 1000))

    def produce(scale: float) -> tuple[list[QuantizedTensor], int]:
        stage = f"trial {next(trials)}"
        codes = model.codes(scale, lambda what, done: task.progress(f"{stage}: {what}", done))
        return codes, getattr(task.measure(codes), of)

    return search_size(produce, target, model.size, model.first_scale, model.finest_scale)


def target_of(budget: Budget, weights: int) -> tuple[int, str]:
    """Return the bytes that a budget of bytes, or of bits a weight, allows, and the attribute of `Size` that counts."""
    if budget.file_bytes is not None:
        return budget.file_bytes, "file_bytes"
    return int((budget.weight_bits or 0) * weights / 8), "weight_bytes"


def search_size(
    produce: Callable[[float], tuple[T, int]],
    target: int,
    weights: int,
    first: Callable[[float], float],
    finest: float,
) -> T:
    """Return the result of `produce` whose size is at most `target` bytes and within 0.5 % of it, or the nearest below.

    If the first such one is over 0.15 % below, one more trial is made, and the nearer of both returned.
    `produce(scale)` returns a result and its size, which falls with the scale: about one bit a weight for a factor of
    two; `weights` is how many share the scale, `first(bits)` guesses the scale of so many bits a weight, `finest` is
    the smallest allowed.
    Raises TargetError, saying what can be reached, if even the finest scale is too small or no scale is small enough.
    """
    scale = max(first(8 * target / weights), finest)
    above: tuple[float, int] | None = None  # the coarsest trial that was too large
    below: tuple[float, int] | None = None  # the finest trial that fitted
    best: tuple[T, int] | None = None
    near = False  # whether `best` is within the tolerance
    before = ("", scale, 0)  # on which side of the target the last trial was, its scale and its size
    for _ in range(_TRIALS):
        result, size = produce(scale)
        side = "above" if size > target else "below"
        if side == "below":
            if best is None or size > best[1]:
                best = (result, size)
            if scale <= finest and size < target * (1 - TOLERANCE):
                message = f"the finest steps give {size:,} bytes, less than the {target:,} asked for"
                raise TargetError(f"{message}; use a higher ratio, or lossless", size)
            below = (scale, size)
        else:
            if below is None and above is not None and size > 0.9999 * above[1] and scale > 2 * above[0]:
                raise TargetError(f"{target:,} bytes cannot be reached: the smallest result has {size:,} bytes", size)
            above = (scale, size)
        if best is not None and best[1] >= target * (1 - (TOLERANCE if near else _CLOSE)):
            return best[0]
        near = best is not None and best[1] >= target * (1 - TOLERANCE)
        again = side == before[0]
        if above is not None and below is not None:
            share = (above[1] - target * AIM) / (above[1] - below[1])
            # On a bent curve interpolation creeps along one side: then halve, as long as that is not near.
            share = 0.5 if again and not near else min(max(share, 0.02), 0.98)
            following = 2 ** (log2(above[0]) + share * (log2(below[0]) - log2(above[0])))
        else:
            stride, slope = _STRIDE, weights / 8  # octaves, and bytes an octave as fine steps have it
            if again:  # as the last two trials have it, which may have been close to each other
                moved = log2(scale / before[1])
                stride, slope = min(stride, _GROWTH * abs(moved)), max((before[2] - size) / moved, 1e-9 * slope)
            octaves = min(max(abs(size - target * AIM) / slope, _LEAST_STRIDE), stride)
            following = scale * 2 ** (-octaves if side == "below" else octaves)
        before = (side, scale, size)
        if abs(log2(max(following, finest) / scale)) < 1e-6:
            break
        scale = max(following, finest)
    if best is not None:  # sizes jump: a small model has few codes to trade
        return best[0]
    smallest = above[1] if above else 0
    raise TargetError(f"{target:,} bytes cannot be reached: the smallest result has {smallest:,} bytes", smallest)
