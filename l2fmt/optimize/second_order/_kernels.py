"""The compiled loops of rounding with second-order error feedback.

Weights are in units of their step. Layouts: weights float32[groups, rows, columns]; `codes` int32 of the same shape, in
[-limit, limit]; `costs` float32[K, 2 limit + 1], bits of code q at q + limit; `classes` uint8 of the shape of the
codes; `slopes` float32[groups, rows]: what a bit is worth in each row, in squared steps over the curvature's unit.
"""

import numba as nb
import numpy as np

kernel = nb.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


@kernel
def _cheapest(target, trade_off, cost, limit):
    """Return the code that minimises (code - target)^2 + trade_off * bits: of the nearest, the next inward, and 0."""
    nearest = min(max(np.int32(np.rint(target)), -limit), limit)
    inward = nearest - 1 if nearest > 0 else nearest + 1 if nearest < 0 else 0
    best = nearest
    least = (nearest - target) ** 2 + trade_off * cost[nearest + limit]
    for candidate in (inward, 0):
        total = (candidate - target) ** 2 + trade_off * cost[candidate + limit]
        if total < least:
            least = total
            best = candidate
    return best


@kernel
def feed_back(weights, shifts, feedback, row_feedback, slopes, costs, classes, limit, first, last, codes, errors):
    """Quantize columns first ... last - 1 in order, each error being made up for by columns and rows after it.

    `feedback` float32[groups, columns, columns] is U, upper triangular with U^T U the inverse of the curvature of the
    columns; `row_feedback` that of the rows, [groups, rows, rows], or [groups, 0, 0] if they have nothing in common.
    `weights` are changed within these columns by what they make up for of earlier rows; `shifts`, like them, are what
    they make up for of columns before `first`. `errors` float32[groups, rows, last - first] gets what the columns from
    `last` on have to make up for: they change by -errors @ U[first:last, last:].
    """
    rows, width = weights.shape[1], last - first
    correlated = row_feedback.shape[1] > 0
    left = np.empty(width, np.float32)
    row_errors = np.empty((rows, width), np.float32)
    for g in range(weights.shape[0]):
        for r in range(rows):
            if correlated:
                for before in range(r):
                    factor = row_feedback[g, before, r]
                    for i in range(width):
                        weights[g, r, first + i] -= factor * row_errors[before, i]
            for i in range(width):
                left[i] = weights[g, r, first + i] + shifts[g, r, first + i]
            for i in range(width):
                pivot = feedback[g, first + i, first + i]
                target = left[i]
                trade_off = slopes[g, r] * pivot * pivot
                code = _cheapest(target, trade_off, costs[classes[g, r, first + i]], limit)
                codes[g, r, first + i] = code
                error = (target - code) / pivot
                errors[g, r, i] = error
                for j in range(i + 1, width):
                    left[j] -= error * feedback[g, first + i, first + j]
            if correlated:
                for i in range(width):
                    row_errors[r, i] = (weights[g, r, first + i] - codes[g, r, first + i]) / row_feedback[g, r, r]


@kernel
def descend(products, gradients, hessian, row_shares, slopes, costs, classes, limit, first, last, codes):
    """Change single codes of rows first ... last - 1, in order, while that lowers the distance + slope * bits.

    The distance is that of errors E = codes - weights: the trace of S E H E^T, H being `hessian` float32[groups,
    columns, columns], and the rows of S over its diagonal `row_shares` float32[groups, rows, rows], or [groups, 0, 0]
    if S is diagonal. `products` float32[groups, rows, columns] is E H, kept up to date; `gradients` float32[groups,
    last - first, columns] are those rows of S E H, over the diagonal of S, and are used up. Returns how many codes
    changed.
    """
    changed = 0
    columns = codes.shape[2]
    correlated = row_shares.shape[1] > 0
    moved = np.empty(columns, np.float32)
    for g in range(codes.shape[0]):
        for r in range(first, last):
            gradient = gradients[g, r - first]
            before = changed
            moved[:] = 0
            for i in range(columns):
                diagonal = hessian[g, i, i]
                code = codes[g, r, i]
                target = code - gradient[i] / diagonal
                best = _cheapest(target, slopes[g, r] / diagonal, costs[classes[g, r, i]], limit)
                if best != code:
                    move = np.float32(best - code)
                    codes[g, r, i] = best
                    changed += 1
                    for j in range(columns):
                        gradient[j] += move * hessian[g, i, j]
                        moved[j] += move * hessian[g, i, j]
            if changed == before:
                continue
            for j in range(columns):
                products[g, r, j] += moved[j]
            if correlated:
                for later in range(r + 1, last):
                    share = row_shares[g, later, r]
                    for j in range(columns):
                        gradients[g, later - first, j] += share * moved[j]
    return changed


@kernel
def round_alone(weights, diagonal, slopes, costs, classes, limit, codes):
    """Quantize each weight by itself, for a diagonal curvature: `diagonal` float32[groups, columns]."""
    for g in range(weights.shape[0]):
        for r in range(weights.shape[1]):
            for i in range(weights.shape[2]):
                trade_off = slopes[g, r] / diagonal[g, i]
                codes[g, r, i] = _cheapest(weights[g, r, i], trade_off, costs[classes[g, r, i]], limit)
