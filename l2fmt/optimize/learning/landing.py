"""The last step to a size: codes near a cell's border go to the cheaper, or the dearer, side of it."""

from collections.abc import Callable, Sequence

import numpy as np

from l2fmt.errors import TargetError
from l2fmt.optimize.code_lengths import code_costs, fit_tables
from l2fmt.optimize.search import TOLERANCE

_FIRST, _GROWTH, _STEEPEST = 2e-3, 3.0, 2.0  # trade-offs tried, in squared steps a bit
_BISECTIONS = 12


def land(
    codes: Sequence[np.ndarray], target: int, measure: Callable[[list[np.ndarray]], int]
) -> tuple[list[np.ndarray], bool]:
    """Round real codes so that the measured size is at most `target`, and within 0.5 % of it.

    Each becomes the integer q, of the nearest and its two neighbours, that minimises (c - q)^2 + t * bits(q), the bits
    being those of the class model fitted to the nearest ones; t, of either sign, is found by bisection. Returns int32
    arrays of the shapes given, and whether the size was met: where codes jump over it, or the target is far above,
    they are the nearest that were tried below. Raises TargetError, saying what can be reached, if it is far below.
    """
    nearest = [np.rint(c).astype(np.int32) for c in codes]
    first = size = measure(nearest)
    if _fits(size, target):
        return nearest, True
    rounding = _Rounding(codes, nearest)
    sign = 1.0 if size > target else -1.0
    inside, trade_off = 0.0, sign * _FIRST
    best = nearest
    while True:
        best = rounding(trade_off)
        size = measure(best)
        if _fits(size, target):
            return best, True
        if (size < target) == (sign > 0):
            break
        if abs(trade_off) > _STEEPEST:
            if size > target:
                message = (
                    f"{target:,} bytes cannot be reached: training ended at {first:,}, and rounding reaches {size:,}"
                )
                raise TargetError(f"{message}; train longer, or ask for a smaller ratio")
            return best, False
        inside, trade_off = trade_off, trade_off * _GROWTH
    below, above = (trade_off, inside) if sign > 0 else (inside, trade_off)  # sizes below and above the target
    found: list[np.ndarray] | None = best if size <= target else (nearest if inside == 0.0 else None)
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        trial = rounding(middle)
        size = measure(trial)
        if _fits(size, target):
            return trial, True
        if size > target:
            above = middle
        else:
            below, found = middle, trial
    return (found if found is not None else rounding(below)), False


def _fits(size: int, target: int) -> bool:
    return target * (1 - TOLERANCE) <= size <= target


class _Rounding:
    """Rounds real codes at a trade-off, with the code lengths of the nearest ones."""

    def __init__(self, codes: Sequence[np.ndarray], nearest: Sequence[np.ndarray]):
        self._codes, self._nearest = codes, nearest
        tables, maps = fit_tables([q.reshape(-1) for q in nearest], [q.shape for q in nearest])
        self._limit = max(int(np.abs(q).max(initial=0)) for q in nearest) + 1
        self._bits = code_costs(tables, self._limit)
        self._classes = [classes.slice(0, q.size) for classes, q in zip(maps, nearest, strict=True)]

    def __call__(self, trade_off: float) -> list[np.ndarray]:
        result = []
        for real, nearest, classes in zip(self._codes, self._nearest, self._classes, strict=True):
            best = nearest.copy()
            least = self._cost(real, nearest, classes, trade_off)
            for move in (-1, 1):
                candidate = nearest + np.int32(move)
                cost = self._cost(real, candidate, classes, trade_off)
                np.copyto(best, candidate, where=cost < least)
                np.minimum(least, cost, out=least)
            result.append(best)
        return result

    def _cost(self, real: np.ndarray, q: np.ndarray, classes: np.ndarray, trade_off: float) -> np.ndarray:
        bits = self._bits[classes, q.reshape(-1) + self._limit].reshape(q.shape)
        return (real - q) ** 2 + np.float32(trade_off) * bits
