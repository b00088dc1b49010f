"""Statistics of batch norms: found anew, folded or left as they are."""

import pytest
import torch

import l2fmt
from tests.optimize.l2.models import ROWS, compressed, normed


@pytest.mark.parametrize(
    ("fold", "vectors", "keep"),
    [
        (True, "rounded", []),
        (True, "uniform", []),
        (False, "rounded", []),
        (False, "uniform", []),
        (True, "rounded", ["1.*"]),
    ],
)
def test_new_statistics_reach_the_file(fold, vectors, keep, seen):
    torch.manual_seed(0)
    module = normed()
    options = {"reestimate_statistics": True, "fold_statistics": fold, "vectors": vectors}
    result = compressed(module, ROWS, 5, options, keep=keep)
    assert seen.distance(module, ROWS, result) < 1e-5


@pytest.mark.parametrize("vectors", ["rounded", "uniform"])
def test_new_statistics_change_the_norms(vectors, nearest):
    torch.manual_seed(0)
    module = normed()
    before, after = (
        l2fmt.load(compressed(module, ROWS, 4, {"vectors": vectors, "reestimate_statistics": new}).data or b"")[
            "1.bias"
        ]
        for new in (False, True)
    )
    assert float((after - before).abs().mean()) > 0.1 * float(before.abs().mean())


@pytest.mark.parametrize("affine", [True, False])
def test_statistics_that_stay_are_rounded_in_training_too(affine, seen):
    torch.manual_seed(0)
    module = normed(affine)
    result = compressed(module, ROWS, 5, {"fold_statistics": not affine})
    assert seen.distance(module, ROWS, result) < 1e-5
