"""The last step to a size: codes near a cell's border go to the cheaper, or the dearer, side of it."""

from collections.abc import Callable, Sequence

import numpy as np

from l2fmt.errors import TargetError
from l2fmt.optimize.code_lengths import code_costs, fit_tables
from l2fmt.optimize.search import TOLERANCE

# Trade-offs tried, in squared steps a bit. They begin small: training leaves many weights undecided, on a border.
_FIRST, _GROWTH, _STEEPEST = 1e-8, 64.0, 2.0
_BISECTIONS = 14


def land(codes: Sequence[np.ndarray], target: int, measure: Callable[[list[np.ndarray]], int]) -> list[np.ndarray]:
    """Round real codes so that the measured size is at most `target`, and within 0.5 % of it.

    Each becomes the integer q, of the nearest and its two neighbours, that minimises (c - q)^2 + t * bits(q), the bits
    being those of the class model fitted to the nearest ones; t, of either sign, is found by bisection. Returns int32
    arrays of the shapes given. Where codes jump over the size, or the target is far above, they are the nearest that
    were tried below. Raises TargetError, saying what can be reached, if it is far below.
    """
    nearest = [np.rint(c).astype(np.int32) for c in codes]
    first = size = measure(nearest)
    if _fits(size, target):
        return nearest
    rounding = _Rounding(codes, nearest)
    sign = 1 if size > target else -1
    below = nearest if size <= target else None  # the largest result below the target
    inside, trade_off = 0.0, _FIRST
    while True:
        trial = rounding(sign * trade_off)
        size = measure(trial)
        if _fits(size, target):
            return trial
        if size <= target:
            below = trial
        if (size < target) == (sign > 0):
            break
        if trade_off > _STEEPEST:
            if below is not None:
                return below
            message = f"{target:,} bytes cannot be reached: training ended at {first:,}, and rounding at {size:,}"
            raise TargetError(f"{message}; train longer, or ask for a smaller ratio", size)
        inside, trade_off = trade_off, trade_off * _GROWTH
    inside, outside = max(inside, trade_off / _GROWTH), trade_off
    for _ in range(_BISECTIONS):
        middle = (inside * outside) ** 0.5
        trial = rounding(sign * middle)
        size = measure(trial)
        if _fits(size, target):
            return trial
        if size <= target:
            below = trial
        if (size < target) == (sign > 0):
            outside = middle
        else:
            inside = middle
    return below if below is not None else nearest


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
            best, least = nearest.copy(), np.zeros(nearest.shape, np.float32)
            bits = self._bits_of(nearest, classes)
            error = real - nearest
            for move in (-1, 1):
                # (error - move)^2 - error^2, which is exact where it matters: near a border
                change = 1 - 2 * move * error + np.float32(trade_off) * (self._bits_of(nearest + move, classes) - bits)
                np.copyto(best, nearest + np.int32(move), where=change < least)
                np.minimum(least, change, out=least)
            result.append(best)
        return result

    def _bits_of(self, q: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return self._bits[classes, q.reshape(-1) + self._limit].reshape(q.shape)
