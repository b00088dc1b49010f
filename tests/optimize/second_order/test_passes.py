"""Passes that wait before layers: what they meet, and how they end."""

import threading

import pytest
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.second_order.passes import Passes, lead


def batch_of(*values: float) -> Batch:
    return Batch((torch.tensor(values, dtype=torch.float32)[:, None],), {}, None)


def scale(factor: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, factor)
    return layer


@pytest.fixture
def module() -> nn.Sequential:
    return nn.Sequential(scale(2), nn.Sequential(scale(3), nn.ReLU()), scale(5)).requires_grad_(False)


def values(given: list[Tensor | None]) -> list[list[float] | None]:
    return [None if x is None else x.flatten().tolist() for x in given]


def test_passes_meet_layers_as_these_are_when_they_go_on(module):
    with Passes(module, ["0", "1.0", "2"]) as passes:
        early, late = passes.start(batch_of(1, -1)), passes.start(batch_of(4))
        assert values(lead([early], "0")) == [[1, -1]]
        module[0].weight.fill_(10)
        assert values(lead([early], "1.0")) == [[10, -10]]
        assert values(lead([early], "1.0")) == [[10, -10]]  # it is there already
        module[1][0].weight.fill_(7)
        assert values(lead([early, late], "2")) == [[70, 0], [280]]


def test_a_pass_that_is_not_led_to_a_layer_goes_by_it(module):
    with Passes(module, ["0", "1.0", "2"]) as passes:
        one = passes.start(batch_of(1))
        assert values(lead([one], "2")) == [[6]]
        assert values(lead([one], "1.0")) == [None]  # it is beyond
        assert values(lead([one], "2")) == [None]


def test_a_layer_that_is_never_called_ends_the_pass(module):
    module[1].add_module("unused", scale(1))
    module[1].forward = lambda x: x  # type: ignore[method-assign]
    with Passes(module, ["1.unused", "2"]) as passes:
        one = passes.start(batch_of(1))
        assert values(lead([one], "1.unused")) == [None]
        assert values(lead([one], "2")) == [None]


def test_only_the_first_of_several_calls_is_waited_for():
    shared = scale(2).requires_grad_(False)
    with Passes(nn.Sequential(shared, shared, scale(1)), ["0", "2"]) as passes:
        one = passes.start(batch_of(3))
        assert values(lead([one], "0")) == [[3]]
        assert values(lead([one], "2")) == [[12]]


def test_many_passes_on_several_threads_keep_apart(module):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with Passes(module, ["0", "1.0", "2"]) as passes:
            many = [passes.start(batch_of(i, i + 0.5)) for i in range(40)]
            for path, factor in (("0", 1), ("1.0", 2), ("2", 6)):
                assert values(lead(many, path)) == [[i * factor, (i + 0.5) * factor] for i in range(40)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_the_module_raises_is_raised_and_ends_no_other_pass(module):
    with Passes(module, ["0", "2"]) as passes:
        bad, good = passes.start(Batch((torch.zeros(2, 3),), {}, None)), passes.start(batch_of(1))
        lead([bad, good], "0")
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            lead([bad, good], "2")
        assert values(lead([good], "2")) == [[6]]


def test_all_threads_and_hooks_end_with_the_context(module):
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Passes(module, ["0", "1.0", "2"]) as passes:
        started = [passes.start(batch_of(1)) for _ in range(5)]
        lead(started[:3], "1.0")
        lead(started[:1], "2")
        assert threading.active_count() == before + 5
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert module(torch.ones(1, 1)).item() == 30


def test_a_module_that_catches_errors_does_not_keep_a_pass_from_ending():
    class Stubborn(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            try:
                return super().forward(input)
            except Exception:
                return input

    with Passes(Stubborn(scale(2), scale(3)).requires_grad_(False), ["1"]) as passes:
        lead([passes.start(batch_of(1))], "1")
