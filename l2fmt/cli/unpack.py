"""`l2fmt unpack`."""

import click

from l2codec import machine_code
from l2fmt.cli import _output
from l2fmt.cli._limits import limit_option
from l2fmt.cli._options import open_target
from l2fmt.container.limits import Limits

_SUFFIXES = {"safetensors": ".safetensors", "pt": ".pt"}


@click.command(short_help="Decode a .l2c file into safetensors or a state dict.")
@click.argument("source")
@click.option("-o", "--output", help="The file to write, - for stdout; by default beside SOURCE.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(tuple(_SUFFIXES)),
    help="What to write; by default what the ending of the output says, else safetensors.",
)
@click.option(
    "--dtype",
    type=click.Choice(("float16", "bfloat16", "float32", "float64")),
    help="Convert floating-point tensors; by default they are what they were.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@limit_option
def unpack(
    source: str, output: str | None, format_: str | None, dtype: str | None, force: bool, quiet: bool, limits: Limits
) -> None:
    """Decode SOURCE, a .l2c file, into a safetensors file or a state dict.

    Tied weights become copies in a safetensors file, so that it has every name; in a state dict (pt) they stay tied.
    """
    machine_code.announcing = not quiet
    target = open_target(source, output, _SUFFIXES[format_ or "safetensors"], force=force)
    import torch

    from l2fmt import unpacking

    wanted = None if dtype is None else getattr(torch, dtype)
    unpacking.unpack(source, target, format=format_, dtype=wanted, overwrite=force, limits=limits)
    if not quiet and not hasattr(target, "write"):
        _output.message(f"{target}: {_output.count(target.stat().st_size)} bytes")
