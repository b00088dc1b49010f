"""`l2fmt verify`."""

import time

import click

from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.container.limits import Limits
from l2fmt.errors import FormatError


@click.command(short_help="Check every byte of a file.")
@click.argument("source")
@click.option("--structure-only", is_flag=True, help="Check checksums and structure, and decode nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@limit_option
def verify(source: str, structure_only: bool, as_json: bool, limits: Limits) -> None:
    """Check every byte of SOURCE, a .l2c file: checksums, structure, and a full decode of every tensor.

    What is damaged is named, tensor by tensor; the exit code is then 3, or 4 for what this version does not support.
    """
    from l2fmt import report

    start = time.monotonic()
    try:
        found = report.verify(source, structure_only=structure_only, limits=limits)
    except FormatError as error:
        if as_json:
            errors = [str(error), *getattr(error, "__notes__", ())]
            _output.json_data({"schema": 1, "ok": False, "code": error.code, "errors": errors})
        raise
    if as_json:
        _output.json_data(found.to_dict())
        return
    how = "checksums and structure" if structure_only else "checksums, structure and full decode"
    sizes = f"{found.tensors} tensors in {found.groups} groups, {_output.count(found.file_bytes)} bytes"
    points = f", {_output.count(found.resume_points)} resume points" if found.resume_points else ""
    _output.data(f"{found.path}: ok, {sizes}{points} ({how}, {time.monotonic() - start:.1f} s)")
