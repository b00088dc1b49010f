"""Kernels of class fitting: what writers need; no reader loads them.

A sequence is given by `starts`, int64[rows + 1], the number of `positions`, and three vectors of offsets, int64.
`row` may have one entry for all rows; `column` and `position` may be empty for all zero.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from l2codec.kernels._compiler import kernel

LANES = 16  # candidate offsets handled by one vector operation
TOGETHER = 8  # symbols whose costs are added up before they are added to a total: their sum fits 32 bits


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
def offset_costs(symbols, starts, positions, row, column, position, costs, along, places, totals):
    """Add up what each candidate offset would cost, for each row (`along` 0), column (1) or position (2).

    `costs`, int32[alphabet, width], holds the cost of each symbol at `row + column + position` = 0, 1, ..., where the
    vector sought is to hold the index of its first candidate; `totals`, int64[entries, candidates], candidates being
    a multiple of 16. Rows are equally long unless `along` is 0. `places`, int64[8], is for the kernel's own use.
    """
    n_rows = starts.size - 1
    if along == 0:
        for r in range(n_rows):
            first = row[min(r, row.size - 1)]
            total = totals[min(r, totals.shape[0] - 1)]
            _add_row(symbols[starts[r] : starts[r + 1]], positions, first, column, position, costs, places, total)
        return
    length = starts[1] if n_rows else 0
    whole = n_rows - n_rows % TOGETHER
    for first in range(0, whole, TOGETHER):
        _add_rows(symbols, first, TOGETHER, length, positions, row, column, position, costs, along, places, totals)
    for first in range(whole, n_rows):
        _add_rows(symbols, first, 1, length, positions, row, column, position, costs, along, places, totals)


@kernel
def _add_row(symbols, positions, row, column, position, costs, places, total):
    """Add the costs of one row to its total, some symbols at once."""
    width = costs.shape[1]
    n = 0
    k = 0
    p = 0
    outer = row + (column[0] if column.size else 0)
    for symbol in symbols:
        places[n] = symbol * width + outer + (position[p] if p < position.size else 0)
        n += 1
        if n == TOGETHER:
            _add(total, 0, total.size, costs, places, n)
            n = 0
        p += 1
        if p == positions:
            p = 0
            k += 1
            outer = row + (column[k] if k < column.size else 0)
    _add(total, 0, total.size, costs, places, n)


@kernel
def _add_rows(symbols, first, n, length, positions, row, column, position, costs, along, places, totals):
    """Add the costs of `n` rows to the totals of their columns or positions, all rows at once."""
    width = costs.shape[1]
    k = 0
    p = 0
    for i in range(length):
        inner = (column[k] if k < column.size else 0) + (position[p] if p < position.size else 0)
        for j in range(n):
            places[j] = symbols[(first + j) * length + i] * width + row[min(first + j, row.size - 1)] + inner
        _add(totals, k if along == 1 else p, totals.shape[1], costs, places, n)
        p += 1
        if p == positions:
            p = 0
            k += 1


@kernel
def _add(totals, entry, candidates, costs, places, n):
    """Add to the candidates of an entry what lies at `n` places of `costs`."""
    at = totals.ctypes.data + entry * candidates * 8
    for chunk in range(0, candidates, LANES):
        begin = costs.ctypes.data + 4 * chunk
        if n == TOGETHER:
            _add_vectors(at + 8 * chunk, begin, places.ctypes.data)
        else:
            for j in range(n):
                _add_vector(at + 8 * chunk, begin, places.ctypes.data + 8 * j)


def _vectors(n):
    """Return the intrinsic that adds the vectors of costs at `n` places to a vector of totals; given are addresses."""

    def add(typing, totals, costs, places):
        narrow, wide = (ir.VectorType(ir.IntType(bits), LANES) for bits in (32, 64))

        def generate(context, builder, signature, arguments):
            totals, costs, places = arguments
            sums = ir.Constant(narrow, [0] * LANES)
            for j in range(n):
                at = builder.inttoptr(builder.add(places, places.type(8 * j)), places.type.as_pointer())
                address = builder.add(costs, builder.shl(builder.load(at), places.type(2)))
                sums = builder.add(sums, builder.load(builder.inttoptr(address, narrow.as_pointer()), align=4))
            at = builder.inttoptr(totals, wide.as_pointer())
            builder.store(builder.add(builder.load(at, align=8), builder.sext(sums, wide)), at, align=8)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp), generate

    return intrinsic(add)


_add_vectors: Any = _vectors(TOGETHER)
_add_vector: Any = _vectors(1)
