"""`l2fmt warmup`."""

import io
import time
from collections.abc import Iterator

import click
import numpy as np

import l2codec
from l2codec import machine_code
from l2fmt._registry import CODERS
from l2fmt.cli import _output
from l2fmt.dtypes import DTYPES
from l2fmt.errors import FileAccessError

_ROWS, _COLUMNS = 64, 32
_LARGEST = {"narrow": 9, "wide": 300}  # codes that fit a byte, and codes that do not


@click.command(short_help="Compile what packing and loading use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def warmup(as_json: bool) -> None:
    """Compile for this processor what packing and loading use, so that no later command has to.

    It is kept in a folder of the user (L2FMT_CACHE_DIR names another) until l2fmt, numba or the processor changes;
    when nothing is left to compile, this takes a few seconds.
    """
    _check(machine_code.cache_problem())
    from l2fmt import report
    from l2fmt.torch import load

    start = time.monotonic()
    machine_code.announcing = False  # this command says it itself, when it is done
    for file in _files():  # what is compiled depends on the types of arguments, so everything is used once
        load(file)
        report.verify(file)
    _code_many_lanes()
    _check(next(iter(machine_code.not_kept), None))
    seconds, count, folder = time.monotonic() - start, len(machine_code.compiled), machine_code.cache_folder()
    if as_json:
        _output.json_data({"schema": 1, "compiled": count, "seconds": round(seconds, 2), "folder": str(folder)})
    elif count:
        _output.data(f"compiled {count} kernels in {seconds:.1f} s and kept them in {folder}")
    else:
        _output.data(f"nothing was left to compile; the kernels are in {folder}")


def _check(problem: str | None) -> None:
    if problem:
        raise FileAccessError(f"what is compiled cannot be kept: {problem}; L2FMT_CACHE_DIR may name another folder")


def _code_many_lanes() -> None:
    """Encode and decode as tensors that are large are: with vectors."""
    tables = l2codec.TableSet([l2codec.FrequencyTable([256], 8)])
    for dtype in (np.uint8, np.uint16):
        l2codec.encode("rans", np.zeros(64, dtype), tables, lanes=32)
    l2codec.decode("rans", l2codec.encode("rans", np.zeros(64, np.uint8), tables), 64, tables)


def _files() -> Iterator[bytes]:
    """Yield small models that between them use every coder, transform, dtype and kind of classes."""
    from l2fmt.pipeline import Encoding, write_files

    for coder in CODERS:
        for tables in (2, 1):
            buffer = io.BytesIO()
            interval = 8 if coder == "rans" else None
            write_files(buffer, [*_quantized(), *_plain()], {}, {}, Encoding(coder, tables, interval))
            yield buffer.getvalue()


def _quantized() -> Iterator:
    from l2fmt.pipeline import QuantizedTensor
    from l2fmt.transforms import Codebook, Uniform

    rng = np.random.default_rng(1)
    row_scale, column_scale = np.ones(_ROWS, np.float32), np.ones(_COLUMNS, np.float32)
    for width, largest in _LARGEST.items():
        spread = np.geomspace(largest / 60, largest / 3, _ROWS)[:, None]  # so that rows get classes
        codes = np.rint(rng.laplace(size=(_ROWS, _COLUMNS)) * spread).clip(-largest, largest).astype(np.int16)
        codebook = Codebook(np.arange(2 * largest + 1, dtype=np.float32), -largest)
        for dtype in ("F16", "BF16", "F32", "F64"):
            yield QuantizedTensor(f"{width}.{dtype}", DTYPES[dtype], codes.shape, codes, Uniform(0.01))
            name = f"{width}.{dtype}.scaled"
            yield QuantizedTensor(name, DTYPES[dtype], codes.shape, codes, codebook, row_scale, column_scale)


def _plain() -> Iterator:
    from l2fmt.pipeline import PlainTensor

    array = np.rint(np.random.default_rng(2).laplace(size=(_ROWS, _COLUMNS)) * 20).clip(0, 100)
    for name in ("U8", "U16", "U32", "U64", "F16", "BF16", "F32", "F64", "C64"):  # every size of words, all that rounds
        dtype = DTYPES[name]
        for bits in (None,) if dtype.mantissa_bits is None else (None, 3):
            words = array.astype(dtype.numpy)
            yield PlainTensor(f"{name}.{bits}", dtype, words.shape, lambda words=words: words, bits)
