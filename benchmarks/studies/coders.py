"""Huffman, range and rANS coding of the same codes against their entropy (L2's supplement, Table 1).

A model is packed once a ratio, and the codes of its quantized weights are encoded again with each coder and two
models of their statistics: one static table a tensor, as the publication has it, and the tables and classes that `pack`
writes. The entropy is that of the codes given the tensor, or given the class: what an ideal coder with the same
model would need. Tables, class vectors and scales are counted apart from the streams.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np

import l2codec
import l2fmt
from benchmarks.accuracy.models import MODELS
from benchmarks.accuracy.rows import Row, Run
from benchmarks.accuracy.sweep import packing
from benchmarks.environment import environment
from l2fmt import _registry
from l2fmt.container import Group, Reader
from l2fmt.pipeline import Encoding, QuantizedTensor, write_files
from l2fmt.pipeline.classes import read_vectors
from l2fmt.transforms import from_parameters

CODERS = ("huffman", "range", "rans")
STATISTICS = ("tensor", "classes")
RATIOS = (6.0, 8.0, 10.0, 12.0, 15.0, 20.0)
FIELDS = (
    *("model", "method", "preset", "target", "ratio", "statistics", "coder", "weights", "entropy_bytes"),
    *("stream_bytes", "over_entropy_percent", "side_bytes", "total_bytes", "seed", "commit"),
)
COLUMNS = (
    "model",
    "target",
    "statistics",
    "coder",
    "entropy_bytes",
    "stream_bytes",
    "over_entropy_percent",
    "total_bytes",
)


def measure(run: Run) -> list[Row]:
    """Pack once and return a row for each model of the statistics and coder. Raises L2Error kinds."""
    result = l2fmt.pack(MODELS[run.model].checkpoint(), **packing(run))
    with Reader(result.data) as reader:
        codes = read_codes(reader)
    rows = []
    for statistics in STATISTICS:
        for coder in CODERS:
            entropy, streams, total = encoded(codes, coder, statistics)
            rows.append(
                {
                    **{name: run.key[name] for name in ("model", "method", "preset", "target", "seed")},
                    "ratio": f"{result.ratio:.3f}",
                    "statistics": statistics,
                    "coder": coder,
                    "weights": str(sum(code.size for code in codes)),
                    "entropy_bytes": f"{entropy / 8:.0f}",
                    "stream_bytes": str(streams),
                    "over_entropy_percent": f"{100 * (8 * streams / entropy - 1):.2f}" if entropy else "",
                    "side_bytes": str(total - streams),
                    "total_bytes": str(total),
                    "commit": str(environment()["commit"]),
                }
            )
    return rows


def encoded(codes: Sequence[QuantizedTensor], coder: str, statistics: str) -> tuple[float, int, int]:
    """Return the entropy in bits, the bytes of the streams, and the bytes with all that decoding them takes."""
    # A tensor in a file of its own with at most one table has a static model of its own.
    files = [codes] if statistics == "classes" else [[code] for code in codes]
    encoding = Encoding(coder) if statistics == "classes" else Encoding(coder, tables=1)
    entropy, streams, total = 0.0, 0, 0
    for members in files:
        buffer = io.BytesIO()
        total += write_files(buffer, members, {}, {}, encoding).weight_bytes
        with Reader(buffer.getvalue()) as reader:
            histograms: dict[int, np.ndarray] = {}  # of each table set: int64[classes, alphabet]
            for group, symbols, classes in symbols_of(reader):
                number = group.streams[0].table_set
                tables = reader.table_sets[number]
                if number not in histograms:
                    histograms[number] = np.zeros((len(tables), tables.alphabet), np.int64)
                np.add.at(histograms[number], (classes, symbols), 1)
                streams += group.streams[0].length
        entropy += sum(entropy_bits(row) for histogram in histograms.values() for row in histogram)
    return entropy, streams, total


def entropy_bits(counts: np.ndarray) -> float:
    """Return the zero-order entropy, in bits for all symbols together, of symbols that occur so often each."""
    counts = counts[counts > 0]
    total = counts.sum()
    return float((counts * np.log2(total / counts)).sum())


def read_codes(reader: Reader) -> list[QuantizedTensor]:
    """Return the codes of the quantized tensors of a file."""
    codes = []
    for group, symbols, _ in symbols_of(reader):
        transform, offset = from_parameters(group.transform, group.parameters)
        tensor = group.tensors[0]
        codes.append(QuantizedTensor(tensor.name, tensor.dtype, tensor.shape, symbols - offset, transform))
    return codes


def symbols_of(reader: Reader) -> Iterator[tuple[Group, np.ndarray, np.ndarray]]:
    """Yield each group of quantized weights with its symbols, int64, and their classes."""
    names = {number: name for name, number in _registry.CODERS.items()}
    for number, group in enumerate(reader.index.groups):
        if group.transform == _registry.BITS:
            continue
        stream, data = group.streams[0], reader.read_group(number)
        classes = read_vectors(reader, group, data).maps[0]
        symbols = l2codec.decode(
            names[stream.coder],
            data.streams[0],
            group.symbols,
            reader.table_sets[stream.table_set],
            classes,
            lanes=1 << stream.lane_bits,
            block_bits=stream.block_bits,
        )
        constant = isinstance(classes, int)
        index = np.full(symbols.size, classes) if constant else classes.slice(0, symbols.size)
        yield group, symbols.astype(np.int64), index
