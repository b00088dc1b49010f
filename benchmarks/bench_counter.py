"""Speed of the entropy counter, beside the form that the paper gives: sort, binary search, scan.

    python -m benchmarks.bench_counter [-o benchmarks/results/counter.json]

* Both forms at 1 M codes, one thread, forward and forward + backward, with the published relaxation, range / 64: codes
  that span 256 symbols, where it is 4, and 32 symbols, where it is 0.5. The form with a sort is compiled (numba); for
  every code it searches two places among the sorted codes and visits each code within the relaxation of them, and for
  the gradient each query around every code. All codes would take minutes: sorts are timed whole, searches and scans on
  a random subset of the codes, and scaled to all of them. What it returns is compared with the counter's; the linear
  kernel's gradients differ by the codes that lie just on its edges.
* That form on a sample of N // 128 codes, as published for large tensors: time, and its estimate beside the exact one.
* The counter from 10 K to 10 M codes.

Codes are normally distributed float32. Times are of the processor, and medians; what is scaled is timed once.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import environment
from l2fmt.optimize.learning.counter import count_bits, hard_bits

COUNT = 1_000_000
COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
RESOLUTION = 64
SPANS = (256, 32)
KERNELS = ("cosine", "linear")
SAMPLED = 128
DRAWS = 20


class SortingCounter:
    """The paper's form, compiled for one kernel: places are searched among sorted codes, and the neighbours visited."""

    def __init__(self, kernel: str):
        half_turn = np.float32(math.pi / 2)
        if kernel == "cosine":
            cdf = nb.njit(lambda t: np.float32(0.5) * (np.float32(1) + np.sin(half_turn * t)), fastmath=True)
            density = nb.njit(lambda t: np.float32(math.pi / 4) * np.cos(half_turn * t), fastmath=True)
        else:
            cdf = nb.njit(lambda t: np.float32(0.5) * (np.float32(1) + t), fastmath=True)
            density = nb.njit(lambda t: np.float32(0.5), fastmath=True)

        @nb.njit(fastmath=True)
        def visit_cdf(sorted_codes, place, relaxation):
            start, stop = np.searchsorted(sorted_codes, place - relaxation), len(sorted_codes)
            total = 0.0
            for j in range(start, np.searchsorted(sorted_codes, place + relaxation)):
                total += cdf((place - sorted_codes[j]) / relaxation)
            return start + total if start < stop else float(stop)

        @nb.njit(fastmath=True)
        def visit_density(sorted_places, weights, place, relaxation):
            total = 0.0
            stop = np.searchsorted(sorted_places, place + relaxation)
            for j in range(np.searchsorted(sorted_places, place - relaxation), stop):
                total += weights[j] * density((place - sorted_places[j]) / relaxation)
            return total / relaxation

        @nb.njit
        def counts(sorted_codes, symbols, relaxation):
            found = np.empty(len(symbols))
            half = np.float32(0.5)
            for i in range(len(symbols)):
                above = visit_cdf(sorted_codes, symbols[i] + half, relaxation)
                found[i] = above - visit_cdf(sorted_codes, symbols[i] - half, relaxation)
            return found

        @nb.njit
        def gradient(codes, symbols, prices, sorted_codes, ones, sorted_places, weights, relaxation):
            found = np.empty(len(codes))
            half = np.float32(0.5)
            for i in range(len(codes)):
                slope = visit_density(sorted_codes, ones, symbols[i] + half, relaxation)
                slope -= visit_density(sorted_codes, ones, symbols[i] - half, relaxation)
                found[i] = prices[i] * slope + visit_density(sorted_places, weights, codes[i], relaxation)
            return found

        self._counts, self._gradient = counts, gradient

    def run(self, codes: np.ndarray, relaxation: float, subset: np.ndarray) -> dict[str, Any]:
        """Time forward and backward with the scans of a subset (indices), scaled; return its results too."""
        width, share = np.float32(relaxation), len(codes) / len(subset)
        symbols = np.rint(codes)
        sort_time, sorted_codes = timed(lambda: np.sort(codes))
        scan_time, _ = timed(lambda: self._counts(sorted_codes, symbols[subset], width))
        # Equal symbols have equal counts: so the others get theirs without the scans, and outside the time.
        distinct, where, number = np.unique(symbols, return_inverse=True, return_counts=True)
        of_symbol = self._counts(sorted_codes, distinct, width)
        prices = (-1 / (of_symbol * math.log(2)))[where].astype(np.float32)

        def sort_queries() -> tuple[np.ndarray, np.ndarray]:
            places = np.concatenate([symbols + np.float32(0.5), symbols - np.float32(0.5)])
            order = np.argsort(places)
            return places[order], np.concatenate([-prices, prices])[order]

        query_time, (places, weights) = timed(sort_queries)
        ones = np.ones_like(codes)
        parts = codes[subset], symbols[subset], prices[subset], sorted_codes, ones, places, weights, width
        back_time, gradient = timed(lambda: self._gradient(*parts))
        forward = sort_time + scan_time * share
        return {
            "forward": forward,
            "both": forward + query_time + back_time * share,
            "bits": float(-(number * np.log2(of_symbol / len(codes))).sum()),
            "gradient": gradient,
        }


def main() -> None:
    """Measure, print tables, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("-r", "--repeat", type=int, default=7)
    parser.add_argument("-s", "--subset", type=int, default=2000, help="codes on which scans are timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forms = {kernel: SortingCounter(kernel) for kernel in KERNELS}
    for form in forms.values():  # compiles
        form.run(normal_codes(1000, 32).numpy(), 0.5, np.arange(1000))
    result = {
        "command": f"benchmarks.bench_counter -r {arguments.repeat} -s {arguments.subset}",
        "environment": environment() | {"threads": 1},
        "against_sorting": [
            bench_against(forms[kernel], kernel, span, arguments.subset, arguments.repeat)
            for kernel in KERNELS
            for span in SPANS
        ],
        "sampled": [bench_sampled(forms["cosine"], span) for span in SPANS],
        "scaling": [bench_count(count, span, arguments.repeat) for span in SPANS for count in COUNTS],
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def bench_against(form: SortingCounter, kernel: str, span: int, subset: int, repeat: int) -> dict[str, Any]:
    """Measure both forms at COUNT codes."""
    codes, relaxation = normal_codes(COUNT, span), span / RESOLUTION
    chosen = np.random.default_rng(1).choice(COUNT, subset, replace=False)
    theirs = form.run(codes.numpy(), relaxation, chosen)
    ours = run_counter(codes, relaxation, kernel, repeat)
    own = ours["gradient"][torch.from_numpy(chosen)].double().numpy()
    row = {
        "kernel": kernel,
        "codes": COUNT,
        "span": span,
        "relaxation": relaxation,
        "scanned": subset,
        "sorting_forward": theirs["forward"],
        "sorting_both": theirs["both"],
        "forward": ours["forward"],
        "both": ours["both"],
        "speedup_forward": theirs["forward"] / ours["forward"],
        "speedup_both": theirs["both"] / ours["both"],
        "bits_difference": abs(theirs["bits"] / ours["bits"] - 1),
        "gradient_difference": float(np.abs(theirs["gradient"] - own).max() / np.abs(own).max()),
    }
    print(
        f"{kernel}, {COUNT} codes, relaxation {relaxation:g}: sorting {row['sorting_forward']:.1f} s forward,", end=" "
    )
    print(f"{row['sorting_both']:.1f} s with backward (scaled from {subset} codes); here", end=" ")
    print(f"{1e3 * row['forward']:.1f} ms, {1e3 * row['both']:.1f} ms:", end=" ")
    print(f"{row['speedup_forward']:.0f} and {row['speedup_both']:.0f} times faster;", end=" ")
    print(f"relative difference {row['bits_difference']:.0e}, gradient {row['gradient_difference']:.0e}", flush=True)
    return row


def bench_sampled(form: SortingCounter, span: int) -> dict[str, Any]:
    """Measure the form with a sort on samples of the codes, and how far its estimates are from the exact one."""
    codes, relaxation = normal_codes(COUNT, span), span / RESOLUTION
    generator = torch.Generator().manual_seed(1)
    times, estimates = [], []
    for _ in range(DRAWS):
        draw_time, sample = timed(lambda: codes[torch.randperm(COUNT, generator=generator)[: COUNT // SAMPLED]].numpy())
        sample_relaxation = float(np.ptp(sample)) / RESOLUTION
        run = form.run(sample, sample_relaxation, np.arange(len(sample)))
        times.append(draw_time + run["both"])
        estimates.append(run["bits"] / len(sample))
    row = {
        "codes": COUNT,
        "sample": COUNT // SAMPLED,
        "span": span,
        "both": statistics.median(times),
        "bits_per_code": float(count_bits(codes, relaxation)) / COUNT,
        "hard_bits_per_code": hard_bits(codes) / COUNT,
        "sampled_bits_per_code": statistics.mean(estimates),
        "sampled_deviation": statistics.stdev(estimates),
        "draws": DRAWS,
    }
    print(f"sample of {row['sample']}, span {span}: {1e3 * row['both']:.0f} ms with backward;", end=" ")
    print(f"{row['sampled_bits_per_code']:.4f} +- {row['sampled_deviation']:.4f} bits per code,", end=" ")
    print(f"exact {row['bits_per_code']:.4f}, entropy {row['hard_bits_per_code']:.4f}", flush=True)
    return row


def bench_count(count: int, span: int, repeat: int) -> dict[str, Any]:
    """Measure the counter at a number of codes."""
    ours = run_counter(normal_codes(count, span), span / RESOLUTION, "cosine", repeat)
    row = {"codes": count, "relaxation": span / RESOLUTION, "forward": ours["forward"], "both": ours["both"]}
    print(f"{count:9d} codes, relaxation {row['relaxation']:g}: {1e3 * row['forward']:8.2f} ms forward", end=" ")
    print(f"{1e3 * row['both']:8.2f} ms with backward, {1e9 * row['both'] / count:6.1f} ns a code", flush=True)
    return row


def run_counter(codes: Tensor, relaxation: float, kernel: str, repeat: int) -> dict[str, Any]:
    """Time the counter; return its results too."""
    leaf = codes.requires_grad_()
    forward, both = [], []
    bits = torch.zeros(())
    for turn in range(repeat + 1):
        leaf.grad = None
        start = time.process_time()
        bits = count_bits(leaf, relaxation, kernel)
        middle = time.process_time()
        bits.backward()
        if turn:  # the first warms up
            forward.append(middle - start)
            both.append(time.process_time() - start)
    times = {"forward": statistics.median(forward), "both": statistics.median(both)}
    return times | {"bits": bits.item(), "gradient": leaf.grad}


def normal_codes(count: int, span: int) -> Tensor:
    """Return normally distributed codes from -span / 2 to span / 2."""
    codes = torch.randn(count, generator=torch.Generator().manual_seed(0))
    low, high = torch.aminmax(codes)
    return (codes - low) * (span / (high - low)) - span / 2


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
