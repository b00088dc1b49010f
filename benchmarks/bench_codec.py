"""Speed and size of every coder on Laplace symbols, beside constriction's coders in the same run.

    python -m benchmarks.bench_codec -o benchmarks/results/codec.json

One thread. Times are medians; the symbols are 31 letters around 15, at the entropies given. "class map" is the model
that real weights get: K tables, selected by a row, a column and a position vector. Constriction's coders have one
table (`Categorical`).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import constriction
import numpy as np

from benchmarks.environment import environment
from l2codec import ClassMap, FrequencyTable, TableSet, code_length, decode, encode

ORIGIN, ALPHABET = 15, 31
SHAPE = (1250, 1000, 8)  # of 10 M symbols, for the class map


stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  (made at run time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, help="write the results as JSON")
    parser.add_argument("-n", "--symbols", type=int, default=10_000_000)
    parser.add_argument("-r", "--repeat", type=int, default=7)
    parser.add_argument("-k", "--tables", type=int, default=16, help="tables of the class map")
    parser.add_argument("--bits", type=float, nargs="+", default=[0.5, 1, 2, 3, 4.4])
    arguments = parser.parse_args()
    rows = []
    for bits in arguments.bits:
        rows += bench_entropy(bits, arguments.symbols, arguments.tables, arguments.repeat)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": "benchmarks.bench_codec", "environment": environment(), "results": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def bench_entropy(bits: float, count: int, n_tables: int, repeat: int) -> list[dict]:
    """Measure all coders at one entropy; print and return one row each."""
    symbols, probabilities = laplace_symbols(bits, count)
    rows = [bench_constriction(name, symbols, probabilities, repeat) for name in ("range", "ans")]
    base = rows[0]
    hist = np.bincount(symbols, minlength=ALPHABET)
    one = TableSet([FrequencyTable.from_histogram(hist, 12)], ORIGIN)
    dyadic = TableSet([FrequencyTable.dyadic_from_histogram(hist, 12)], ORIGIN)
    classes = random_classes(count, n_tables)
    several, many = class_tables(classes, count, n_tables, bits)
    for name, data, tables, map_, extra in (
        ("rans, 32 lanes", symbols, one, 0, {"lanes": 32}),
        ("rans, 32 lanes, class map", many, several, classes, {"lanes": 32}),
        ("rans, 1 lane", symbols, one, 0, {"lanes": 1}),
        ("range", symbols, one, 0, {}),
        ("range, class map", many, several, classes, {}),
        ("huffman", symbols, dyadic, 0, {}),
        ("raw", symbols, None, 0, {"width": 5}),
    ):
        rows.append(bench_coder(name, data, tables, map_, extra, repeat))
    print(f"\nentropy {bits:g}{'':23s}{'bits':>8s}{'over':>8s}{'encode':>9s}{'decode':>9s}   (Msymbols/s; x the first)")
    for row in rows:
        over = row["bits"] / row["model_bits"] - 1
        times = "".join(f"{row[k]:9.0f}" for k in ("encode", "decode"))
        ratio = " ".join(f"{row[k] / base[k]:6.1f}x" for k in ("encode", "decode"))
        print(f"  {row['coder']:28s}{row['bits']:8.4f}{over:8.2%}{times}   {ratio}", flush=True)
        row["entropy"] = bits
    return rows


def bench_coder(
    name: str, symbols: np.ndarray, tables: TableSet | None, classes: ClassMap | int, extra: dict[str, Any], repeat: int
) -> dict:
    """Measure one of our coders, `name` up to the comma."""
    coder, count = name.split(",")[0], symbols.size
    out = np.empty(count, np.uint8)
    data = encode(coder, symbols, tables, classes, **extra)
    encode_time = median(lambda: encode(coder, symbols, tables, classes, **extra), repeat)
    decode_time = median(lambda: decode(coder, data, count, tables, classes, out=out, **extra), repeat)
    assert np.array_equal(out, symbols)
    return {
        "coder": name,
        "model_bits": code_length(symbols, tables, classes) / count if tables else 5.0,
        "bits": 8 * len(data) / count,
        "encode": count / encode_time / 1e6,
        "decode": count / decode_time / 1e6,
    }


def laplace_symbols(bits: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return symbols of a Laplace distribution cut to 31 letters with the given entropy, and the distribution."""
    probabilities = laplace(scale_of(bits))
    rng = np.random.default_rng(0)
    return rng.choice(ALPHABET, count, p=probabilities).astype(np.uint8), probabilities


def laplace(scale: float) -> np.ndarray:
    weights = np.exp(-np.abs(np.arange(ALPHABET) - ORIGIN) / scale)
    return weights / weights.sum()


def scale_of(bits: float) -> float:
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        p = laplace(middle)
        p = p[p > 0]
        low, high = (middle, high) if -(p * np.log2(p)).sum() < bits else (low, middle)
    return low


def random_classes(count: int, n_tables: int) -> ClassMap:
    shape = SHAPE if count == SHAPE[0] * SHAPE[1] * SHAPE[2] else (1, count, 1)
    rng = np.random.default_rng(1)
    vectors = [rng.integers(-reach, reach + 1, n) for reach, n in zip((n_tables // 2, 2, 1), shape, strict=True)]
    return ClassMap(shape, n_tables, n_tables // 2, *vectors)


def class_tables(classes: ClassMap, count: int, n_tables: int, bits: float) -> tuple[TableSet, np.ndarray]:
    """Return tables whose scales span a factor of about 4 around that of the entropy, and symbols drawn from them."""
    scales = scale_of(bits) * np.exp2(np.linspace(-1, 1, n_tables))
    distributions = np.stack([laplace(scale) for scale in scales])
    tables = [FrequencyTable.from_histogram(np.rint(p * 1e9).astype(np.int64), 12) for p in distributions]
    cumulative = np.stack([np.cumsum(table.counts) for table in tables]) / 4096
    each = classes.slice(0, count)
    draws = np.random.default_rng(2).random(count)
    symbols = np.empty(count, np.uint8)
    for k in range(n_tables):
        chosen = each == k
        symbols[chosen] = np.searchsorted(cumulative[k], draws[chosen], side="right")
    return TableSet(tables, ORIGIN), symbols


def bench_constriction(name: str, symbols: np.ndarray, probabilities: np.ndarray, repeat: int) -> dict:
    """Measure one of constriction's coders; its symbols are int32, converted outside the measurement."""
    model = stream.model.Categorical(probabilities, perfect=False)
    wide, count = symbols.astype(np.int32), symbols.size

    def encode_all() -> np.ndarray:
        if name == "range":
            encoder = stream.queue.RangeEncoder()
            encoder.encode(wide, model)
        else:
            encoder = stream.stack.AnsCoder()
            encoder.encode_reverse(wide, model)
        return encoder.get_compressed()

    def decode_all() -> np.ndarray:
        coder = stream.queue.RangeDecoder if name == "range" else stream.stack.AnsCoder
        return coder(words).decode(model, count)

    words = encode_all()
    assert np.array_equal(decode_all(), wide)
    used = probabilities[symbols]
    return {
        "coder": f"constriction {name}",
        "model_bits": float(-np.log2(used).mean()),
        "bits": 32 * words.size / count,
        "encode": count / median(encode_all, repeat) / 1e6,
        "decode": count / median(decode_all, repeat) / 1e6,
    }


def median(call: Callable[[], object], repeat: int) -> float:
    """Return the median time of a call in seconds, after one that does not count."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
