"""`l2fmt pack`."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from l2codec import machine_code
from l2fmt._registry import CODERS
from l2fmt.cli import _output
from l2fmt.cli._options import STREAM, ByteSize, Setting, open_target
from l2fmt.cli._progress import Progress
from l2fmt.optimize import method_names

if TYPE_CHECKING:
    from l2fmt.api import PackResult

_PATTERN = "PATTERN"


@click.command(short_help="Compress a model into a .l2c file.")
@click.argument("source")
@click.option("-o", "--output", help="The file to write, - for stdout; by default beside SOURCE, ending in .l2c.")
@click.option("--target-ratio", type=float, metavar="R", help="Bytes of the tensors over bytes of the whole file.")
@click.option("--bits", type=float, metavar="B", help="Bits of a quantized weight on average, tables included.")
@click.option("--max-error", type=float, metavar="E", help="Largest relative squared error of a quantized tensor.")
@click.option("--lossless", is_flag=True, help="Keep every bit of every tensor.")
@click.option(
    "--method", type=click.Choice(method_names()), help="How to quantize [default: best with --calibration, else rd]."
)
@click.option("--effort", type=click.IntRange(1, 9), metavar="1..9", help="Minutes for accuracy, of method best.")
@click.option("--preset", metavar="NAME", help="Settings of the method that belong together, by name.")
@click.option("--set", "pairs", type=Setting(), multiple=True, help="Change a setting of the method (may repeat).")
@click.option("--seed", type=int, metavar="N", help="Seed of the method's random choices.")
@click.option(
    "--checkpoint", metavar="FILE", help="Keep the state of training here; an interrupted run goes on from it."
)
@click.option("--model", metavar="MODULE:FACTORY", help="Code that builds the network; it is imported and run.")
@click.option("--calibration", metavar="DATA", help="Samples that the method may run the network on.")
@click.option("--calibration-limit", type=click.IntRange(min=1), metavar="N", help="Use at most N samples.")
@click.option("--image-size", type=click.IntRange(min=1), metavar="PIXELS", help="Scale and crop pictures to a square.")
@click.option("--image-mean", type=float, nargs=3, metavar="R G B", help="Mean of pixels 0..1 [default: ImageNet's].")
@click.option("--image-std", type=float, nargs=3, metavar="R G B", help="Their deviation [default: ImageNet's].")
@click.option("--include", multiple=True, metavar=_PATTERN, help="Quantize only tensors of these names (may repeat).")
@click.option("--exclude", multiple=True, metavar=_PATTERN, help="Do not quantize tensors of these names (may repeat).")
@click.option("--keep", multiple=True, metavar=_PATTERN, help="Keep every bit of these, vectors too (may repeat).")
@click.option("--coder", type=click.Choice(tuple(CODERS)), default="rans", show_default=True, help="Entropy coder.")
@click.option("--key", help="The entry of a checkpoint that holds the weights, where that is not clear.")
@click.option("--max-shard-size", type=ByteSize(), help="Split into files of at most so many bytes of tensors (5GB).")
@click.option("--resume-interval", type=int, metavar="N", help="Add points to decode from, every N symbols of a lane.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def pack(source: str, output: str | None, force: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Compress SOURCE into a .l2c file.

    SOURCE is a .safetensors file, a state dict of torch.save (.pt, .pth, .bin), or a folder of Hugging Face. Without
    --target-ratio, --bits, --max-error or --lossless a cautious default is used, and said.

    A method that runs the network takes --model, the function or class of yours that builds it without arguments, as
    package.module:factory, and --calibration: a folder or .zip of pictures, a .npy, .npz, .pt or .safetensors file of
    inputs, or package.module:loader, which gives tensors or batches. Both are looked up in the current directory
    first, and run: name only code that you trust. The method rd takes neither.
    """
    machine_code.announcing = not quiet
    given = [name for name in ("target_ratio", "bits", "max_error") if options[name] is not None]
    if len(given) + options["lossless"] > 1:
        raise click.UsageError("give at most one of --target-ratio, --bits, --max-error and --lossless")
    settings = _settings(options.pop("pairs"), {name: options.pop(name) for name in ("preset", "seed", "effort")})
    model, calibration = options.pop("model"), options.pop("calibration")
    of_reading = {"image_size": "image_size", "image_mean": "mean", "image_std": "std", "calibration_limit": "limit"}
    reading = {parameter: options.pop(option) for option, parameter in of_reading.items()}
    if calibration is not None and model is None:
        raise click.UsageError("--calibration needs --model: the data are run through the network")
    if calibration is None and any(value is not None for value in reading.values()):
        raise click.UsageError("--image-size, --image-mean, --image-std and --calibration-limit need --calibration")
    target = open_target(source, output, ".l2c", force=force)
    to_stdout = hasattr(target, "write")
    if as_json and to_stdout:
        raise click.UsageError("--json and the file both want stdout; give a file with -o")
    options["max_shard_bytes"] = options.pop("max_shard_size")
    stream = sys.stdin.buffer if source == STREAM else source
    from l2fmt import api
    from l2fmt.inputs.calibration_files import read_calibration
    from l2fmt.inputs.module import build_module

    # What the user's own code prints must not get between the bytes of a file, or into JSON.
    with redirect_stdout(sys.stderr), Progress(quiet=quiet or as_json) as progress:
        # The code of the model first: it is more often wrong than the data, and read faster.
        options["module"] = None if model is None else build_module(model)
        if calibration is not None:
            options["calibration"] = read_calibration(calibration, progress=progress, **reading)
        result = api.pack(stream, target, options=settings, overwrite=force, progress=progress, **options)
    if as_json:
        _output.json_data(_summary(result))
    elif not quiet:
        _report(result, "stdout" if to_stdout else str(target), bool(given))


def _settings(pairs: Sequence[tuple[str, Any]], named: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of --set and of options of their own; raise UsageError for one given twice."""
    settings = {name: value for name, value in named.items() if value is not None}
    for name, value in pairs:
        if name in settings:
            raise click.UsageError(f"the setting {name} is given twice")
        settings[name] = value
    return settings


def _summary(result: "PackResult") -> dict[str, Any]:
    return {"ratio": result.ratio} | {key: value for key, value in asdict(result).items() if key != "data"}


def _report(result: "PackResult", name: str, has_target: bool) -> None:
    sizes = f"{_output.count(result.original_bytes)} bytes of tensors in {_output.count(result.file_bytes)}"
    done = f"{result.quantized} of {result.tensors} tensors quantized, {result.seconds:.1f} s"
    _output.message(f"{name}: ratio {result.ratio:.2f}, {sizes}; {done}")
    default = result.settings.get("options", {}).get("default_error")
    if default is not None and not has_target:
        kept = f"weights keep all but {100 * default:g} % of their energy"
        _output.message(f"no target was given: {kept}; --target-ratio asks for a size")
    for text in result.notes:
        _output.message(f"note: {text}")
