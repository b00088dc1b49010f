"""The classes of symbols from their class vectors (spec/entropy-coding.md 3)."""

import numpy as np

from l2codec.kernels._compiler import kernel

ZERO, ONE = np.uint64(0), np.uint64(1)


@kernel
def fill_classes(first, row, ends, column, position, pattern, layout, classes):
    """Write the classes of the symbols from `first` on; vectors that are absent are empty.

    `layout`, int64[4], is base, number of tables, columns, positions. If `ends` is not empty, row `r` ends before
    symbol `ends[r]`. `pattern` holds the sums of column and position offsets over a whole row, or is empty: then they
    are summed here.
    """
    base, top = np.int16(layout[0]), np.int16(layout[1] - 1)
    positions = np.uint64(layout[3])
    length = np.uint64(layout[2]) * positions
    size = np.uint64(classes.size)
    if ends.size > 0:
        r, at = _row_at(ends, first), ZERO
    else:
        r, at = np.uint64(first) // length, np.uint64(first) % length
    i = ZERO
    while i < size:
        stop = min(size, np.uint64(ends[r]) - np.uint64(first) if ends.size > 0 else i + length - at)
        offset = base
        if row.size > 0:
            offset += np.int16(row[r])
        if pattern.size > 0:
            for j in range(stop - i):
                classes[i + j] = _clip(offset + pattern[at + j], top)
        elif column.size > 0 or position.size > 0:
            _fill_row(classes, i, stop, at, offset, top, column, position, positions)
        else:
            each = _clip(offset, top)
            for j in range(stop - i):
                classes[i + j] = each
        i, r, at = stop, r + ONE, ZERO


@kernel
def fill_pattern(column, position, positions, pattern):
    """Write the sums of column and position offsets over a row."""
    positions = np.uint64(positions)
    for i in range(np.uint64(pattern.size)):
        total = np.int16(0)
        if column.size > 0:
            total += np.int16(column[i // positions])
        if position.size > 0:
            total += np.int16(position[i % positions])
        pattern[i] = total


@kernel
def _row_at(ends, first):
    """Return the first row that ends after symbol `first`."""
    low, high = ZERO, np.uint64(ends.size)
    while low < high:
        middle = (low + high) >> ONE
        if ends[middle] <= first:
            low = middle + ONE
        else:
            high = middle
    return low


@kernel
def _fill_row(classes, i, stop, at, offset, top, column, position, positions):
    """Write the classes of symbols `i` to `stop`, which are those from `at` on of one row."""
    if position.size == 0 and positions == ONE:
        for j in range(stop - i):
            classes[i + j] = _clip(offset + np.int16(column[at + j]), top)
        return
    k, p = at // positions, at % positions
    while i < stop:
        end = min(stop, i + positions - p)
        here = offset
        if column.size > 0:
            here += np.int16(column[k])
        for j in range(end - i):
            classes[i + j] = _clip(here + np.int16(position[p + j]) if position.size > 0 else here, top)
        i, k, p = end, k + ONE, ZERO


@kernel
def _clip(value, top):
    return np.uint8(min(max(np.int16(value), np.int16(0)), top))
