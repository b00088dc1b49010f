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
def feed_back(weights, feedback, slopes, costs, classes, limit, first, last, codes, errors):
    """Quantize columns first ... last - 1 in order, each error being made up for by the columns after it.

    `feedback` float32[groups, columns, columns] is U, upper triangular with U^T U the inverse of the curvature.
    `weights` are changed within these columns; `errors` float32[groups, rows, last - first] gets what
    the columns from `last` on have to make up for: they change by -errors @ U[first:last, last:].
    """
    for g in range(weights.shape[0]):
        for r in range(weights.shape[1]):
            for i in range(first, last):
                pivot = feedback[g, i, i]
                target = weights[g, r, i]
                trade_off = slopes[g, r] * pivot * pivot
                code = _cheapest(target, trade_off, costs[classes[g, r, i]], limit)
                codes[g, r, i] = code
                error = (target - code) / pivot
                errors[g, r, i - first] = error
                for j in range(i + 1, last):
                    weights[g, r, j] -= error * feedback[g, i, j]


@kernel
def descend(gradient, hessian, slopes, costs, classes, limit, passes, codes):
    """Change single codes while that lowers e^T H e + slope * bits, e = codes - weights, going over each row in order.

    `gradient` float32[groups, rows, columns] is e H, kept up to date; `hessian`, H, float32[groups, columns, columns].
    Returns how many codes were changed.
    """
    changed = 0
    for g in range(codes.shape[0]):
        for r in range(codes.shape[1]):
            for _ in range(passes):
                before = changed
                for i in range(codes.shape[2]):
                    diagonal = hessian[g, i, i]
                    code = codes[g, r, i]
                    target = code - gradient[g, r, i] / diagonal
                    best = _cheapest(target, slopes[g, r] / diagonal, costs[classes[g, r, i]], limit)
                    if best != code:
                        move = np.float32(best - code)
                        codes[g, r, i] = best
                        changed += 1
                        for j in range(codes.shape[2]):
                            gradient[g, r, j] += move * hessian[g, i, j]
                if changed == before:
                    break
    return changed


@kernel
def round_alone(weights, diagonal, slopes, costs, classes, limit, codes):
    """Quantize each weight by itself, for a diagonal curvature: `diagonal` float32[groups, columns]."""
    for g in range(weights.shape[0]):
        for r in range(weights.shape[1]):
            for i in range(weights.shape[2]):
                trade_off = slopes[g, r] / diagonal[g, i]
                codes[g, r, i] = _cheapest(weights[g, r, i], trade_off, costs[classes[g, r, i]], limit)
