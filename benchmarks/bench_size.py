"""Whole files against zero-order entropy, and lossless ratios.

    python -m benchmarks.bench_size [-o results.json] [--models resnet56 minilm]

Every tensor of two or more dimensions is quantized uniformly, its step chosen for 2, 3 or 4 bits of zero-order entropy,
and a file is written that holds these tensors. Its size is compared with the sum over tensors of that entropy, which an
ideal coder with one static table a tensor, tables free of charge, would need.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

import l2codec
from benchmarks.accuracy.models import MODELS
from benchmarks.environment import environment
from l2fmt.api import pack
from l2fmt.container.reader import Reader
from l2fmt.dtypes import DTYPES
from l2fmt.pipeline import QuantizedTensor, write_files
from l2fmt.transforms import Uniform


def entropy_bits(codes: np.ndarray) -> float:
    """Return the zero-order entropy of all codes together, in bits."""
    counts = np.bincount((codes - codes.min()).reshape(-1).astype(np.int64))
    counts = counts[counts > 0]
    return float((counts * (np.log2(counts.sum()) - np.log2(counts))).sum())


def step_for(weights: np.ndarray, bits: float) -> float:
    """Return the step at which plain rounding has `bits` of zero-order entropy a weight."""
    low, high = 1e-3 * float(weights.std()), 20 * float(weights.std())
    for _ in range(30):
        step = (low * high) ** 0.5
        if entropy_bits(np.rint(weights / np.float32(step))) / weights.size > bits:
            low = step
        else:
            high = step
    return high


def matrices(path: Path) -> dict[str, np.ndarray]:
    """Return the float tensors of two or more dimensions, as float32."""
    with safe_open(path, "np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {
        name: array.astype(np.float32) for name, array in found.items() if array.ndim > 1 and array.dtype.kind == "f"
    }


def quantized(weights: dict[str, np.ndarray], bits: float) -> list[QuantizedTensor]:
    """Quantize every tensor to `bits` of zero-order entropy."""
    result = []
    for name, array in weights.items():
        transform = Uniform(step_for(array, bits))
        result.append(
            QuantizedTensor(name, DTYPES["F32"], array.shape, transform.codes(array).astype(np.int16), transform)
        )
    return result


def stream_excess(data: bytes, codes: list[QuantizedTensor]) -> float:
    """Return by how much the rANS streams exceed the code length of their own tables and classes, as a share of it."""
    from l2fmt.pipeline.classes import read_vectors

    reader = Reader(data)
    stored = ideal = 0.0
    by_name = {c.name: c for c in codes}
    for number, group in enumerate(reader.index.groups):
        stream = group.streams[0]
        tables = reader.table_sets[stream.table_set]
        classes = read_vectors(reader, group, reader.read_group(number)).maps[0]
        symbols = (by_name[group.tensors[0].name].codes.reshape(-1) + tables.origin).astype(np.uint16)
        ideal += l2codec.code_length(symbols, tables, classes)
        stored += 8 * stream.length
    return stored / ideal - 1


def measure(name: str) -> list[dict]:
    """Return a row for each bit rate of a model."""
    weights = matrices(MODELS[name].checkpoint())
    count = sum(a.size for a in weights.values())
    rows = []
    for bits in (2.0, 3.0, 4.0):
        codes = quantized(weights, bits)
        entropy = sum(entropy_bits(c.codes) for c in codes)
        buffer = io.BytesIO()
        size = write_files(buffer, codes, {}, {})
        row = {
            "model": name,
            "weights": count,
            "entropy_bits_per_weight": entropy / count,
            "file_bytes": size.file_bytes,
            "file_bits_per_weight": 8 * size.file_bytes / count,
            "file_against_entropy": 8 * size.file_bytes / entropy - 1,
            "without_index_against_entropy": 8 * size.weight_bytes / entropy - 1,
            "streams_against_own_code_length": stream_excess(buffer.getvalue(), codes),
        }
        rows.append(row)
        print(
            f"{name:10s} H0 {row['entropy_bits_per_weight']:.3f}  file {row['file_bits_per_weight']:.4f} bits a weight"
            f"  {row['file_against_entropy']:+.2%}  (without index {row['without_index_against_entropy']:+.2%})"
            f"  streams over own code length {row['streams_against_own_code_length']:+.3%}",
            file=sys.stderr,
        )
    return rows


def lossless() -> list[dict]:
    """Return the lossless ratios of MiniLM in float32 and bfloat16."""
    import torch
    from safetensors.torch import load_file

    state = load_file(MODELS["minilm"].checkpoint())
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
        result = pack(tensors, lossless=True)
        share = result.file_bytes / result.original_bytes
        rows.append(
            {
                "model": "minilm",
                "dtype": str(dtype),
                "file_bytes": result.file_bytes,
                "share": share,
                "seconds": result.seconds,
            }
        )
        print(f"minilm lossless {dtype}: {share:.4f} of its size, {result.seconds:.1f} s", file=sys.stderr)
    return rows


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet56", "minilm"], choices=sorted(MODELS))
    arguments = parser.parse_args()
    result = {
        "environment": environment(),
        "quantized": [row for name in arguments.models for row in measure(name)],
        "lossless": lossless() if "minilm" in arguments.models else [],
    }
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
