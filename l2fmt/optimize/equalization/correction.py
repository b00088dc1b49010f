"""Biases corrected for what rounding the weights adds to the mean of each output (Nagel et al. 2019, section 4.2).

With the input means of `moments` no data are needed; with data the means of the outputs themselves are compared, layer
by layer, each after those before it have been corrected.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.equalization.graph import Unit
from l2fmt.optimize.equalization.scaling import sums_of_products
from l2fmt.optimize.equalization.watching import watched
from l2fmt.optimize.learning.student import rounded_mantissa


@torch.no_grad()
def correct_by_moments(units: Sequence[Unit], values: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> int:
    """Take W' E[x] - W E[x] off the bias of every unit of which the mean input is known; return how many there are.

    `values` are the rounded weights W' by path, `means` those of `input_means`; biases are changed in place.
    """
    corrected = 0
    for unit in units:
        if unit.bias is None or unit.path not in means or unit.path not in values:
            continue
        error = values[unit.path] - unit.layer.weight  # type: ignore[operator]
        unit.bias.sub_(unit.affine()[0] * sums_of_products(unit.layer, error, means[unit.path]))  # type: ignore[arg-type]
        corrected += 1
    return corrected


@torch.no_grad()
def correct_by_data(
    module: nn.Module,
    units: Sequence[Unit],
    values: Mapping[str, Tensor],
    batches: Sequence[Batch],
    mantissa_bits: int,
    progress: Callable[[float], None],
) -> int:
    """Take the difference of mean outputs of the rounded and the full weights off the bias of every unit, in order.

    Returns how many there are. `module` has the full weights, and is left as it is but for the biases, which are
    rounded to `mantissa_bits`, as in the file, so that the layers after them make up for that too.
    """
    rounded = deepcopy(module)
    for unit in units:
        layer = rounded.get_submodule(unit.path)
        if unit.path in values:
            layer.weight.copy_(values[unit.path])  # type: ignore[operator, union-attr]
    expected = _means(module, [unit.path for unit in units], batches)
    corrected = 0
    for number, unit in enumerate(units):
        progress(number / len(units))
        if unit.bias is None or unit.path not in expected:
            continue
        found = _means(rounded, [unit.path], batches, stop=True)[unit.path]
        unit.bias.sub_(unit.affine()[0] * (found - expected[unit.path]))
        unit.bias.copy_(rounded_mantissa(unit.bias, mantissa_bits))
        owner = rounded.get_submodule(unit.norm_path or unit.path)
        owner.bias.copy_(unit.bias)  # type: ignore[operator, union-attr]
        corrected += 1
    return corrected


def _means(module: nn.Module, paths: Sequence[str], batches: Sequence[Batch], stop: bool = False) -> dict[str, Tensor]:
    """Return the mean of each output channel of layers, without their batch norms, float32[rows]; by path."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(path: str, _given: Tensor, output: Tensor) -> None:
        channel = -1 if isinstance(module.get_submodule(path), nn.Linear) else 1
        by_row = output.movedim(channel, 0).flatten(1)
        sums[path] = sums.get(path, torch.zeros(len(by_row), dtype=torch.float64)) + by_row.sum(1, dtype=torch.float64)
        counts[path] = counts.get(path, 0) + by_row.shape[1]

    with watched(module, paths, see, stop) as run:
        for batch in batches:
            run(batch)
    return {path: (total / counts[path]).float() for path, total in sums.items()}
