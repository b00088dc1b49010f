"""Speed of decoding, encoding and loading on a GPU.

    python -m benchmarks.bench_gpu [-o benchmarks/results/gpu.json]

Every case is first compared with the CPU, bit for bit. Then:

* `decode`: kernels alone, between CUDA events, from streams on the GPU to symbols of one byte (u8), or by a codebook to
  bfloat16; with one table, or with 8 tables chosen by a class map, as in files. Streams are of rANS with 32 lanes, in
  blocks that cost at most 0.5 %. Sizes: 1 M, ResNet-18 (its 21 large tensors, 11.7 M in all, a stream each), 126 M,
  1 G, and with a class map 12 M.
* `encode`: kernels alone, from symbols on the GPU to blocks.
* `kernels`: kernels alone, of all tensors of a file as `l2fmt` makes it, weights of two bits and biases, to float32.
* `load`: `load_file` of a file on disk that was read before, to the GPU, beside `torch.load` and safetensors with the
  same tensors in float32. "points" is the file with the resume points of `l2fmt index`, whose size is said too.

Inputs and outputs take turns, so that no cache holds them, and the GPU has been busy for a while when it is measured,
so that its clock is up. Results are written after every case. Times are medians. GB/s are of what is written (encoding:
read), `share` is what is read and written against the bandwidth of a copy on the same GPU. Long streams repeat 2**22
different symbols. It takes 8 GB of the GPU's memory and of the CPU's.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import l2fmt
from benchmarks.environment import environment
from benchmarks.gpu_files import bench_kernels, bench_load, write_model
from benchmarks.gpu_machine import Gpu, Machine, copies, copy_bandwidth, median
from benchmarks.synthetic import ALPHABET, make_symbols
from l2codec import ClassMap, TableSet, Values, encode
from l2codec.cuda.decoding import Decoding, DeviceStream
from l2codec.cuda.encoding import Encoding

LANES, OVERHEAD = 32, 0.005
PIECE = 1 << 22  # different symbols
CLASSED = 12_000_000  # symbols with a class map
DEFAULT = Path(__file__).parent / "results" / "gpu.json"

RESNET18 = (
    (64, 3, 7, 7),
    *[(64, 64, 3, 3)] * 4,
    *[(128, 64, 3, 3), (128, 128, 3, 3), (128, 64, 1, 1), *[(128, 128, 3, 3)] * 2],
    *[(256, 128, 3, 3), (256, 256, 3, 3), (256, 128, 1, 1), *[(256, 256, 3, 3)] * 2],
    *[(512, 256, 3, 3), (512, 512, 3, 3), (512, 256, 1, 1), *[(512, 512, 3, 3)] * 2],
    (1000, 512),
)
TRANSFORMER = ((32000, 768), *[(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 14)
SIZES = {
    "1 M": [1 << 20],
    "ResNet-18": [int(np.prod(shape)) for shape in RESNET18],
    "126 M": [30 * PIECE],
    "1 G": [256 * PIECE],
}
MODELS = {"ResNet-18": RESNET18, "124 M transformer": TRANSFORMER}


@dataclass
class Symbols:
    """Symbols with their model, in streams of 32 lanes with the shortest blocks that do not cost too much.

    Streams of more symbols repeat them.
    """

    symbols: np.ndarray
    tables: TableSet
    classes: ClassMap | int
    bits: float

    @property
    def layout(self) -> dict[str, int]:
        cost = 24 * LANES + 32  # bits of a block
        return {"lanes": LANES, "block_bits": max(8, math.ceil(math.log2(cost / (OVERHEAD * self.bits))))}

    def stream(self, count: int) -> bytes:
        """Return the stream of `count` symbols."""
        part = self.symbols[:count]
        layout: dict[str, Any] = {**self.layout, "threads": torch.get_num_threads()}
        stream = encode("rans", part, self.tables, self.classes, **layout)
        repeats, rest = divmod(count, part.size)
        blocks = -(-part.size >> self.layout["block_bits"])
        if repeats == 1:
            return stream
        assert not rest and blocks << self.layout["block_bits"] == part.size, "whole blocks are repeated"
        lengths = np.frombuffer(stream, "<u4", blocks) if blocks > 1 else np.array([len(stream)], "<u4")
        return np.tile(lengths, repeats).tobytes() + stream[-int(lengths.sum()) :] * repeats

    def equals(self, found: torch.Tensor, codebook: np.ndarray | None) -> bool:
        """Whether memory of a device holds the values of the symbols, repeated."""
        words = self.symbols if codebook is None else codebook[self.symbols]
        expected = torch.from_numpy(words.view(f"i{words.itemsize}")).to(found.device)
        parts = found.view(expected.dtype).split(expected.numel())
        return all(torch.equal(part, expected[: part.numel()]) for part in parts)


def main() -> int:
    """Measure, print, and write the results; return 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT)
    parser.add_argument("-r", "--repeat", type=int, default=21)
    parser.add_argument("--bits", type=float, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--no-load", action="store_true", help="kernels only")
    arguments = parser.parse_args()
    try:
        gpu = Gpu()
    except l2fmt.L2Error as error:
        print(f"bench_gpu: {error}", file=sys.stderr)
        return 2
    sizes = {name: SIZES[name] for name in arguments.sizes}
    started, rows = time.monotonic(), []
    about = {"command": "benchmarks.bench_gpu", "gpu": gpu.name, "environment": environment()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    models = {} if arguments.no_load else MODELS
    for row in measure(gpu, sizes, arguments.bits, models, arguments.repeat):
        rows.append(row)
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        result = about | {"repeat": arguments.repeat, "seconds": time.monotonic() - started, "results": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")  # now: there may be no time for all cases
    return 0


def measure(
    machine: Machine,
    sizes: dict[str, list[int]],
    bits: Sequence[float],
    models: Mapping[str, Sequence[tuple[int, ...]]],
    repeat: int,
    piece: int = PIECE,
    classed: int = CLASSED,
    copied: int = 1 << 30,
) -> Iterator[dict[str, Any]]:
    """Yield the result of each case; raises AssertionError if one is not that of the CPU."""
    bandwidth = copy_bandwidth(machine, copied, repeat)
    yield {"case": "copy", "GB/s": bandwidth / 1e9}

    def with_share(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"share": row.pop("moved") / row["ms"] * 1e3 / bandwidth}

    for rate in bits:
        symbols, table, *_ = make_symbols(rate, piece)
        one = Symbols(symbols, table, 0, rate)
        _, _, several, tables, classes = make_symbols(rate, classed)
        cases = [(name, one, counts) for name, counts in sizes.items()]
        cases.append((f"{classed / 1e6:.3g} M, class map", Symbols(several, tables, classes, rate), [classed]))
        for name, given, counts in cases:
            for word in ("u8", "bf16"):
                yield with_share({"size": name} | bench_decode(machine, given, counts, word, repeat))
            if len(counts) == 1:
                yield with_share({"size": name} | bench_encode(machine, given, counts[0], repeat))
    for name, shapes in models.items():
        with tempfile.TemporaryDirectory() as folder:
            paths, state = write_model(Path(folder), shapes)
            for kind in ("l2c", "points.l2c"):
                yield with_share({"model": name, "file": kind} | bench_kernels(machine, paths[kind], state, repeat))
            for row in bench_load(machine, paths, state, repeat):
                yield {"model": name} | row


def bench_decode(machine: Machine, given: Symbols, counts: Sequence[int], word: str, repeat: int) -> dict[str, Any]:
    """Measure the decoding of streams of so many symbols, together."""
    dtype = np.dtype(np.uint8 if word == "u8" else np.uint16)
    codebook = None if word == "u8" else np.random.default_rng(0).integers(0, 1 << 16, ALPHABET, dtype=np.uint16)
    total, streams = sum(counts), [given.stream(count) for count in counts]
    works, outputs = [], []
    for _ in range(copies(total * dtype.itemsize)):
        work, parts = Decoding(machine.open()), []
        for count, data in zip(counts, streams, strict=True):
            stream = DeviceStream("rans", data, count, given.tables, given.classes, **given.layout)
            parts.append(torch.zeros(count * dtype.itemsize, dtype=torch.uint8, device=machine.device))
            # The host's memory of the values is never touched.
            values = Values(np.empty(count, dtype), 0 if codebook is None else codebook)
            work.add(stream, values, parts[-1].data_ptr())
        work.prepare()
        works.append(work)
        outputs.append(parts)
    milliseconds = median(machine, [work.launch for work in works], repeat)
    for work, parts in zip(works, outputs, strict=True):
        assert not work.failures(), "a stream is refused"
        assert all(given.equals(part, codebook) for part in parts), "the GPU decodes other values"
    stored, written = sum(map(len, streams)), total * dtype.itemsize
    rates = {"ms": milliseconds, "GB/s": written / milliseconds / 1e6, "moved": stored + written}
    return {"case": "decode", "to": word, "bits": given.bits, "symbols": total, "bytes": stored} | rates


def bench_encode(machine: Machine, given: Symbols, count: int, repeat: int) -> dict[str, Any]:
    """Measure the encoding of a stream."""
    symbols, expected = np.resize(given.symbols, count), given.stream(count)
    block_bits = given.layout["block_bits"]
    works = [
        Encoding(machine.open(), "rans", symbols, given.tables, given.classes, LANES, block_bits)
        for _ in range(copies(count, 8))
    ]
    milliseconds = median(machine, [work.launch for work in works], repeat)
    assert all(work.result() == expected for work in works), "the GPU encodes other bytes"
    rates = {"ms": milliseconds, "GB/s": count / milliseconds / 1e6, "moved": len(expected) + count}
    return {"case": "encode", "bits": given.bits, "symbols": count, "bytes": len(expected)} | rates


if __name__ == "__main__":
    sys.exit(main())
