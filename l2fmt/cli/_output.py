"""The only module that prints: data to stdout, everything else to stderr, no colour."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import click

_GAP = "  "
_MIN_NAME = 24  # characters of the first column that a narrow terminal leaves


def data(text: str = "") -> None:
    """Print a line of the result."""
    click.echo(printable(text))


def json_data(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def message(text: str) -> None:
    """Print a line that is not the result."""
    click.echo(printable(text), err=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> None:
    """Print aligned columns, each "<" or ">" as `alignment` says; a terminal too narrow shortens the first one."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    if sys.stdout is not None and sys.stdout.isatty():
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
        widths[0] = max(min(widths[0], _MIN_NAME), widths[0] - max(excess, 0))
    for cells in (headings, ["-" * width for width in widths], *lines):
        first, *others = cells
        fitted = [_shorten(first, widths[0]), *others]
        row = _GAP.join(f"{cell:{side}{width}}" for cell, side, width in zip(fitted, alignment, widths, strict=True))
        click.echo(row.rstrip())


def _shorten(text: str, width: int) -> str:
    """Return text in at most `width` characters: the end of a tensor's name says more than its middle."""
    if len(text) <= width:
        return text
    tail = (width - 3) * 2 // 3
    return text[: width - 3 - tail] + "..." + text[-tail:]


def printable(text: str) -> str:
    """Return text with what would command a terminal, or not be seen, escaped: names in a file are a stranger's."""
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def binary_stdout() -> BinaryIO:
    """Return standard output for bytes; raise UsageError if it is closed or a terminal."""
    if sys.stdout is None:
        raise click.UsageError("standard output is closed; give a file with -o")
    if sys.stdout.isatty():
        raise click.UsageError("refusing to write a binary file to the terminal; give a file with -o, or a pipe")
    return sys.stdout.buffer


def finish() -> None:
    """Flush what was printed, so that a reader that has gone is noticed here."""
    if sys.stdout is not None:  # closed by who started us
        sys.stdout.flush()


def abandon_stdout() -> None:
    """Make sure that nothing more is written to a pipe whose reader has gone, not even when the interpreter exits."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def count(value: int) -> str:
    """Return an integer with thousands separated."""
    return f"{value:,}"


def percent(share: float | None) -> str:
    """Return a share as a percentage, "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}%"


def shape(dimensions: Sequence[int] | None) -> str:
    """Return a shape as 64x3x7x7, "scalar" for none, "-" for None."""
    if dimensions is None:
        return "-"
    return "x".join(map(str, dimensions)) or "scalar"
