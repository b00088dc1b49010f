"""What a layer's inputs are on average, without data: batch norms say what goes into the operations after them.

Outputs of a batch norm are taken to be normal, with its bias as mean and its weight as deviation; operations between
there and the next layer change these moments (Nagel et al. 2019, section 4.2.1, which does so for ReLU). Sums are taken
to be of independent terms, and normal again, which extends it to residual networks.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from l2fmt.optimize.equalization.graph import ACTIVATIONS, Unit, call, kind_of

_POINTS = 2001  # of the numerical expectation, over six deviations each way
_KEPT = frozenset({"same", "average", "mean", "flatten", "pad"})  # operations that keep the mean of each channel


class Moments(NamedTuple):
    """Mean and deviation of each channel, float64[channels]."""

    mean: Tensor
    deviation: Tensor


@torch.no_grad()
def input_means(module: nn.Module, units: Sequence[Unit]) -> dict[str, Tensor]:
    """Return the mean of each input channel, float64[channels], of the units of which the graph tells; by path."""
    ends = {unit.end: unit for unit in units}
    known: dict[Any, Moments] = {}
    for node in units[0].node.graph.nodes if units else ():
        unit = ends.get(node)
        if unit is not None and unit.mean is not None and unit.deviation is not None:
            known[node] = Moments(unit.mean, unit.deviation)
        elif (found := _after(node, known, module)) is not None:
            known[node] = found
    return {unit.path: known[unit.node.args[0]].mean for unit in units if unit.node.args[0] in known}


def after_activation(function: Callable[[Tensor], Tensor], given: Moments) -> Moments:
    """Return the moments of a function of normal variables, by the midpoint rule."""
    edges = torch.linspace(-6, 6, _POINTS + 1, dtype=torch.float64)
    points = ((edges[1:] + edges[:-1]) / 2)[:, None]
    weights = torch.exp(-points.square() / 2)
    weights = weights / weights.sum()
    values = function((given.mean + points * given.deviation).float()).double()
    mean = (weights * values).sum(0)
    return Moments(mean, (weights * (values - mean).square()).sum(0).sqrt())


def _after(node: fx.Node, known: dict[Any, Moments], module: nn.Module) -> Moments | None:
    """Return the moments of a node's output, or None where nothing is known of its inputs, or of what it does."""
    if not node.op.startswith("call") or not node.args:
        return None
    first = known.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    if node.target in (operator.add, operator.iadd, torch.add, "add", "add_") and len(node.args) == 2:
        second = known.get(node.args[1])
        fits = first is not None and second is not None and first.mean.shape == second.mean.shape
        return _sum(first, second) if fits else None  # type: ignore[arg-type]
    if node.target is torch.cat and (node.args[1:] == (1,) or node.kwargs == {"dim": 1}):
        parts = [known.get(part) for part in node.args[0]]  # type: ignore[union-attr]
        return None if None in parts else Moments(*(torch.cat(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]
    if first is None:
        return None
    if node.target is operator.getitem:
        index = node.args[1]
        every_channel = isinstance(index, tuple) and index[:2] == (slice(None), slice(None))
        return first if every_channel and not any(isinstance(i, int) for i in index) else None  # type: ignore[union-attr]
    kind = kind_of(node, module)
    if kind == "new channels":
        return Moments(*(F.pad(column, node.args[1][4:]) for column in first))  # type: ignore[arg-type, index]
    if kind in ACTIVATIONS:
        return after_activation(call(node, module), first)
    return first if kind in _KEPT else None


def _sum(first: Moments, second: Moments) -> Moments:
    return Moments(first.mean + second.mean, torch.hypot(first.deviation, second.deviation))
