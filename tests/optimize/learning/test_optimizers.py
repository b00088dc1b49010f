"""Learning rates of vectors."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from l2fmt.optimize.learning.optimizers import vector_groups
from l2fmt.optimize.learning.settings import Settings


@pytest.mark.parametrize(
    ("vector", "typical"),
    [
        ([2.0, -2.0, 2.0, 2.0, -2.0, 1000.0], 2.0),  # a channel that hardly ever fires has no say
        ([0.0, 0.0, 0.0, 4.0], 1.0),  # no median: the mean
        ([0.0, 0.0], 1.0),
    ],
)
def test_vectors_move_in_proportion_to_their_median(vector: list[float], typical: float) -> None:
    student: Any = SimpleNamespace(vectors={"scale": nn.Parameter(torch.tensor(vector))})
    (group,) = vector_groups(Settings(vector_lr=0.25), student)
    assert group["peak"] == 0.25 * typical and group["params"][0] is student.vectors["scale"]
