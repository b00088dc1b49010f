"""Folding and re-estimating the statistics of batch norms, and the student that runs on decoded weights."""

from copy import deepcopy
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch, CalibrationSet
from l2fmt.optimize.learning.quantizers import LinearQuantizer
from l2fmt.optimize.learning.student import (
    Student,
    fold_statistics,
    reestimate_statistics,
    round_statistics,
    rounded_mantissa,
    touched_rows,
    working_copy,
)
from l2fmt.transforms import round_mantissa

T = TypeVar("T", bound=nn.Module)

NORMS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


def randomized(module: T) -> T:
    """Give the norms statistics, scales and biases that are not where they begin."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.dim() == 1 and tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.data = drawn * 3 + 0.01 if name.endswith("running_var") else drawn * 4 - 2
    return module.eval()


def vectors_of(module: nn.Module) -> frozenset[str]:
    return frozenset(name for name, t in module.state_dict().items() if t.dim() == 1)


@pytest.mark.parametrize("dimensions", NORMS)
def test_folding_keeps_the_function(dimensions):
    convolution, norm = NORMS[dimensions]
    torch.manual_seed(0)
    module = randomized(nn.Sequential(convolution(2, 6, 2), norm(6), nn.ReLU(), convolution(6, 5, 1), norm(5, eps=0.3)))
    x = torch.randn(8, 2, *(4,) * dimensions)
    before, state = module(x), deepcopy(module.state_dict())
    changed = fold_statistics(module, vectors_of(module))
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-5)
    after = module.state_dict()
    assert list(after) == list(state)
    for name, tensor in state.items():
        assert after[name].shape == tensor.shape and after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor) == (name not in changed)
    assert set(changed) == {f"{i}.{key}" for i in (1, 4) for key in ("weight", "bias", "running_mean", "running_var")}
    assert all(torch.equal(changed[name], after[name]) for name in changed)
    assert not after["1.running_mean"].any() and (after["1.running_var"] == 1).all()
    again = fold_statistics(module, vectors_of(module))
    torch.testing.assert_close(again["1.weight"], after["1.weight"], rtol=1e-6, atol=0)
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-5)


def test_folding_a_norm_that_is_the_model():
    module = randomized(nn.BatchNorm1d(4))
    x = torch.randn(8, 4)
    before = module(x)
    assert set(fold_statistics(module, vectors_of(module))) == {"weight", "bias", "running_mean", "running_var"}
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_folded_is_left_alone():
    module = randomized(
        nn.Sequential(
            nn.BatchNorm1d(4, affine=False),
            nn.BatchNorm1d(4, track_running_stats=False),
            nn.BatchNorm1d(4),
            nn.LayerNorm(4),
            nn.GroupNorm(2, 4),
        )
    )
    state = deepcopy(module.state_dict())
    assert fold_statistics(module, vectors_of(module) - {"2.running_mean"}) == {}
    assert fold_statistics(module, frozenset()) == {}
    tied = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    tied[1].weight = tied[0].weight
    assert fold_statistics(tied, vectors_of(tied)) == {}
    assert all(torch.equal(t, state[name]) for name, t in module.state_dict().items())


def test_statistics_are_the_average_of_the_batches():
    torch.manual_seed(0)
    first, second = randomized(nn.BatchNorm1d(4)), randomized(nn.BatchNorm1d(4))
    linear, momentum = nn.Linear(3, 4), first.momentum
    module = nn.Sequential(linear, first, nn.ReLU(), second).eval()
    for norm in (first, second):
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.fill_(7)
    samples, weight = CalibrationSet.of(torch.randn(20, 3)), torch.randn(4, 3)
    batches = list(samples.in_order(10))
    before = deepcopy(module.state_dict())
    adjustable = vectors_of(module)
    assert reestimate_statistics(module, {"0.weight": weight}, batches, frozenset()) == {}
    assert reestimate_statistics(module, {"0.weight": weight}, batches, adjustable - {"1.running_var"}).keys() == {
        "3.running_mean",
        "3.running_var",
    }
    assert torch.equal(module.state_dict()["1.running_mean"], before["1.running_mean"])
    changed = reestimate_statistics(module, {"0.weight": weight}, batches, adjustable)
    assert set(changed) == {f"{i}.running_{what}" for i in (1, 3) for what in ("mean", "var")}
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in changed.items())

    inputs = [nn.functional.linear(b.args[0], weight, linear.bias) for b in batches]
    expected_mean = torch.stack([x.mean(0) for x in inputs]).mean(0)
    expected_var = torch.stack([x.var(0) for x in inputs]).mean(0)
    torch.testing.assert_close(first.running_mean, expected_mean)
    torch.testing.assert_close(first.running_var, expected_var)
    hidden = [nn.functional.batch_norm(x, None, None, first.weight, first.bias, True).relu() for x in inputs]
    torch.testing.assert_close(second.running_mean, torch.stack([x.mean(0) for x in hidden]).mean(0))
    assert first.momentum == momentum
    assert not any(m.training for m in module.modules())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("running" not in name)


def test_a_counter_at_zero_returns_too():
    module = nn.BatchNorm1d(3)
    batches = CalibrationSet.of(torch.randn(20, 3)).in_order(10)
    assert set(reestimate_statistics(module, {}, batches, vectors_of(module))) == {"running_mean", "running_var"}
    assert module.num_batches_tracked is not None and module.num_batches_tracked == 0


def test_statistics_that_stay_are_rounded():
    module = randomized(nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False)))
    before = deepcopy(module.state_dict())
    round_statistics(module, frozenset({"0.running_mean", "1.running_var", "0.weight"}), 6)
    for name, tensor in module.state_dict().items():
        rounded = name in ("0.running_mean", "1.running_var")  # parameters are rounded where they are used
        expected = torch.as_tensor(round_mantissa(before[name].numpy(), 6)) if rounded else before[name]
        assert torch.equal(tensor, expected) and torch.equal(tensor, before[name]) != rounded


def make_student(
    module: nn.Module, step: float = 0.1, vectors: tuple[str, ...] = (), aliases: dict[str, str] | None = None
) -> Student:
    weights = {n: p for n, p in module.named_parameters() if p.dim() > 1 and n not in (aliases or {})}
    quantizers = {name: LinearQuantizer(step=step) for name in weights}
    return Student(working_copy(module), weights, quantizers, dict.fromkeys(weights, step), vectors, 6, aliases or {})


def test_the_student_runs_on_what_a_file_decodes_to():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    student = make_student(module, vectors=("0.bias", "2.bias"))
    x = torch.randn(4, 5)
    output = student.run(Batch((x,), {}, None), student.decoded()[0])
    expected = deepcopy(module)
    with torch.no_grad():
        for tensor in expected.parameters():
            decoded = (tensor / 0.1).round() * 0.1 if tensor.dim() > 1 else round_mantissa(tensor.numpy(), 6)
            tensor.copy_(torch.as_tensor(decoded))
    torch.testing.assert_close(output, expected(x), rtol=1e-5, atol=1e-5)
    output.square().sum().backward()
    for leaf in (*student.weights.values(), *student.vectors.values()):
        assert leaf.grad is not None and leaf.grad.any()
    assert all(
        np.array_equal(q, np.rint(student.weights[n].detach().numpy() / np.float32(0.1)))
        for n, q in student.integers().items()
    )


def test_vectors_are_rounded_as_files_round_them():
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (20000,), generator=generator).to(torch.int32)
    ties = torch.arange(-300, 300, dtype=torch.int32) << 16
    values = torch.cat([words, ties, ties + 1, ties - 1]).view(torch.float32)
    values = values[values.abs() < 1e38]  # which leaves out what is not a number, too
    for bits in (2, 6, 10):
        expected = round_mantissa(values.numpy(), bits)
        assert rounded_mantissa(values, bits).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("in_module", [True, False])
def test_tied_weights_are_one(in_module):
    """Whether the module ties them or only the file that its weights come from."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 3)
            self.head = nn.Linear(3, 7, bias=False)
            if in_module:
                self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.words(x))

    student = make_student(Tied(), aliases={} if in_module else {"head.weight": "words.weight"})
    assert list(student.weights) == ["words.weight"]
    x = torch.arange(7)
    values = student.decoded()[0]
    torch.testing.assert_close(
        student.run(Batch((x,), {}, None), values), values["words.weight"] @ values["words.weight"].T
    )


def test_what_the_data_do_not_reach():
    module = nn.ModuleDict({name: nn.Linear(2, 8) for name in ("seen", "unused", "zero", "few")})
    student = make_student(module, vectors=("seen.bias", "unused.bias"))
    few = torch.zeros(8, 2)
    few[:3] = 1
    gradients = {
        **{"seen.weight": torch.ones(8, 2), "zero.weight": torch.zeros(8, 2), "few.weight": few, "unused.weight": None},
        **{"seen.bias": torch.ones(8), "unused.bias": None},
    }
    student.find_reached(gradients)
    assert student.reached == ["seen.weight", "few.weight"] and student.partly == ["few.weight"]
    assert list(student.vectors) == ["seen.bias"]


def test_rows_that_a_gradient_touches():
    dense = torch.zeros(4, 3, 2)
    dense[2, 1, 0] = -1
    assert touched_rows(dense).tolist() == [False, False, True, False]
    sparse = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([[0.5, 0.0]]), (3, 2), check_invariants=True)
    assert touched_rows(sparse).tolist() == [False, True, False]
    assert touched_rows(torch.tensor(2.0)).tolist() == [True] and touched_rows(torch.zeros(2)).tolist() == [False] * 2


def test_the_state_returns():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    first, second = (make_student(module, step, ("0.bias",)) for step in (0.1, 0.2))
    state = first.state()
    with torch.no_grad():
        for tensor in (*second.weights.values(), *second.vectors.values()):
            tensor.add_(1)
    kept = {key: tensor.clone() for key, tensor in second.state().items()}
    second.load_state(state)
    assert list(state) == list(kept)
    for key, tensor in second.state().items():
        assert torch.equal(tensor, state[key])
    with torch.no_grad():
        first.weights["0.weight"].add_(1)
    assert not torch.equal(first.state()["weight:0.weight"], state["weight:0.weight"])


def test_a_working_copy_shares_nothing():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).half().train()
    copy = working_copy(module)
    assert not any(m.training for m in copy.modules()) and all(m.training for m in module.modules())
    assert not any(p.requires_grad for p in copy.parameters()) and all(p.requires_grad for p in module.parameters())
    ours, theirs = copy.get_parameter("0.weight"), module.get_parameter("0.weight")
    assert ours.dtype == torch.float32 and theirs.dtype == torch.float16
    with torch.no_grad():
        ours.zero_()
    assert theirs.any()
