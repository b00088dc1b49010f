"""The compiled inner loop of rounding with correlated errors (see rd.py)."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True)
def round_correlated(weights, inverse_step, costs, classes, limit, kernel, row, trade_off, passes, codes):
    """Choose the codes of a tensor, in place, by coordinate descent over each row in order.

    For each output row it lowers, in units of step^2,
        sum d^2 + kernel * sum_c (sum_p d)^2 + row * (sum d)^2 + trade_off * bits,   d = code - weight / step,
    c running over input channels, p over kernel positions. All that depends on one code is (1 + kernel + row)(code -
    target)^2, the target being the weight moved against the errors already made: candidates are the two codes about it,
    and 0.

    weights float32[R, C, P]; costs float32[K, 2 limit + 1], bits of code q at q + limit; classes uint8[R, C, P];
    codes int32[R, C, P], in [-limit, limit]: on entry the codes to start from.
    """
    n_rows, n_columns, n_positions = weights.shape
    curvature = np.float32(1) + kernel + row
    kernel_error = np.zeros(n_columns, np.float32)
    for r in range(n_rows):
        row_error = np.float32(0)
        for c in range(n_columns):
            total = np.float32(0)
            for p in range(n_positions):
                total += codes[r, c, p] - weights[r, c, p] * inverse_step
            kernel_error[c] = total
            row_error += total
        for _ in range(passes):
            for c in range(n_columns):
                for p in range(n_positions):
                    x = weights[r, c, p] * inverse_step
                    error = codes[r, c, p] - x
                    others_kernel = kernel_error[c] - error
                    others_row = row_error - error
                    target = x - (kernel * others_kernel + row * others_row) / curvature
                    cost = costs[classes[r, c, p]]
                    nearest = min(max(np.int32(np.rint(target)), -limit), limit)
                    inward = nearest - 1 if nearest > 0 else nearest + 1 if nearest < 0 else 0
                    best = nearest
                    least = curvature * (nearest - target) ** 2 + trade_off * cost[nearest + limit]
                    for candidate in (inward, 0):
                        j = curvature * (candidate - target) ** 2 + trade_off * cost[candidate + limit]
                        if j < least:
                            least = j
                            best = candidate
                    codes[r, c, p] = best
                    error = best - x
                    kernel_error[c] = others_kernel + error
                    row_error = others_row + error
