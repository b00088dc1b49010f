"""Encode and decode symbol sequences with any coder: checks of arguments, then the stream layer or `raw`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from l2codec import blocks, raw
from l2codec._arguments import Buffer, check_arguments, check_data, check_out, check_symbols
from l2codec.errors import CodecError
from l2codec.model import ClassMap
from l2codec.registry import coder_name
from l2codec.streams import BLOCK_CODERS, Stream
from l2codec.tables import TableSet
from l2codec.threads import Step, run
from l2codec.values import Values


def encode(
    coder: str | int,
    symbols: np.ndarray,
    tables: TableSet | None = None,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    width: int | None = None,
    threads: int = 1,
    backend: str = "numba",
) -> bytes:
    """Return the stream of a 1-D integer array of symbols. Equal input gives equal bytes.

    Args:
        coder: name or id; `raw` needs `width` (bits a symbol), the others `tables`.
        classes: the table of each symbol, or the number of the one table of all.
        lanes: interleaved states, 1 to 32; `rans` only.
        block_bits: log2 of the symbols of a block; not for `raw`.
        threads: how many share the blocks; the stream does not depend on it.
        backend: "numba", or "reference" for the slow oracle.

    Raises ImpossibleSymbolError for a symbol that its table cannot code, CodecError for arguments that do not fit.
    """
    name = coder_name(coder)
    symbols = check_symbols(symbols)
    check_arguments(name, tables, classes, symbols.size, lanes, block_bits, width)
    if threads < 1:
        raise CodecError(f"encoding takes at least one thread, not {threads}")
    if _is_reference(backend):
        from l2codec import _reference

        return _reference.encode(name, symbols, tables, classes, lanes, block_bits, width)
    if name == "raw":
        return raw.encode(symbols, _given(width))
    return blocks.encode(BLOCK_CODERS[name], symbols, _given(tables), classes, lanes, block_bits, threads)


def iter_decode(
    coder: str | int,
    data: Buffer,
    count: int,
    tables: TableSet | None = None,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    width: int | None = None,
    out: np.ndarray | None = None,
    backend: str = "numba",
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, symbols) of a stream block by block; takes memory for one block, whatever `count` claims.

    The arrays are parts of `out` if it is given, else of a buffer that the next step overwrites. `raw` comes in
    slices of 2**19 symbols. An error may come after blocks that were fine: then the whole sequence has failed.
    Otherwise as `decode`.
    """
    name = coder_name(coder)
    data = check_data(data)
    check_arguments(name, tables, classes, count, lanes, block_bits, width)
    if out is not None:
        check_out(out, count, _symbol_dtype(name, tables, width))
    if _is_reference(backend):
        from l2codec import _reference

        decoded = _reference.decode(name, bytes(data), count, tables, classes, lanes, block_bits, width)
        whole = np.array(decoded, _symbol_dtype(name, tables, width))
        return _through(iter([(0, whole)] if count else []), out)
    if name == "raw":
        raw.check(data, count, _given(width))
        return _through(raw.iter_decode(data, count, _given(width)), out)
    return blocks.iter_decode(BLOCK_CODERS[name], data, count, _given(tables), classes, lanes, block_bits, out)


def decode(
    coder: str | int,
    data: Buffer,
    count: int,
    tables: TableSet | None = None,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    width: int | None = None,
    out: np.ndarray | None = None,
    threads: int = 1,
    backend: str = "numba",
) -> np.ndarray:
    """Return the `count` symbols of a stream, in `out` if it is given; `threads` share the blocks.

    The dtype is uint8 for alphabets of at most 256 symbols (`raw`: widths of at most 8), else uint16. Without `out`,
    `count` items are allocated: a stream may claim any number of symbols in no bytes, so callers limit it first.

    Raises CorruptStreamError if the stream violates the specification; what `out` then holds means nothing.
    """
    layout: dict[str, Any] = {"lanes": lanes, "block_bits": block_bits, "width": width}
    stream = Stream(coder, data, count, tables, classes, **layout)
    if out is None:
        out = np.empty(count, stream.dtype)
    check_out(out, count, stream.dtype)
    if _is_reference(backend):
        for _ in iter_decode(coder, data, count, tables, classes, **layout, out=out, backend=backend):
            pass
    else:
        _run([partial(stream.decode, number, out) for number in stream.parts], threads)
    return out


def decode_values(
    coder: str | int,
    data: Buffer,
    values: Values,
    tables: TableSet | None = None,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    width: int | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Write the values of the symbols of a stream, one for each item of `values.out`, and return that.

    Symbols take no memory but for a block each thread. Otherwise as `decode`.
    """
    stream = Stream(coder, data, values.out.size, tables, classes, lanes=lanes, block_bits=block_bits, width=width)
    _run([partial(stream.decode_values, number, values) for number in stream.parts], threads)
    return values.out


def _run(steps: list[Step], threads: int) -> None:
    if threads < 1:
        raise CodecError(f"decoding takes at least one thread, not {threads}")
    run([lambda: (steps, _nothing)], min(threads, len(steps)))


def _nothing() -> None:
    pass


def _through(parts: Iterator[tuple[int, np.ndarray]], out: np.ndarray | None) -> Iterator[tuple[int, np.ndarray]]:
    """Pass decoded parts on, by way of `out` if it is given."""
    for start, symbols in parts:
        if out is not None:
            out[start : start + symbols.size] = symbols
            symbols = out[start : start + symbols.size]
        yield start, symbols


def _symbol_dtype(name: str, tables: TableSet | None, width: int | None) -> type:
    return blocks.symbol_dtype(1 << _given(width) if name == "raw" else _given(tables).alphabet)


def _is_reference(backend: str) -> bool:
    if backend not in ("numba", "reference"):
        raise CodecError(f"there is no backend {backend!r}; the backends are numba and reference")
    return backend == "reference"


def _given(value: Any) -> Any:
    """Return an argument that `check_arguments` has found to be there."""
    assert value is not None
    return value
