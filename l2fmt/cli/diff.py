"""`l2fmt diff`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.cli._progress import Progress
from l2fmt.container.limits import Limits

if TYPE_CHECKING:
    from l2fmt.report import TensorDifference


@click.command(short_help="Compare two models tensor by tensor.")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@limit_option
def diff(a: str, b: str, as_json: bool, limits: Limits) -> None:
    """Compare models A and B tensor by tensor, each a .l2c file or anything that pack reads.

    The relative MSE is the sum of squared differences over the sum of squares of A. The exit code is 1 if a tensor is
    missing or has another shape, and 0 however much the values differ.
    """
    from l2fmt import report

    with Progress(quiet=as_json) as progress:
        rows = report.diff(a, b, progress=lambda done: progress("comparing", done), limits=limits)
    if as_json:
        _output.json_data({"schema": 1, "a": a, "b": b, "tensors": [row.to_dict() for row in rows]})
    else:
        _show(rows)
    if not all(row.comparable for row in rows):
        click.get_current_context().exit(1)


def _show(rows: Sequence["TensorDifference"]) -> None:
    headings = ("tensor", "shape", "dtype", "status", "relative MSE", "max error")
    _output.table(headings, [_row(row) for row in rows], "<<<<>>")
    _output.data()
    counts = [
        f"{sum(row.status == status for row in rows)} {status}" for status in dict.fromkeys(r.status for r in rows)
    ]
    _output.data(f"{len(rows)} tensors: {', '.join(counts)}")
    if different := [row for row in rows if row.status == "different"]:
        worst = max(different, key=lambda row: row.relative_mse or 0.0)
        farthest = max(different, key=lambda row: row.max_error or 0.0)
        _output.data(f"largest relative MSE {worst.relative_mse:.3g} ({worst.name})")
        _output.data(f"largest error {farthest.max_error:.3g} ({farthest.name})")


def _row(row: "TensorDifference") -> tuple[str, ...]:
    return (
        row.name,
        _pair(_output.shape(row.shape_a), _output.shape(row.shape_b)),
        _pair(row.dtype_a or "-", row.dtype_b or "-"),
        row.status,
        _number(row.relative_mse),
        _number(row.max_error),
    )


def _pair(a: str, b: str) -> str:
    return a if a == b or b == "-" else b if a == "-" else f"{a} / {b}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}" if value else "0"
