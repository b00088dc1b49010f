"""`l2fmt inspect`."""

from math import prod
from typing import TYPE_CHECKING

import click

from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.container.limits import Limits

if TYPE_CHECKING:
    from l2fmt.report import Inspection, TensorRow

_KINDS = {"vectors": "rounded", "lossless": "lossless"}  # what the transform `bits` does
_PARTS = {
    "class_vectors": "class vectors, octave scales",
    "weights": "weights (quantized)",
    "vectors": "vectors (rounded)",
    "sections": "optional sections",
    "shard_index": "shard index",
}


@click.command(short_help="Show what a file holds and what it costs.")
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (l2fmt.report.Inspection.to_dict describes it).")
@click.option("--no-sparsity", is_flag=True, help="Read the index only, and decode nothing.")
@limit_option
def inspect(source: str, as_json: bool, no_sparsity: bool, limits: Limits) -> None:
    """Show what SOURCE, a .l2c file, holds and what every part of it costs.

    bits/weight are of the bytes in the file; share is of the whole file; sparsity is the share of zeros.
    """
    from l2fmt import report

    found = report.inspect(source, sparsity=not no_sparsity, limits=limits)
    if as_json:
        _output.json_data(found.to_dict())
        return
    headings = ("tensor", "shape", "dtype", "transform", "coder", "bits/weight", "sparsity", "bytes", "share")
    rows = [_row(tensor, found.file_bytes) for tensor in found.tensors]
    rows += [(f"{alias} = {name}", "-", "-", "tied", "-", "-", "-", "0", "-") for alias, name in found.aliases.items()]
    _output.table(headings, rows, "<<<<<>>>>")
    _output.data()
    _totals(found)


def _row(tensor: "TensorRow", file_bytes: int) -> tuple[str, ...]:
    return (
        tensor.name,
        _output.shape(tensor.shape),
        tensor.dtype,
        _KINDS.get(tensor.kind, tensor.transform),
        tensor.coder,
        "-" if tensor.bits_per_weight is None else f"{tensor.bits_per_weight:.2f}",
        _output.percent(tensor.sparsity),
        _output.count(tensor.bytes),
        _output.percent(tensor.bytes / file_bytes),
    )


def _totals(found: "Inspection") -> None:
    parts = [(_PARTS.get(name, name), size) for name, size in found.parts.items() if size]
    label = "whole file" if len(found.files) == 1 else f"all {len(found.files)} files"
    rows = [
        (name, _output.count(size), _output.percent(size / found.file_bytes))
        for name, size in [*parts, (label, found.file_bytes)]
    ]
    _output.table(("part", "bytes", "share"), rows, "<>>")
    elements = sum(prod(tensor.shape) for tensor in found.tensors)
    each = f", {8 * found.file_bytes / elements:.2f} bits each" if elements else ""
    _output.data()
    _output.data(f"{len(found.tensors)} tensors, {_output.count(elements)} numbers{each}")
    original = _output.count(found.original_bytes)
    _output.data(
        f"ratio {found.ratio:.2f} = {original} bytes of tensors / {_output.count(found.file_bytes)} bytes of file"
    )
    how = [found.metadata[key] for key in ("l2fmt.method", "l2fmt.version") if key in found.metadata]
    if len(how) == 2:
        _output.data(f"packed by l2fmt {how[1]}, method {how[0]}")
