"""`l2fmt plot`."""

import click

from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.cli._options import open_target
from l2fmt.container.limits import Limits

_SUFFIX = ".png"


@click.command(short_help="Draw bits, sparsity and size of each layer of a file.")
@click.argument("source")
@click.option(
    "-o", "--output", help="A .png, .svg or .pdf file, - for a png on stdout; by default a .png beside SOURCE."
)
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@limit_option
def plot(source: str, output: str | None, force: bool, quiet: bool, limits: Limits) -> None:
    """Draw what each quantized layer of SOURCE, a .l2c file, costs.

    One row a layer, in the order of the file: bits per weight, share of zeros, and bytes before and after, with the
    averages over all weights. Needs matplotlib (pip install 'l2fmt[plot]').
    """
    target = open_target(source, output, _SUFFIX, force=force)
    from l2fmt.report.plot import plot_layers

    plot_layers(source, target, overwrite=force, limits=limits)
    if not quiet and not hasattr(target, "write"):
        _output.message(f"{target}: {_output.count(target.stat().st_size)} bytes")
