"""Batch norms folded into weights, ranges equalized between layers, high biases absorbed: the function stays the same.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), sections 4.1 and
4.1.3. Everything is changed in place, in the modules of the units.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2fmt.optimize.equalization.graph import Unit

_MOST_SWEEPS = 200
_SETTLED = 1e-3  # of the largest change of a scale in a sweep
_DEAD = 1e-6  # channels whose weights are smaller, relative to the largest of the layer, keep their scale
_DEVIATIONS = 3.0  # a channel with a mean so many deviations above zero is taken never to be negative


@torch.no_grad()
def fold(units: Sequence[Unit]) -> None:
    """Fold every batch norm into the weights before it, and note the mean and deviation of its outputs.

    Afterwards its weight and running variance are 1, its running mean is 0, and its bias is that of the layer: vectors
    of one value, which cost a file nothing, and a state dict of the same names.
    """
    for unit in units:
        if unit.norm is None:
            continue
        layer, norm = unit.layer, unit.norm
        unit.mean, unit.deviation = norm.bias.double(), norm.weight.double().abs()  # type: ignore[operator, union-attr]
        gain, offset = unit.affine()
        # The norm goes on dividing by sqrt(1 + eps), which a rounded weight of its own could not make up for.
        layer.weight.copy_(_by_row(gain, layer) * layer.weight * (1 + norm.eps) ** 0.5)  # type: ignore[operator, union-attr]
        if layer.bias is not None:
            layer.bias.zero_()  # type: ignore[operator]
        norm.bias.copy_(offset)  # type: ignore[operator, union-attr]
        norm.weight.fill_(1.0)  # type: ignore[operator, union-attr]
        norm.running_mean.zero_()  # type: ignore[operator, union-attr]
        norm.running_var.fill_(1.0)  # type: ignore[operator, union-attr]


@torch.no_grad()
def equalize(units: Sequence[Unit]) -> int:
    """Scale rows of layers, and columns of their successors back, until their ranges are equal; return how many pairs.

    For ranges r1 of a row and r2 of the columns that read it, the row is divided by sqrt(r1 / r2) (eq. 11): both then
    are sqrt(r1 r2). Pairs take turns until no scale changes, so that layers of a chain, such as those around a
    depthwise convolution, share the range of all. Only what every scale leaves exactly the same counts as a pair: no
    clipped activation, such as ReLU6, which the paper replaces, lies between.
    """
    pairs = [(unit, unit.successor) for unit in units if unit.successor is not None]
    for _ in range(_MOST_SWEEPS):
        change = 0.0
        for first, second in pairs:
            rows, columns = row_ranges(first.layer), _column_ranges(second.layer, first)
            alive = (rows > _DEAD * rows.max()) & (columns > _DEAD * columns.max())
            scales = torch.where(alive, (rows / columns).sqrt(), 1.0)
            _divide_rows(first, scales)
            weight = _columns(second.layer, first)
            weight.mul_(scales.to(weight).reshape(weight.shape[0], 1, weight.shape[2], 1))
            change = max(change, float(scales.log().abs().max()))
        if change < _SETTLED:
            break
    return len(pairs)


@torch.no_grad()
def absorb(units: Sequence[Unit]) -> None:
    """Move what a channel is never below, mean - 3 deviations, from its bias to the biases of the successor (eq. 12).

    Where a successor pads its inputs with zeros, or does not add a bias, the function would change: it is left alone.
    """
    for first in units:
        second = first.successor
        if second is None or first.mean is None or first.deviation is None or first.bias is None:
            continue
        padded = "pad" in first.following or any(getattr(second.layer, "padding", (0,)))
        if first.following.count("relu") != 1 or padded or second.bias is None:
            continue
        surplus = (first.mean - _DEVIATIONS * first.deviation).clamp(min=0)
        first.bias.sub_(surplus)
        first.mean.sub_(surplus)
        second.bias.add_(second.affine()[0] * sums_of_products(second.layer, second.layer.weight, surplus))  # type: ignore[arg-type]


def row_ranges(layer: nn.Module) -> Tensor:
    """Return the largest magnitude of each row of a layer's weight, float64[rows]."""
    return layer.weight.flatten(1).abs().amax(1).double()  # type: ignore[operator, union-attr]


def sums_of_products(layer: nn.Module, weight: Tensor, inputs: Tensor) -> Tensor:
    """Return what a weight of the layer's shape makes of constant inputs, [channels] or fewer; float64[rows].

    The columns of each channel, its kernel or places, share its input.
    """
    groups = getattr(layer, "groups", 1)
    weight = weight.double().reshape(groups, weight.shape[0] // groups, inputs.numel() // groups, -1).sum(3)
    return torch.einsum("grc,gc->gr", weight, inputs.double().reshape(groups, -1)).reshape(-1)


def _columns(layer: nn.Module, first: Unit) -> Tensor:
    """Return a view of a layer's weight, [groups, rows of a group, channels of a group, columns of a channel]."""
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    channels = first.layer.weight.shape[0] // groups  # type: ignore[operator, union-attr]
    return weight.view(groups, weight.shape[0] // groups, channels, -1)  # type: ignore[operator, union-attr, return-value]


def _column_ranges(layer: nn.Module, first: Unit) -> Tensor:
    return _columns(layer, first).abs().amax((1, 3)).reshape(-1).double()


def _divide_rows(unit: Unit, scales: Tensor) -> None:
    """Divide a unit's outputs by scales, float64[rows]."""
    unit.layer.weight.div_(_by_row(scales.float(), unit.layer))  # type: ignore[operator, union-attr]
    if unit.bias is not None:
        unit.bias.div_(scales.float())
    if unit.mean is not None and unit.deviation is not None:
        unit.mean.div_(scales)
        unit.deviation.div_(scales)


def _by_row(values: Tensor, layer: nn.Module) -> Tensor:
    return values.reshape(-1, *[1] * (layer.weight.dim() - 1))  # type: ignore[operator, union-attr]
