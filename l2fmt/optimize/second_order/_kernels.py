"""The compiled loops of rounding with second-order error feedback.

Weights are in units of their step. Layouts: weights float32[groups, rows, columns]; `codes` int32 of the same shape, in
[-limit, limit]; `costs` float32[K, 2 limit + 1], bits of code q at q + limit; `classes` uint8 of the shape of the
codes; `slopes` float32[groups, rows]: what a bit is worth in each row, in squared steps over the curvature's unit.
"""

import numba as nb
import numpy as np

CHUNK = 32  # columns of paths that change at a time
TOLERANCE = 1e-5  # what sums of float32 may be wrong by
FADING = 0.9  # of what is close to earlier ones, with each that takes its turn

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

    `feedback` float32[groups, width, width] is the part for these columns of U, upper triangular with U^T U the inverse
    of the curvature of the columns, padded to whole chunks; `row_feedback` that of all rows, [groups, rows, rows], or
    [groups, 0, 0] if they have nothing in common. `weights` are changed within these columns by what they make up for
    of earlier rows; `shifts`, like them, are what they make up for of columns before `first`. `errors` float32[groups,
    rows, last - first] gets what the columns from `last` on have to make up for: they change by -errors @ U[first:last,
    last:]. So many `paths` are followed in each row, see `_follow`.
    """
    rows, width = weights.shape[1], last - first
    correlated = row_feedback.shape[1] > 0
    target = np.zeros(feedback.shape[1], np.float32)
    row_errors = np.empty((rows, width), np.float32)
    for g in range(weights.shape[0]):
        for r in range(rows):
            left, found = weights[g, r, first:last], codes[g, r, first:last]
            if correlated:
                for before in range(r):
                    factor = row_feedback[g, before, r]
                    for i in range(width):
                        left[i] -= factor * row_errors[before, i]
            target[:width] = left + shifts[g, r, first:last]
            slope, own = slopes[g, r], classes[g, r, first:last]
            found[:], errors[g, r] = 0, 0  # what stays where weights are beyond all numbers, and no path is found
            _follow(target, feedback[g], slope, costs, own, limit, paths, np.float32(np.inf), found, errors[g, r])
            if correlated:
                for i in range(width):
                    row_errors[r, i] = (left[i] - found[i]) / row_feedback[g, r, r]


@kernel
def _follow(weights, feedback, slope, costs, classes, limit, paths, bound, codes, errors):
    """Find codes of a row with the least sum of squared errors + slope * bits, as error feedback adds both up.

    Of all ways to go on from the best `paths` beginnings, with a code next to what the weight has become, or 0, the
    best are followed (the M-algorithm of tree coding): one path is plain error feedback. There are as many columns as
    `codes`; weights and feedback are padded to whole chunks. Returns the sum, or `bound` if no path has less.
    """
    padded, width = weights.shape[0], codes.shape[0]
    left, following = np.empty((paths, padded), np.float32), np.empty((paths, padded), np.float32)
    left[0] = weights
    total = np.zeros(paths, np.float32)
    chosen, parent = np.empty((width, paths), np.int32), np.empty((width, paths), np.int32)
    missed = np.empty((width, paths), np.float32)
    # Ways to go on: of each path first the better neighbour of its weight, then the other, then 0. They are sorted as
    # integers: above the bits of the sum, whose order is that of sums that are not negative, below which way it is.
    ways, sums = np.empty(3 * paths, np.int32), np.empty(3 * paths, np.float32)
    bits, least, moved = sums.view(np.int32), np.empty(paths + 1, np.int64), np.empty(paths, np.int64)
    end = np.int64(np.float32(bound).view(np.int32)) << 32
    least[0] = -1
    count = 1
    for i in range(width):
        share, cost = np.float32(1) / feedback[i, i], costs[classes[i]]
        for path in range(count):
            target = left[path, i]
            # Clamped twice, as what is not a number passes the first.
            lower = min(max(np.int32(min(max(np.floor(target), -limit), limit - 1)), -limit), limit - 1)
            below, above = (target - np.float32(lower)) * share, (target - np.float32(lower + 1)) * share
            at_lower = total[path] + below * below + slope * cost[lower + limit]
            at_upper = total[path] + above * above + slope * cost[lower + 1 + limit]
            at_zero = total[path] + (target * share) ** 2 + slope * cost[limit]
            up = at_upper < at_lower
            ways[path], ways[paths + path], ways[2 * paths + path] = lower + up, lower + 1 - up, 0
            sums[path], sums[paths + path] = min(at_lower, at_upper), max(at_lower, at_upper)
            sums[2 * paths + path] = np.float32(np.inf) if lower == 0 or lower == -1 else at_zero
        least[1:] = end
        for choice in range(3):
            for way in range(choice * paths, choice * paths + count):
                number = np.int64(bits[way]) << 32 | way
                if -1 < number < least[paths]:  # below 0 are some that are not numbers
                    for k in range(paths):  # an insertion without branches, in loops that compile to vectors
                        moved[k] = max(least[k], min(least[k + 1], number))
                    for k in range(paths):
                        least[k + 1] = moved[k]
        count = 0
        while count < paths and least[count + 1] < end:
            way = least[count + 1] & 0xFFFFFFFF
            path, code = way % paths, ways[way]
            error = (left[path, i] - np.float32(code)) * share
            total[count] = sums[way]
            chosen[i, count], parent[i, count], missed[i, count] = code, path, error
            # All of the row, as a loop of whole chunks compiles to vectors; feedback is 0 before the diagonal.
            old, changed, factors = left[path], following[count], feedback[i]
            for j in range(padded):
                changed[j] = old[j] - error * factors[j]
            count += 1
        if count == 0:
            return bound
        left, following = following, left
    path = 0
    for i in range(width - 1, -1, -1):
        codes[i], errors[i] = chosen[i, path], missed[i, path]
        path = parent[i, path]
    return total[0]


@kernel
def search_again(products, hessian, feedback, ends, row_shares, slopes, costs, classes, limit, paths, codes):
    """Find better codes of blocks of columns, row after row, while all others stay; return how many codes changed.

    The distance is that of errors E = codes - weights: the trace of S E H E^T, H being `hessian` float32[groups,
    columns, columns], and the rows of S over its diagonal `row_shares` float32[groups, rows, rows], or [groups, 0, 0]
    if S is diagonal. `products` float32[groups, rows, columns] is E H, kept up to date. Blocks end before the columns
    `ends`; `feedback` float32[groups, blocks, width, width] is that of each block by itself, padded to whole chunks. A
    block's codes in a row are replaced if `_follow` finds some with a lower distance + slope * bits.
    """
    changed, padded = 0, feedback.shape[2]
    columns, rows, correlated = codes.shape[2], codes.shape[1], row_shares.shape[1] > 0
    near = np.zeros((rows, padded), np.float32)  # products in the block
    gradient, target = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    found, errors = np.empty(padded, np.int32), np.empty(padded, np.float32)
    for g in range(codes.shape[0]):
        start = 0
        for block in range(ends.shape[0]):
            own, end = feedback[g, block], ends[block]
            width = end - start
            near[:, :width] = products[g, :, start:end]
            for r in range(rows):
                gradient[:] = near[r]
                if correlated:
                    gradient[:] = 0
                    for other in range(rows):
                        share, met = row_shares[g, r, other], near[other]
                        for j in range(padded):
                            gradient[j] += share * met[j]
                present, kinds, slope = codes[g, r, start:end], classes[g, r, start:end], slopes[g, r]
                # What the codes would be if they were real numbers: those present - the block's own Newton step.
                now = np.float32(0)
                for k in range(width):
                    target[k] = present[k]
                    now += slope * costs[kinds[k], present[k] + limit]
                for k in range(width):
                    share, factors = np.float32(0), own[k]
                    for j in range(padded):
                        share += factors[j] * gradient[j]
                    for j in range(padded):
                        target[j] -= share * factors[j]
                    now += share * share
                bound = now * (1 - TOLERANCE)
                best = found[:width]
                if not _follow(target, own, slope, costs, kinds, limit, paths, bound, best, errors[:width]) < bound:
                    continue  # also if either is not a number
                for k in range(width):
                    if best[k] != present[k]:
                        move, row, by = np.float32(best[k] - present[k]), products[g, r], hessian[g, start + k]
                        for j in range(columns):
                            row[j] += move * by[j]
                        present[k] = best[k]
                        changed += 1
                near[r, :width] = products[g, r, start:end]
            start = end
    return changed


@kernel
def take_turns(closeness, counts, turns):
    """Find an order in which what counts most comes first, and what is close to what came just before soon.

    `closeness` float32[groups, n, n], at least 0; `counts` float64[groups, n], above 0; `turns` int64[groups, n].
    """
    n = counts.shape[1]
    near, left = np.empty(n, np.float64), np.empty(n, np.float64)
    for g in range(counts.shape[0]):
        usual = max(closeness[g].mean(), 1e-12)
        near[:] = 0
        left[:] = counts[g]
        for turn in range(n):
            best, most = 0, 0.0
            for i in range(n):
                value = (usual + near[i]) * left[i]
                if value > most:
                    best, most = i, value
            turns[g, turn] = best
            left[best] = 0
            for i in range(n):
                near[i] = FADING * near[i] + closeness[g, best, i]


@kernel
def round_alone(weights, diagonal, slopes, costs, classes, limit, codes):
    """Quantize each weight by itself, for a diagonal curvature: `diagonal` float32[groups, columns]."""
    for g in range(weights.shape[0]):
        for r in range(weights.shape[1]):
            for i in range(weights.shape[2]):
                trade_off = slopes[g, r] / diagonal[g, i]
                codes[g, r, i] = _cheapest(weights[g, r, i], trade_off, costs[classes[g, r, i]], limit)
