"""Adam for transforms, weights and vectors, with learning rates in units that suit each tensor."""

import math
from typing import Any

import torch

from l2fmt.optimize.learning.settings import Settings
from l2fmt.optimize.learning.student import Student


def cosine(share: float) -> float:
    """Return the learning rate, of its peak, when a share of the training is done."""
    return 0.5 * (1 + math.cos(math.pi * share))


def make_optimizers(settings: Settings, student: Student) -> dict[str, torch.optim.Adam]:
    """Return Adam for transforms and for weights with vectors; `peak` of a group is its largest learning rate."""
    transforms = [p for name in student.reached for p in student.quantizers[name].parameters()]
    weights = [
        {"params": [student.weights[name]], "peak": settings.weight_lr * student.units[name]}
        for name in student.reached
    ]
    groups = {
        "transforms": [{"params": transforms, "peak": settings.transform_lr}] if transforms else [],
        "weights": weights + vector_groups(settings, student),
    }
    return {kind: torch.optim.Adam(members) for kind, members in groups.items() if members}


def vector_groups(settings: Settings, student: Student) -> list[dict[str, Any]]:
    """Return the groups of the vectors; each changes in proportion to the median of its magnitudes.

    A few channels that hardly ever fire may have scales a hundred times the others', which a mean would follow.
    """
    result = []
    for vector in student.vectors.values():
        magnitudes = vector.detach().abs()
        typical = float(magnitudes.median()) or float(magnitudes.mean()) or 1.0
        result.append({"params": [vector], "peak": settings.vector_lr * typical})
    return result
