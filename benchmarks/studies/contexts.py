"""What contexts of neighbours would save in files that `pack` wrote: bits that a decoder in lanes cannot have for free.

    python -m benchmarks.studies.contexts FILE.l2c...

The classes of a file are known before its symbols. A context is not: the table of a symbol would depend on symbols
before it, here on the sum of the magnitudes of two, in 6 buckets: those to the left in the row of the matrix, or the
one above and its right neighbour. For each file, in percent of the entropy of its codes given their classes:

* "offset": buckets move the class up or down, as class vectors do, with as many tables as the file has;
* "limit": each class and bucket has a table of its own, which nothing pays for;
* "12 bits": what counts of 12 bits, as in the file, cost more than ideal ones; more bits could save so much at most.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.studies.coders import entropy_bits, symbols_of
from l2codec import FrequencyTable
from l2fmt.container import Reader
from l2fmt.errors import L2Error

BUCKETS = np.array([1, 2, 3, 5, 8])  # sums of two magnitudes where the next bucket begins
PASSES = 6
LARGEST_OFFSET = 3

Sequences = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # symbols, classes, buckets


def measure(path: Path, above: bool) -> tuple[float, float, float, float]:
    """Return bits a weight, and the percentages "offset", "limit" and "12 bits" of a file."""
    total = weights = shifted = limit = coded = 0.0
    with Reader(path) as reader:
        families: dict[int, Sequences] = {}
        for group, symbols, classes in symbols_of(reader):
            tables = reader.table_sets[group.streams[0].table_set]
            rows = np.abs(symbols - tables.origin).reshape(group.layout.rows, -1)
            families.setdefault(group.streams[0].table_set, []).append(
                (symbols, classes.astype(np.int64), np.digitize(_neighbours(rows, above), BUCKETS).ravel())
            )
        for number, sequences in families.items():
            tables = reader.table_sets[number]
            shape = (len(tables), tables.alphabet)
            counts = _histograms(sequences, shape)
            total += (bits := sum(map(entropy_bits, counts)))
            weights += counts.sum()
            limit += sum(map(entropy_bits, _joint(sequences, shape)))
            shifted += min(bits, _with_offsets(sequences, shape))
            real = [FrequencyTable.from_histogram(h, 12).cost_bits() for h in counts if h.any()]
            used = [h for h in counts if h.any()]
            coded += sum(float(h[h > 0] @ cost[h > 0]) for h, cost in zip(used, real, strict=True))
    percent = [100 * (bits / total - 1) for bits in (shifted, limit, coded)]
    return total / weights, *percent  # type: ignore[return-value]


def _neighbours(magnitudes: np.ndarray, above: bool) -> np.ndarray:
    """Return the sum of two magnitudes that a decoder of the rows, in order, has met before each."""
    result = np.zeros_like(magnitudes)
    if above:
        result[1:] = magnitudes[:-1]
        result[1:, :-1] += magnitudes[:-1, 1:]
    else:
        result[:, 1:] = magnitudes[:, :-1]
        result[:, 2:] += magnitudes[:, :-2]
    return result


def _histograms(sequences: Sequences, shape: tuple[int, int]) -> np.ndarray:
    """Return how often each class has each symbol."""
    result = np.zeros(shape, np.int64)
    for symbols, classes, _ in sequences:
        result += np.bincount(classes * shape[1] + symbols, minlength=result.size).reshape(shape)
    return result


def _joint(sequences: Sequences, shape: tuple[int, int]) -> np.ndarray:
    n_buckets = BUCKETS.size + 1
    joint = ((symbols, classes * n_buckets + buckets, buckets) for symbols, classes, buckets in sequences)
    return _histograms(list(joint), (shape[0] * n_buckets, shape[1]))


def _with_offsets(sequences: Sequences, shape: tuple[int, int]) -> float:
    """Return the entropy given classes that buckets move, tables and offsets fitted to each other in turns."""
    by_bucket = _joint(sequences, shape).reshape(shape[0], BUCKETS.size + 1, shape[1])
    offsets = np.zeros(BUCKETS.size + 1, np.int64)
    best = np.inf
    for _ in range(PASSES):
        counts = np.zeros(shape, np.int64)
        for bucket, offset in enumerate(offsets):
            np.add.at(counts, np.clip(np.arange(shape[0]) + offset, 0, shape[0] - 1), by_bucket[:, bucket])
        best = min(best, sum(map(entropy_bits, counts)))
        costs = -np.log2((counts + 0.01) / (counts + 0.01).sum(1, keepdims=True))
        offsets = np.array([_cheapest(by_bucket[:, bucket], costs) for bucket in range(offsets.size)])
    return best


def _cheapest(counts: np.ndarray, costs: np.ndarray) -> int:
    """Return the offset of the class with which the tables code these counts in the fewest bits."""
    classes = np.arange(len(counts))

    def bits(offset: int) -> float:
        return float((counts * costs[np.clip(classes + offset, 0, len(counts) - 1)]).sum())

    return min(range(-LARGEST_OFFSET, LARGEST_OFFSET + 1), key=bits)


def lines(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| file | bits a weight | left: offset | left: limit | above: offset | above: limit | 12 bits |"
    yield "|---|---|---|---|---|---|---|"
    for path in paths:
        rate, offset, limit, precision = measure(path, above=False)
        _, above, most, _ = measure(path, above=True)
        figures = (offset, limit, above, most, precision)
        yield f"| {path.stem} | {rate:.3f} | " + " | ".join(f"{figure:+.2f} %" for figure in figures) + " |"


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for line in lines([Path(name) for name in arguments]):
            print(line, flush=True)
    except L2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
