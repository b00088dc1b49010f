"""How fast the streams of a file decode, beside synthetic ones of the same layout in the same run.

    python -m benchmarks.bench_file FILE.l2c ... [-o results/file.json]

For every layout of rANS streams in a file (lanes and number of blocks) its largest tensor is decoded to its values,
scales included, without reading and checking the file; then as many symbols of as many bits as `bench_codec` makes
them, with a class map and a scale a row. Speeds are medians, `ratio` is the median of those of alternating runs. One
thread, tensors of 2**16 symbols and more.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.environment import environment
from benchmarks.synthetic import ALPHABET, ORIGIN, make_symbols, shape_of
from l2codec import Stream, Values, encode
from l2fmt import _registry
from l2fmt.container.entries import Group
from l2fmt.container.reader import Reader
from l2fmt.pipeline.decode import coded_parts

LEAST = 1 << 16  # symbols
STEP = 8000  # symbols that a synthetic sequence is a multiple of


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("-r", "--repeat", type=int, default=7)
    arguments = parser.parse_args()
    rows = [row for path in arguments.files for row in bench_file(path, arguments.repeat)]
    print("| tensor | symbols | lanes | blocks | bits | scales | Msym/s | synthetic | ratio |\n" + "|---" * 9 + "|")
    for r in rows:
        figures = (
            f"{r['bits']:.2f} | {r['scales']} | {r['msym_s']:.0f} | {r['synthetic_msym_s']:.0f} | {r['ratio']:.3f}"
        )
        print(f"| {r['tensor']} | {r['symbols']:,} | {r['lanes']} | {r['blocks']} | {figures} |")
    if arguments.output:
        result = {"command": "benchmarks.bench_file", "environment": environment(), "results": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def bench_file(path: Path, repeat: int) -> list[dict[str, Any]]:
    """Return a row for every layout of a file."""
    with Reader(path) as reader:
        largest: dict[tuple[int, int], int] = {}
        for number, group in enumerate(reader.index.groups):
            stream = group.streams[0]
            if len(group.streams) == 1 and stream.coder == _registry.RANS and group.symbols >= LEAST:
                layout = (1 << stream.lane_bits, -(-group.symbols >> stream.block_bits))
                best = largest.setdefault(layout, number)
                if group.symbols > reader.index.groups[best].symbols:
                    largest[layout] = number
        return [bench_group(reader, number, repeat) for number in largest.values()]


def bench_group(reader: Reader, number: int, repeat: int) -> dict[str, Any]:
    """Return the row of one group."""
    group = reader.index.groups[number]
    data = reader.read_group(number)
    [(stream, values)] = coded_parts(reader, group, data, Stream, np.empty(group.symbols, group.dtype.word))
    bits = 8 * len(data.streams[0]) / group.symbols
    other, synthetic = synthetic_like(group, bits)
    runs = [(rate(stream, values, repeat), rate(other, synthetic, repeat)) for _ in range(repeat)]
    scales = [("row", values.row_scale), ("column", values.column_scale)]
    return {
        "tensor": group.tensors[0].name,
        "symbols": group.symbols,
        "lanes": 1 << group.streams[0].lane_bits,
        "blocks": -(-group.symbols >> group.streams[0].block_bits),
        "bits": bits,
        "scales": ", ".join(name for name, scale in scales if scale is not None) or "none",
        "msym_s": median(own for own, _ in runs),
        "synthetic_msym_s": median(theirs for _, theirs in runs),
        "ratio": median(own / theirs for own, theirs in runs),
    }


def synthetic_like(group: Group, bits: float) -> tuple[Stream, Values]:
    """Return a stream of about as many symbols, in the layout of a group, and where its fp32 values go."""
    count = group.symbols // STEP * STEP
    _, _, symbols, tables, classes = make_symbols(bits, count)
    layout: dict[str, Any] = {"lanes": 1 << group.streams[0].lane_bits, "block_bits": group.streams[0].block_bits}
    stream = Stream("rans", encode("rans", symbols, tables, classes, **layout), count, tables, classes, **layout)
    shape = shape_of(count)
    codebook = np.arange(-ORIGIN, ALPHABET - ORIGIN, dtype=np.float32)
    scale = np.linspace(1, 2, shape[0], dtype=np.float32)
    return stream, Values(np.empty(count, np.uint32), codebook, row_scale=scale, shape=shape)


def rate(stream: Stream, values: Values, repeat: int) -> float:
    """Return the million symbols a second that a stream decodes at, the median of runs."""

    def decode() -> None:
        for number in stream.parts:
            stream.decode_values(number, values)

    return values.out.size / peers.median(decode, repeat) / 1e6


if __name__ == "__main__":
    main()
