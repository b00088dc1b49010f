"""Where the errors of a compressed classifier come from, and whether calibration data say so: layer by layer.

    python -m benchmarks.accuracy.by_layer mobilenetv1_075 FILE.l2c

Each layer of the file, a weight and the vectors that follow it, alone takes its place in the full model; then all do.
What is printed is the mean squared error of the logits over their variance, on the pictures of the test, whose answers
are not used, and on calibration samples. A layer with far more on the former was fitted to the latter.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

import l2fmt
from l2fmt.errors import InputError, L2Error

from . import data, mobilenet, resnet_cifar
from .agreement import logits
from .calibration import calibration
from .common import read_tensors
from .data import DataNotFoundError
from .models import MODELS

Tensors = Mapping[str, Tensor]

CLASSIFIERS = ("resnet20", "resnet32", "resnet56", "mobilenetv1_075")


def layers_of(module: nn.Module) -> dict[str, list[str]]:
    """Return the names of each layer's tensors, by its weight's: that weight and what comes before the next one."""
    layers: dict[str, list[str]] = {}
    for name, tensor in module.state_dict().items():
        if tensor.dim() > 1:
            layers[name] = []
        if layers:
            next(reversed(layers.values())).append(name)
    return layers


def by_layer(name: str, full: Tensors, other: Tensors, limit: int | None, count: int) -> Iterator[dict[str, object]]:
    """Yield the relative squared error of logits that each layer of `other` causes, and all of them ("all").

    On the first `limit` pictures of the test and on `count` samples of calibration.
    Raises InputError for tensors that are missing, RuntimeError for those that do not fit the model, DataNotFoundError.
    """
    if missing := sorted(full.keys() - other.keys()):
        raise InputError(f"{missing[0]!r} is not in the file")
    mobile = name == "mobilenetv1_075"
    family = mobilenet if mobile else resnet_cifar
    pictures = (data.imagenet() if mobile else data.cifar10("test"))[0][:limit]
    samples = calibration(name, count)
    inputs = {"test": family.preprocess(pictures), "calibration": samples if mobile else samples[0]}

    def outputs(tensors: Tensors, x: Tensor) -> Tensor:
        network = family.folded(family.build(tensors))  # type: ignore[arg-type]
        return logits(network, lambda part: x[part], len(x), family.BATCH)

    truth = {of: outputs(full, x) for of, x in inputs.items()}
    layers = layers_of(MODELS[name].build(full))
    for layer, names in {**layers, "all": list(full)}.items():
        tensors = {key: other[key] if key in names else value for key, value in full.items()}
        row: dict[str, object] = {"layer": layer}
        row |= {"weights": full[layer].numel()} if layer in layers else {}
        for of, x in inputs.items():
            error = (outputs(tensors, x) - truth[of]).square().mean() / truth[of].var()
            row[of] = round(float(error), 5)
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object a layer; return 1 where the file or data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.by_layer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=CLASSIFIERS)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="of the test's pictures (default: 1,000)")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="calibration samples (default: 1,000)")
    given = parser.parse_args(arguments)
    try:
        full = read_tensors(MODELS[given.model].checkpoint())
        for row in by_layer(given.model, full, l2fmt.load_file(given.file), given.limit, given.count):
            print(json.dumps(row), flush=True)
    except (DataNotFoundError, L2Error, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
