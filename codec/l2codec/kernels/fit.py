"""Kernels of class fitting: what writers need; no reader loads them.

A sequence is given by `starts`, int64[rows + 1], the number of `positions`, and three vectors of offsets, int64.
`row` may have one entry for all rows; `column` and `position` may be empty for all zero.
"""

from l2codec.kernels._compiler import kernel

LANES = 16  # candidate offsets handled by one vector operation


@kernel
def histogram(symbols, starts, positions, row, column, position, hist):
    """Count the symbols of each class into `hist`, int64[tables, alphabet]."""
    top = hist.shape[0] - 1
    for r in range(starts.size - 1):
        i = starts[r]
        k = 0
        while i < starts[r + 1]:
            outer = row[min(r, row.size - 1)] + (column[k] if k < column.size else 0)
            for p in range(positions):
                index = min(max(outer + (position[p] if p < position.size else 0), 0), top)
                hist[index, symbols[i]] += 1
                i += 1
            k += 1


@kernel
def offset_costs(symbols, starts, positions, row, column, position, costs, along, totals):
    """Add up what each candidate offset would cost, for each row (`along` 0), column (1) or position (2).

    `costs`, int32[alphabet, width], holds the cost of each symbol at `row + column + position` = 0, 1, ..., where the
    vector sought is to hold the index of its first candidate; `totals`, int64[entries, candidates], candidates being
    a multiple of 16.
    """
    n_chunks = totals.shape[1] // LANES
    for r in range(starts.size - 1):
        i = starts[r]
        k = 0
        while i < starts[r + 1]:
            outer = row[min(r, row.size - 1)] + (column[k] if k < column.size else 0)
            for p in range(positions):
                entry = min(r if along == 0 else (k if along == 1 else p), totals.shape[0] - 1)
                first = outer + (position[p] if p < position.size else 0)
                symbol = symbols[i]
                for chunk in range(n_chunks):
                    total = totals[entry, chunk * LANES : chunk * LANES + LANES]
                    cost = costs[symbol, first + chunk * LANES : first + chunk * LANES + LANES]
                    for j in range(LANES):
                        total[j] += cost[j]
                i += 1
            k += 1
