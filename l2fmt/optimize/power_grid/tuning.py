"""Choose the end and the growth of a grid so that weights lose least, in the norm L_m, by a coarse-to-fine search."""

import numpy as np

from l2fmt.optimize.power_grid.grids import PowerGrid, first_step, threshold_share

# The search: ends relative to a row's largest weight, and the last step relative to the first, both on a logarithmic
# scale. Each round looks closer at the best of the one before.
_LEAST_END = 1 / 8
_MOST_SPREAD = 64.0
_ENDS, _SPREADS = 12, 8
_CLOSER = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / 3
_ROUNDS = 3
_POINTS = 4096  # weights of a tensor that are looked at,
_ROW_POINTS = 256  # but at least so many of a row


def tune(rows: np.ndarray, levels: int, norm: int, rounding: str) -> PowerGrid:
    """Return the grid of `levels` values on each side of 0 on which the weights float32[rows, columns] lose least.

    The loss is the sum of the errors' powers `norm`. Rows have ends of their own, and share the growth. Large tensors
    are represented by some of their weights, the largest always among them.
    """
    points, counts = _representatives(rows)
    peaks = points[:, -1]
    points = points / np.where(peaks > 0, peaks, 1)[:, None]
    importance = (peaks / (peaks.max() or 1.0)) ** norm

    def best(log_ends: np.ndarray, log_spreads: np.ndarray) -> tuple[np.ndarray, float]:
        growths = _growths(log_spreads, levels)
        errors = _errors(points, counts, np.exp(log_ends), growths, levels, norm, rounding)
        growth = int((importance @ errors.min(2)).argmin())
        return np.take_along_axis(log_ends, errors[:, growth].argmin(1)[:, None], 1), log_spreads[growth]

    log_ends, log_spreads = np.linspace(np.log(_LEAST_END), 0, _ENDS), np.linspace(0, np.log(_MOST_SPREAD), _SPREADS)
    end_width, spread_width = log_ends[1] - log_ends[0], log_spreads[1]
    if levels == 1:  # a single step has no growth
        log_spreads, spread_width = log_spreads[:1], 0.0
    ends, spread = best(np.tile(log_ends, (len(rows), 1)), log_spreads)
    for _ in range(_ROUNDS):
        closer = np.unique(np.maximum(spread + spread_width * _CLOSER, 0))
        ends, spread = best(np.minimum(ends + end_width * _CLOSER, 0), closer)
        end_width, spread_width = end_width / 3, spread_width / 3
    growth = float(_growths(np.array([spread]), levels)[0])
    tiny = float(np.finfo(np.float32).tiny)  # ends are stored as float32
    return PowerGrid(np.where(peaks > 0, np.maximum(np.exp(ends[:, 0]) * peaks, tiny), 1), growth, levels)


def _errors(
    points: np.ndarray,
    counts: np.ndarray,
    ends: np.ndarray,
    growths: np.ndarray,
    levels: int,
    norm: int,
    rounding: str,
) -> np.ndarray:
    from l2fmt.optimize.power_grid._kernels import grid_errors

    first_steps = np.array([first_step(p, levels) for p in growths.tolist()])
    shares = np.array([threshold_share(p, rounding) for p in growths.tolist()])
    return grid_errors(points, counts, ends, growths, first_steps, shares, levels, norm)


def _growths(log_spreads: np.ndarray, levels: int) -> np.ndarray:
    """Return p as the file has it, a float32, of grids whose last step is `exp(log_spreads)` times the first."""
    return np.exp(log_spreads / max(levels - 1, 1)).astype(np.float32).astype(np.float64)


def _representatives(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return magnitudes float64[rows, n] in ascending order, and how many weights of a row each stands for."""
    magnitudes = np.sort(np.abs(rows), axis=1).astype(np.float64)
    count = magnitudes.shape[1]
    room = max(_POINTS // len(rows), _ROW_POINTS)
    if count <= room:
        return magnitudes, np.ones(count)
    largest = room // 8
    others, spread = count - largest, room - largest
    chosen = ((np.arange(spread) + 0.5) * others / spread).astype(np.int64)
    index = np.concatenate([chosen, np.arange(others, count)])
    counts = np.concatenate([np.full(spread, others / spread), np.ones(largest)])
    return np.ascontiguousarray(magnitudes[:, index]), counts
