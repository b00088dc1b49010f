"""Speed and size of every coder and kernel on Laplace symbols, beside other coders in the same run.

    python -m benchmarks.bench_codec [-o benchmarks/results/codec.json]

The symbols are 31 letters around 15, at the entropies given. "class map" is the model that real weights get: 8 tables
of 12 bits, selected by a row, a column and a position vector. Other rows have one table. "to fp32" writes values of a
codebook times a scale a row, "2 threads" shares the blocks of 2**18 symbols. Each form of the rANS kernels is measured
in a process of its own, with L2FMT_KERNEL set; the other coders are measured once.

Beside them: constriction's coders with one `Categorical`, whose symbols are int32, zstd -19 and zlib -9 on the symbols
as bytes, torchac if it is installed (`pip install torchac`; when it is first imported it compiles C++, which takes a
compiler, ninja and a minute), and as limits a copy of the symbols and the filling of an fp32 array. Speeds are medians;
`x` is the ratio to constriction's range coder at the same entropy. Writes JSON, the same as a table (.md), and a plot
(.png).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import ROOT, environment
from benchmarks.peers import bench_bytes, bench_constriction, bench_limits, bench_torchac, median, row_of
from benchmarks.synthetic import ALPHABET, ORIGIN, TABLE_BITS, make_symbols, shape_of
from l2codec import ClassMap, FrequencyTable, TableSet, Values, code_length, decode, decode_values, encode

BLOCK_BITS = 18
KERNELS = ("avx512", "avx2", "plain")
BASE = "constriction range"
DEFAULT = Path(__file__).parent / "results" / "codec.json"


def main() -> None:
    """Measure in new processes, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT)
    parser.add_argument("-n", "--symbols", type=int, default=10_000_000)
    parser.add_argument("-r", "--repeat", type=int, default=7)
    parser.add_argument("--bits", type=float, nargs="+", default=[0.2, 0.5, 1, 2, 3, 4.4])
    parser.add_argument("--part", choices=(*KERNELS, "others"), help=argparse.SUPPRESS)  # what a new process measures
    arguments = parser.parse_args()
    if arguments.part:
        bench = bench_others if arguments.part == "others" else bench_rans
        rows = [row | {"entropy": b} for b in arguments.bits for row in bench(b, arguments.symbols, arguments.repeat)]
        print(json.dumps(rows))
        return
    rows = run_part("others", arguments, {})
    for kernel in usable_kernels():
        rows += [row | {"kernel": kernel} for row in run_part(kernel, arguments, {"L2FMT_KERNEL": kernel})]
    result = {
        "command": "benchmarks.bench_codec",
        "environment": environment(),
        "symbols": arguments.symbols,
        "repeat": arguments.repeat,
        "results": rows,
    }
    table = markdown(result)
    print(table)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(table)
    plot(rows, arguments.output.with_suffix(".png"))


def usable_kernels() -> list[str]:
    """Return the forms of the rANS kernels that this processor can run."""
    from l2codec import processor

    return [name for name in KERNELS if not processor.missing(name)]


def run_part(part: str, arguments: argparse.Namespace, variables: dict[str, str]) -> list[dict[str, Any]]:
    """Measure one part in a new process and return its rows."""
    print(f"measuring {part}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.bench_codec", "--part", part]
    command += ["-n", str(arguments.symbols), "-r", str(arguments.repeat), "--bits", *map(str, arguments.bits)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # before it, torchac says what it compiles


def bench_rans(bits: float, count: int, repeat: int) -> list[dict[str, Any]]:
    """Measure rANS by the kernel that the environment asks for."""
    symbols, one, many, several, classes = make_symbols(bits, count)
    layout = {"lanes": 32, "block_bits": BLOCK_BITS}
    rows = []
    for name, data, tables, map_ in (("rans", symbols, one, 0), ("rans, class map", many, several, classes)):
        for threads in (1, 2):
            rows.append(bench_coder(name, data, tables, map_, layout, repeat, threads))
            rows.append(bench_values(f"{name}, to fp32", data, tables, map_, layout, repeat, threads))
    rows.append(bench_coder("rans, 1 lane", symbols, one, 0, layout | {"lanes": 1}, repeat, 1))
    return rows


def bench_others(bits: float, count: int, repeat: int) -> list[dict[str, Any]]:
    """Measure everything that does not depend on the kernel of rANS."""
    symbols, one, many, several, classes = make_symbols(bits, count)
    hist = np.bincount(symbols, minlength=ALPHABET)
    dyadic = TableSet([FrequencyTable.dyadic_from_histogram(hist, TABLE_BITS)], ORIGIN)
    prefix = [FrequencyTable.dyadic_from_histogram(t.counts.astype(np.int64), TABLE_BITS) for t in several.tables]
    blocks = {"block_bits": BLOCK_BITS}
    rows = [bench_constriction(name, symbols, hist / count, repeat) for name in ("range", "ans")]
    for name, data, tables, map_, layout in (
        ("range", symbols, one, 0, blocks),
        ("range, class map", many, several, classes, blocks),
        ("huffman", symbols, dyadic, 0, blocks),
        ("huffman, class map", many, TableSet(prefix, ORIGIN), classes, blocks),
        ("raw", symbols, None, 0, {"width": 5}),
    ):
        rows += [bench_coder(name, data, tables, map_, layout, repeat, threads) for threads in (1, 2)]
    rows += bench_torchac(symbols, hist / count, repeat)
    return rows + bench_bytes(symbols, repeat) + bench_limits(symbols, repeat)


def bench_coder(
    name: str,
    symbols: np.ndarray,
    tables: TableSet | None,
    classes: ClassMap | int,
    layout: dict[str, Any],
    repeat: int,
    threads: int,
) -> dict[str, Any]:
    """Measure one of our coders, `name` up to the comma, to and from u8."""
    coder, count = name.split(",")[0], symbols.size
    out = np.empty(count, np.uint8)
    data = encode(coder, symbols, tables, classes, **layout, threads=threads)
    encoding = median(lambda: encode(coder, symbols, tables, classes, **layout, threads=threads), repeat)
    decoding = median(lambda: decode(coder, data, count, tables, classes, **layout, out=out, threads=threads), repeat)
    assert np.array_equal(out, symbols)
    model_bits = code_length(symbols, tables, classes) / count if tables else None
    return row_of(name, 8 * len(data) / count, count, encoding, decoding, threads) | {"model_bits": model_bits}


def bench_values(
    name: str,
    symbols: np.ndarray,
    tables: TableSet,
    classes: ClassMap | int,
    layout: dict[str, Any],
    repeat: int,
    threads: int,
) -> dict[str, Any]:
    """Measure decoding to fp32: codebook times row scale."""
    shape = shape_of(symbols.size)
    codebook = np.arange(-ORIGIN, ALPHABET - ORIGIN, dtype=np.float32)
    scale = np.linspace(1, 2, shape[0], dtype=np.float32)
    out = np.empty(symbols.size, np.float32)
    values = Values(out.view(np.uint32), codebook, row_scale=scale, shape=shape)
    data = encode("rans", symbols, tables, classes, **layout)
    decoding = median(lambda: decode_values("rans", data, values, tables, classes, **layout, threads=threads), repeat)
    assert np.array_equal(out.reshape(shape[0], -1), codebook[symbols].reshape(shape[0], -1) * scale[:, None])
    return row_of(name, 8 * len(data) / symbols.size, symbols.size, None, decoding, threads)


def label(row: dict[str, Any]) -> str:
    """Return what a row is called in the table and the plot."""
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    return row["coder"] + (f" [{row['kernel']}]" if row["kernel"] else "") + threads


def markdown(result: dict[str, Any]) -> str:
    """Return the results as a table an entropy."""
    where = ", ".join(f"{key} {value}" for key, value in result["environment"].items() if value)
    how = f"{result['symbols']:,} symbols, medians of {result['repeat']}, millions of symbols a second"
    lines = [f"# Coders\n\n{how}.\n{where}."]
    rows = result["results"]
    for entropy in dict.fromkeys(row["entropy"] for row in rows):
        chosen = [row for row in rows if row["entropy"] == entropy]
        base = next(row for row in chosen if row["coder"] == BASE)
        lines.append(f"\n## {entropy:g} bits\n\n| coder | bits | encode | x | decode | x |\n|---|--:|--:|--:|--:|--:|")
        for row in chosen:
            cells = [f"{row['bits']:.4f}"]
            for way in ("encode", "decode"):
                cells += [f"{row[way]:.0f}", f"{row[way] / base[way]:.1f}"] if row[way] else ["", ""]
            lines.append(f"| {label(row)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the speed of decoding against entropy, one thread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    single = [row for row in rows if row["threads"] == 1]
    for number, name in enumerate(dict.fromkeys(map(label, single))):
        points = sorted((row["entropy"], row["decode"]) for row in single if label(row) == name)
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(*zip(*points, strict=True), style, marker=".", label=name)
    axes.set(xlabel="entropy of the symbols [bits]", ylabel="decoded [million symbols a second]", yscale="log")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
