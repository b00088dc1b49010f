"""The compiled loop of tuning: what weights lose on many grids at once."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True)
def grid_errors(points, counts, ends, growths, first_steps, shares, levels, norm):
    """Return sum count * |point - value|^norm for every row, growth and end: float64[rows, growths, ends].

    A grid that ends at 1 has steps first_step, first_step * growth, ... between its values 0 = v_0 < ... < v_levels; a
    point beyond v_k + share * (v_k+1 - v_k) has a value above v_k. Points are in order, so that one walk along them and
    the grid finds the value of each, without a logarithm.

    points float64[rows, n], not negative, ascending; counts float64[n]; ends float64[rows, ends], where the grid of
    a row ends; growths, first_steps, shares float64[growths].
    """
    result = np.zeros((points.shape[0], growths.size, ends.shape[1]))
    for r in range(points.shape[0]):
        for g in range(growths.size):
            for e in range(ends.shape[1]):
                step = ends[r, e] * first_steps[g]
                value, code, total = 0.0, 0, 0.0
                for i in range(points.shape[1]):
                    point = points[r, i]
                    while code < levels and point > value + shares[g] * step:
                        value += step
                        step *= growths[g]
                        code += 1
                    total += counts[i] * abs(point - value) ** norm
                result[r, g, e] = total
    return result
