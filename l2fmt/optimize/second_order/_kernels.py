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
def feed_back(
    weights, shifts, feedback, row_feedback, slopes, costs, classes, limit, paths, first, last, codes, errors
):
    """Quantize columns first ... last - 1 in order, each error being made up for by columns and rows after it.

    `feedback` float32[groups, columns, columns] is U, upper triangular with U^T U the inverse of the curvature of the
    columns; `row_feedback` that of the rows, [groups, rows, rows], or [groups, 0, 0] if they have nothing in common.
    `weights` are changed within these columns by what they make up for of earlier rows; `shifts`, like them, are what
    they make up for of columns before `first`. `errors` float32[groups, rows, last - first] gets what the columns from
    `last` on have to make up for: they change by -errors @ U[first:last, last:]. So many `paths` are followed in each
    row, see `_follow`.
    """
    rows, width = weights.shape[1], last - first
    correlated = row_feedback.shape[1] > 0
    target = np.empty(width, np.float32)
    row_errors = np.empty((rows, width), np.float32)
    for g in range(weights.shape[0]):
        own = np.ascontiguousarray(feedback[g, first:last, first:last])
        for r in range(rows):
            left, found = weights[g, r, first:last], codes[g, r, first:last]
            if correlated:
                for before in range(r):
                    factor = row_feedback[g, before, r]
                    for i in range(width):
                        left[i] -= factor * row_errors[before, i]
            target[:] = left + shifts[g, r, first:last]
            _follow(target, own, slopes[g, r], costs, classes[g, r, first:last], limit, paths, found, errors[g, r])
            if correlated:
                for i in range(width):
                    row_errors[r, i] = (left[i] - found[i]) / row_feedback[g, r, r]


@kernel
def _follow(weights, feedback, slope, costs, classes, limit, paths, codes, errors):
    """Find codes of a row with the least sum of squared errors + slope * bits, as error feedback adds both up.

    Of all ways to go on from the best `paths` beginnings, with the cheapest code or one of its neighbours, the best
    are followed (the M-algorithm of tree coding): one path is plain error feedback.
    """
    width, around = weights.shape[0], 1 if paths > 1 else 0
    left, following = np.empty((paths, width), np.float32), np.empty((paths, width), np.float32)
    left[0] = weights
    total, next_total = np.zeros(paths, np.float32), np.empty(paths, np.float32)
    cheapest, ways = np.empty(paths, np.int32), np.empty(paths, np.int32)  # a way is 3 * path + its code - cheapest + 1
    chosen, parent = np.empty((width, paths), np.int32), np.empty((width, paths), np.int32)
    missed = np.empty((width, paths), np.float32)
    count = 1
    for i in range(width):
        pivot, cost = feedback[i, i], costs[classes[i]]
        kept = 0
        for path in range(count):
            if kept == paths and total[path] >= next_total[kept - 1]:
                break  # those that follow are worse still
            target = left[path, i]
            code = _cheapest(target, slope * pivot * pivot, cost, limit)
            cheapest[path] = code
            for candidate in range(max(code - around, -limit), min(code + around, limit) + 1):
                error = (target - candidate) / pivot
                value = total[path] + error * error + slope * cost[candidate + limit]
                if kept < paths:
                    kept += 1
                elif value >= next_total[kept - 1]:
                    continue
                at = kept - 1
                while at > 0 and next_total[at - 1] > value:
                    next_total[at], ways[at] = next_total[at - 1], ways[at - 1]
                    at -= 1
                next_total[at], ways[at] = value, 3 * path + candidate - code + 1
        for new in range(kept):
            path = ways[new] // 3
            code = cheapest[path] + ways[new] % 3 - 1
            error = (left[path, i] - code) / pivot
            chosen[i, new], parent[i, new], missed[i, new] = code, path, error
            # Slices, as a loop that begins at 0 compiles to vectors.
            before, after, share = left[path, i + 1 :], following[new, i + 1 :], feedback[i, i + 1 :]
            for j in range(width - i - 1):
                after[j] = before[j] - error * share[j]
        left, following, total, next_total = following, left, next_total, total
        count = kept
    path = 0
    for i in range(width - 1, -1, -1):
        codes[i], errors[i] = chosen[i, path], missed[i, path]
        path = parent[i, path]


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
