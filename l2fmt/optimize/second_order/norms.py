"""Batch norms that cost little: statistics folded, scales rounded to parts of an octave while the function stays.

A batch norm multiplies what a convolution puts out. If its scale changes and a row of weights is divided by as much,
nothing else does. So scales take the nearest of few values, and weights, which are rounded anyway, what is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from l2fmt.errors import InputError
from l2fmt.optimize.base import Task
from l2fmt.optimize.equalization.graph import Unit, find_units, trace
from l2fmt.optimize.learning.student import fold_statistics, rounded_mantissa, working_copy
from l2fmt.optimize.second_order.scales import cheap_gains
from l2fmt.pipeline import QuantizedTensor, Size


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A task of a module that computes the same, with norms that cost less.

    vectors: those that differ from the model's, float32, by name; `task.measure` counts them.
    row_factors: what rows of weights were multiplied with, float32[rows], by the name of the weight.
    norms: names of the scales of norms that made up for it.
    """

    task: Task
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    row_factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    norms: frozenset[str] = frozenset()


@torch.no_grad()
def with_cheap_norms(task: Task, octaves: bool = True) -> Rescaled:
    """Fold the statistics of norms into their scales and biases and, with `octaves`, round these scales.

    Norms that do not alone read what a convolution puts out keep their scales, and so do all if a module cannot be
    traced.
    """
    calibration = task.calibration
    assert calibration is not None
    module = working_copy(calibration.module)
    changed = fold_statistics(module, calibration.vectors)
    factors: dict[str, np.ndarray] = {}
    norms = set()
    for unit in _pairs(module, task) if octaves else ():
        factors[f"{unit.path}.weight"] = _round_scales(unit, calibration.mantissa_bits).numpy(force=True)
        norms.add(f"{unit.norm_path}.weight")
        changed |= unit.vectors()
    vectors = {name: tensor.numpy(force=True).copy() for name, tensor in changed.items()}

    def measure(codes: Sequence[QuantizedTensor], _: object = None) -> Size:
        return task.measure(codes, vectors)

    tensors = [tensor.with_rows_times(factors.get(tensor.name)) for tensor in task.tensors]
    own = replace(task, tensors=tensors, calibration=replace(calibration, module=module), measure=measure)
    return Rescaled(own, vectors, factors, frozenset(norms))


def _pairs(module: nn.Module, task: Task) -> list[Unit]:
    """Return the convolutions with a norm of their own, whose statistics are folded."""
    assert task.calibration is not None
    try:
        graph = trace(module)
    except InputError:
        return []
    units = find_units(module, graph, task.names, task.calibration.vectors, task.calibration.aliases)
    return [unit for unit in units if unit.norm is not None and not isinstance(unit.layer, nn.Linear)]


def _round_scales(unit: Unit, mantissa_bits: int) -> Tensor:
    """Round the scales of a unit's norm, in place; return what its rows were multiplied with, float32[rows]."""
    weight: Tensor = unit.layer.weight  # type: ignore[assignment]
    scales: Tensor = unit.norm.weight  # type: ignore[union-attr, assignment]
    gains = cheap_gains(np.abs(scales.double().numpy(force=True)), weight[0].numel())
    rounded = rounded_mantissa(torch.from_numpy(gains), mantissa_bits).to(scales) * scales.sign()
    factor = torch.where(rounded != 0, scales / rounded, 1.0)
    scales.copy_(rounded)
    weight.mul_(factor.reshape(-1, *[1] * (weight.dim() - 1)))
    if unit.layer.bias is not None:
        unit.layer.bias.mul_(factor)  # type: ignore[operator]
    return factor
