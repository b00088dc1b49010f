"""`l2fmt index`."""

import click

from l2codec import machine_code
from l2fmt import indexing
from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.cli._options import STREAM, open_target
from l2fmt.container.limits import Limits


@click.command(short_help="Let a GPU decode a file from many places at once.")
@click.argument("source")
@click.option("-o", "--output", help="The file to write, - for stdout; by default SOURCE is replaced.")
@click.option(
    "--interval", type=int, metavar="N", help=f"Symbols of a lane between points [default: {indexing.INTERVAL}]."
)
@click.option("--strip", is_flag=True, help="Take the points away.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file that -o names.")
@click.option("--json", "as_json", is_flag=True, help="Print the sizes as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@limit_option
def index(
    source: str,
    output: str | None,
    interval: int | None,
    strip: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    limits: Limits,
) -> None:
    """Add resume points to SOURCE, a .l2c file or the index of shards, in place of those it may have.

    A long tensor can then be decoded from many places at once, which is what a GPU needs. The weights keep their bytes;
    the points are counted in the size of the file, are left out again by --strip, and no reader needs them.
    """
    if strip and interval is not None:
        raise click.UsageError("--strip takes the points away, so --interval means nothing")
    machine_code.announcing = not quiet
    in_place = output is None and source != STREAM
    target = None if in_place else open_target(source, output, "", force=force)
    to_stdout = hasattr(target, "write")
    if as_json and to_stdout:
        raise click.UsageError("--json and the file both want stdout; give a file with -o")
    every = indexing.INTERVAL if interval is None else interval
    done = indexing.index(source, target, interval=every, strip=strip, overwrite=force, limits=limits)
    if as_json:
        _output.json_data(done.to_dict())
    elif not quiet:
        name = "stdout" if to_stdout else source if in_place else output
        change = f"{_output.count(abs(done.added_bytes))} {'more' if done.added_bytes >= 0 else 'less'}"
        points = f"{_output.count(done.points)} resume points"
        _output.message(f"{name}: {_output.count(done.file_bytes)} bytes, {change} than before; {points}")
