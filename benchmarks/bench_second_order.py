"""Seconds of second-order rounding, by the size of the layer: factors of its curvature, paths of feedback, passes.

    python -m benchmarks.bench_second_order [-o benchmarks/results/second_order.json]

Weights and curvatures are random: columns and rows share a few directions and differ in size, as inputs and gradients
do, and a code costs bits by its magnitude. One thread; factors are found once, the rest is the median of `--repeat`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import environment
from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.rounding import CodeCosts, Rounder, Rounding

SHAPES = ((64, 576), (384, 1536), (512, 4608))  # rows, columns: a small convolution, a transformer's, a large one
PATHS, PASSES = (1, 8), (0, 1, 4)  # of error feedback, of the search after it
LIMIT = 20
SHARED, SPREAD = 64, 0.5  # directions that all have in common; deviation of the logarithms of their sizes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print it, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    parser.add_argument("-r", "--repeat", type=int, default=5, metavar="N")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench(*SHAPES[0], repeat=1)  # compiles
    layers = []
    for shape in SHAPES:
        layers.append(bench(*shape, repeat=given.repeat))
        print(json.dumps(layers[-1]), flush=True)
    if given.output:
        given.output.write_text(json.dumps({"environment": environment(), "layers": layers}, indent=1) + "\n")


def bench(rows: int, columns: int, repeat: int) -> dict[str, Any]:
    """Return the seconds of a layer, and the distance and bits a weight that each way leaves."""
    random = np.random.default_rng(0)
    curvature = Curvature(correlated(random, columns), correlated(random, rows))
    weights = random.standard_normal((rows, columns), np.float32)
    factors, rounder = timed(lambda: Rounder.of(weights, curvature, Rounding(damping=0.05, row_damping=0.5)))
    row: dict[str, Any] = {"rows": rows, "columns": columns, "factors": factors}
    bits, step = 1 + 1.2 * np.abs(np.arange(-LIMIT, LIMIT + 1, dtype=np.float32))[None], 1.0
    slope = 0.3 * np.log(2) / 6 * rounder.level * step * step
    costs = CodeCosts(bits, np.zeros(weights.size, np.uint8), slope)
    for paths, passes in product(PATHS, PASSES):
        runs = [
            timed(lambda paths=paths, passes=passes: rounder.round(step, costs, passes, paths)) for _ in range(repeat)
        ]
        codes, how = runs[0][1], f"{paths} paths, {passes} passes"
        row[how] = statistics.median(seconds for seconds, _ in runs)
        row[f"distance of {how}"] = curvature.distance(codes * np.float32(step) - weights) / codes.size
        row[f"bits of {how}"] = float(bits[0, codes + LIMIT].mean())
    return row


def correlated(random: np.random.Generator, n: int) -> Tensor:
    """Return second moments of n correlated values, float64[1, n, n]."""
    sizes = np.exp(SPREAD * random.standard_normal(n))
    common = random.standard_normal((n, SHARED))
    return torch.from_numpy(np.diag(sizes**2) + 0.1 * common @ common.T)[None]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
