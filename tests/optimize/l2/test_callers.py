"""Models, data and callers that training has to get along with, and those that it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l2fmt
from l2fmt.errors import InputError, TargetError
from tests.optimize.l2.models import PICTURES, ROWS, SHORT, Model, compressed, drawn, perceptron


def test_the_random_state_of_the_caller_stays(nearest):
    torch.manual_seed(0)
    module = perceptron()
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    before_numpy = np.array(before_numpy)
    compressed(module, ROWS)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # type: ignore[index]


def flattening(convolution: bool) -> nn.Module:
    if convolution:
        return Model(lambda m, x: m.head(m.conv(x).view(len(x), -1)), conv=nn.Conv2d(3, 8, 3), head=nn.Linear(288, 8))
    return Model(lambda m, x: m.head(x.view(len(x), -1)), head=nn.Linear(192, 32))


@pytest.mark.parametrize("convolution", [True, False])
def test_models_that_view_their_inputs(convolution, nearest):
    torch.manual_seed(0)
    module = flattening(convolution)
    module(PICTURES)
    compressed(module, PICTURES)


def test_narrow_pictures(nearest):
    compressed(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1)), drawn(40, 3, 4, 64))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients(context, nearest):
    torch.manual_seed(0)
    module = perceptron()
    expected = compressed(module, ROWS).data
    with context():
        assert compressed(module, ROWS).data == expected
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def untrainable(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.layer(x)  # type: ignore[operator]


def refusing(module: nn.Module, x: Tensor) -> Tensor:
    assert x.shape[1] == 65, "a width of 65 is needed"
    return x


def remembering() -> nn.Module:
    module = Model(lambda m, x: m.layer(x), layer=nn.Linear(64, 64))
    module.last = module(ROWS)
    return module


@pytest.mark.parametrize(
    ("make", "options", "found"),
    [
        (lambda: Model(lambda m, x, mask: m.layer(x), layer=nn.Linear(64, 64)), {}, "missing 1 required .*'mask'"),
        (lambda: nn.Linear(32, 64), {}, r"called as Linear\(float32\[16, 64\]\)"),
        (lambda: Model(lambda m, x: m.layer(x).argmax(1), layer=nn.Linear(64, 64)), {}, "no floating-point tensor"),
        (perceptron, {"blocks": ["0", "7"]}, "no module '7'"),
        (
            *(lambda: Model(lambda m, x, mask: m.layer(x), layer=nn.Linear(64, 64)), {"reestimate_statistics": True}),
            "missing 1 required .*'mask'",
        ),
        (lambda: Model(refusing, layer=nn.Linear(64, 64)), {}, "a width of 65 is needed"),
        (lambda: Model(untrainable, layer=nn.Linear(64, 64)), {}, "have no gradient"),
        (lambda: Model(lambda m, x: x * 2, layer=nn.Linear(64, 64)), {}, "have no gradient"),
        (lambda: Model(lambda m, x: m.layer(x) - torch.inf, layer=nn.Linear(64, 64)), {}, "not finite"),
        (remembering, {}, "the Model cannot be copied, as training needs"),
        (perceptron, {"label_weight": 1.0}, "asks for labels, and the calibration data have none"),
        (perceptron, {"vector_lr": 1e30}, "training diverged: .* try lower learning rates"),
    ],
)
def test_models_and_settings_that_cannot_be_used(make, options, found):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=found):
        compressed(make(), ROWS, 5, options)


def test_budgets_that_cannot_be_used():
    module = perceptron()
    with pytest.raises(InputError, match="trains to a size: give a target ratio, or bits"):
        l2fmt.pack(module, method="l2", calibration=ROWS, options=SHORT)
    with pytest.raises(InputError, match="trains to a size"):
        l2fmt.compress(module, ROWS, max_error=0.01, method="l2", options=SHORT)
    for ratio in (1000, 1.01):
        with pytest.raises(TargetError, match=r"cannot be reached|less than the .* asked for"):
            compressed(module, ROWS, ratio)
    budgets: list[dict[str, Any]] = [{"target_ratio": 4}, {"bits": 4}, {}]
    for budget in budgets:
        with pytest.raises(TargetError, match="nothing to quantize"):
            l2fmt.compress(nn.LayerNorm(64), ROWS, method="l2", options=SHORT, **budget)
