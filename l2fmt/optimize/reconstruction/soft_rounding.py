"""Whether each weight is rounded down or up, learned from the outputs of its layer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020), sections 3.2 to 3.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from l2fmt.optimize.reconstruction.samples import Site

_STRETCH_HIGH, _STRETCH_LOW = 1.1, -0.1  # zeta and gamma: a rectified sigmoid reaches 0 and 1
_BETA_FIRST, _BETA_LAST = 20.0, 2.0
_WARM_UP = 0.2  # of the iterations, without the regularizer


@dataclass(frozen=True)
class Schedule:
    """How rounding is learned: iterations of so many inputs each, the rate of Adam, and the regularizer's weight."""

    iterations: int
    batch: int
    rate: float
    regularizer: float


def rectified_sigmoid(variables: Tensor) -> Tensor:
    """Return h(V), how far each weight is rounded up, in [0, 1] (eq. 23)."""
    return (torch.sigmoid(variables) * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW).clamp(0, 1)


def learn_rounding(
    site: Site,
    inputs: Tensor,
    weight: Tensor,
    step: float,
    limits: tuple[int, int],
    schedule: Schedule,
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> Tensor:
    """Return real codes of a weight, [groups, rows, columns], whose nearest integers are the rounding learned.

    Minimises the squared distance of the site's outputs for `inputs` from its targets (eq. 25), plus the regularizer
    that drives h(V) to 0 or 1 (eq. 24). A code is the lower of a weight's two neighbours plus the sigmoid of V, so that
    what is least decided lies nearest the border. If rounding to the nearest serves the outputs better, the real codes
    are those of the weights. Codes lie within `limits`.
    """
    low, high = limits
    real = weight / step
    floor = real.floor()
    fraction = (real - floor).clamp(0, 1)
    started = -torch.log((_STRETCH_HIGH - _STRETCH_LOW) / (fraction - _STRETCH_LOW) - 1)
    variables = started.requires_grad_()
    optimizer = torch.optim.Adam([variables], schedule.rate)
    warm = int(schedule.iterations * _WARM_UP)
    for iteration in range(schedule.iterations):
        progress(iteration / schedule.iterations)
        chosen = torch.randint(len(site.targets), (schedule.batch,), generator=generator)
        up = rectified_sigmoid(variables)
        outputs = site.outputs(inputs[:, chosen], (floor + up).clamp(low, high) * step)
        loss = (outputs - site.targets[chosen]).square().sum(1).mean()
        if iteration >= warm:
            done = (iteration - warm) / (schedule.iterations - warm)
            beta = _BETA_LAST + (_BETA_FIRST - _BETA_LAST) * (1 + cos(pi * done)) / 2
            loss = loss + schedule.regularizer * (1 - (2 * up - 1).abs() ** beta).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = (floor + torch.sigmoid(variables.detach())).clamp(low, high)
    nearest = real.clamp(low, high)
    return min((nearest, learned), key=lambda codes: layer_loss(site, inputs, codes.round() * step))


@torch.no_grad()
def layer_loss(site: Site, inputs: Tensor, weight: Tensor) -> float:
    """Return the mean squared distance of a site's outputs from its targets, summed over rows."""
    total = 0.0
    for part, targets in zip(inputs.split(4096, 1), site.targets.split(4096), strict=True):
        total += float((site.outputs(part, weight) - targets).square().sum(dtype=torch.float64))
    return total / len(site.targets)
