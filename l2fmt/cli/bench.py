"""`l2fmt bench`."""

from typing import TYPE_CHECKING

import click

from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.container.limits import Limits

if TYPE_CHECKING:
    from l2fmt.report import GroupTime

_HEADINGS = ("coder", "symbols", "ms", "share", "Msymbols/s", "bytes", "MB/s")


@click.command(short_help="Measure how fast a file decodes and loads here.")
@click.argument("source")
@click.option(
    "-r", "--repeat", type=click.IntRange(1), default=5, show_default=True, help="Runs of which to take medians."
)
@click.option("-n", "--top", type=click.IntRange(0), default=10, show_default=True, help="Slowest tensors to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (l2fmt.report.BenchReport.to_dict describes it).")
@limit_option
def bench(source: str, repeat: int, top: int, as_json: bool, limits: Limits) -> None:
    """Measure how fast SOURCE, a .l2c file, decodes and loads on this machine.

    Tensors that are stored together are one row. Their times are for reading, checking and decoding with one thread;
    MB are of decoded tensors. Nothing is measured before the file has been read once.
    """
    from l2fmt import report

    found = report.bench(source, repeat=repeat, limits=limits)
    if as_json:
        _output.json_data(found.to_dict())
        return
    groups = sorted(found.groups, key=lambda group: -group.seconds)
    whole = report.total("all", list(groups))
    rows = [(_name(group), *_cells(group, whole)) for group in groups[:top]]
    if rest := groups[top:]:
        sums = report.total("", rest)
        rows.append((f"{_output.count(sums.tensors)} {'other ' if top else ''}tensors", *_cells(sums, whole)))
    _output.table(("tensor", *_HEADINGS), rows, "<<>>>>>>")
    _output.data()
    sums = [*found.by_coder().values(), whole]
    _output.table(_HEADINGS, [(part.name, *_cells(part, whole)[1:]) for part in sums], "<>>>>>>")
    _output.data()
    for threads, seconds in found.load_seconds.items():
        how = f"{threads} thread{'s' if threads > 1 else ''}"
        _output.data(f"loaded in {1e3 * seconds:,.1f} ms with {how}, {_rate(whole.decoded_bytes, seconds)} MB/s")
    _output.data(f"medians of {found.repeat}, rans kernel {found.kernel}")


def _name(group: "GroupTime") -> str:
    return group.name if group.tensors == 1 else f"{group.name} and {group.tensors - 1} more"


def _cells(part: "GroupTime", whole: "GroupTime") -> tuple[str, ...]:
    return (
        part.coder,
        _output.count(part.symbols),
        f"{1e3 * part.seconds:,.2f}",
        _output.percent(part.seconds / whole.seconds if whole.seconds else None),
        _rate(part.symbols, part.seconds),
        _output.count(part.bytes),
        _rate(part.decoded_bytes, part.seconds),
    )


def _rate(amount: int, seconds: float) -> str:
    """Return millions a second."""
    return f"{amount / seconds / 1e6:,.0f}" if seconds else "-"
