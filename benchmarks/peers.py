"""Speed of other coders, and of what memory allows, in the rows of bench_codec."""

import importlib.util
import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np


def bench_constriction(name: str, symbols: np.ndarray, probabilities: np.ndarray, repeat: int) -> dict[str, Any]:
    """Measure one of constriction's coders; its symbols are int32, converted outside the measurement."""
    import constriction

    stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  (made at run time)
    model = stream.model.Categorical(probabilities, perfect=False)
    wide, count = symbols.astype(np.int32), symbols.size

    def encode_all() -> np.ndarray:
        coder = stream.queue.RangeEncoder() if name == "range" else stream.stack.AnsCoder()
        (coder.encode if name == "range" else coder.encode_reverse)(wide, model)
        return coder.get_compressed()

    def decode_all() -> np.ndarray:
        coder = stream.queue.RangeDecoder if name == "range" else stream.stack.AnsCoder
        return coder(words).decode(model, count)

    words = encode_all()
    assert np.array_equal(decode_all(), wide)
    times = median(encode_all, repeat), median(decode_all, repeat)
    return row_of(f"constriction {name}", 32 * words.size / count, count, *times)


def bench_bytes(symbols: np.ndarray, repeat: int) -> list[dict[str, Any]]:
    """Measure compressors of bytes; they are slow to encode, which is measured once."""
    import zstandard

    data = symbols.tobytes()
    rows = []
    zstd = zstandard.ZstdCompressor(level=19)
    for name, compress, decompress in (
        ("zstd -19", zstd.compress, zstandard.ZstdDecompressor().decompress),
        ("zlib -9", lambda given: zlib.compress(given, 9), zlib.decompress),
    ):
        start = time.perf_counter()
        packed = compress(data)
        encoding = time.perf_counter() - start
        decoding = median(lambda decompress=decompress, packed=packed: decompress(packed), repeat)
        assert decompress(packed) == data
        rows.append(row_of(name, 8 * len(packed) / len(data), len(data), encoding, decoding))
    return rows


def bench_torchac(symbols: np.ndarray, probabilities: np.ndarray, repeat: int) -> list[dict[str, Any]]:
    """Measure torchac if it is installed, on a tenth of the symbols: it takes a distribution for each of them."""
    if importlib.util.find_spec("torchac") is None:
        return []
    import torch
    import torchac  # pyright: ignore[reportMissingImports]

    part = torch.from_numpy(symbols[: symbols.size // 10].astype(np.int16))
    cumulative = np.minimum(np.concatenate([[0], np.cumsum(probabilities)]), 1).astype(np.float32)
    each = torch.from_numpy(cumulative).expand(len(part), -1)
    data = torchac.encode_float_cdf(each, part)
    assert torch.equal(torchac.decode_float_cdf(each, data), part)
    encoding = median(lambda: torchac.encode_float_cdf(each, part), repeat)
    decoding = median(lambda: torchac.decode_float_cdf(each, data), repeat)
    return [row_of("torchac", 8 * len(data) / len(part), len(part), encoding, decoding)]


def bench_limits(symbols: np.ndarray, repeat: int) -> list[dict[str, Any]]:
    """Measure what memory allows: a copy of the symbols, and as many floats written."""
    copied, floats = np.empty_like(symbols), np.empty(symbols.size, np.float32)
    copying = median(lambda: np.copyto(copied, symbols), repeat)
    filling = median(lambda: floats.fill(1.0), repeat)
    return [
        row_of("limit: copy", 8.0, symbols.size, None, copying),
        row_of("limit: fp32 fill", 32.0, symbols.size, None, filling),
    ]


def row_of(
    name: str, bits: float, count: int, encoding: float | None, decoding: float, threads: int = 1
) -> dict[str, Any]:
    """Return a row: bits a symbol and millions of symbols a second."""
    speeds = {"encode": count / encoding / 1e6 if encoding else None, "decode": count / decoding / 1e6}
    return {"coder": name, "kernel": None, "threads": threads, "bits": bits, **speeds}


def median(call: Callable[[], object], repeat: int) -> float:
    """Return the median time of a call in seconds, after one that does not count."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
