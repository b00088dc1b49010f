"""The distance between two models, and what is said of data that the model refuses."""

import pytest
import torch
from torch import nn

from l2fmt.errors import InputError
from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.learning.distillation import Teacher, distance, distillation_loss, label_loss


def test_the_distance_is_relative_to_the_variance():
    torch.manual_seed(0)
    theirs = torch.randn(50, 7) * 3 + 5
    noise = torch.randn(50, 7)
    expected = float(noise.square().mean() / theirs.var(correction=0))
    assert float(distance([theirs + noise], [theirs])) == pytest.approx(expected, rel=1e-4)
    assert float(distance([(theirs + noise) * 1e3], [theirs * 1e3])) == pytest.approx(expected, rel=1e-3)
    both = distance([theirs + noise, theirs], [theirs, theirs])
    assert float(both) == pytest.approx(expected / 2, rel=1e-4)
    assert float(distance([theirs], [theirs])) == 0
    assert torch.isfinite(distance([torch.ones(3)], [torch.zeros(3)]))


def test_blocks_and_outputs_add_up():
    a, b = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])
    of_final, of_block = distance([a], [b]), distance([b], [a])
    teacher = Teacher(nn.Linear(1, 1), ["x", "y", "no floats"])
    truth = ({"x": [a], "y": [a], "no floats": []}, [b])
    taps = {"x": [b], "y": [a], "no floats": []}
    assert float(distillation_loss(taps, a, truth, teacher, 0.0)) == float(of_final)
    expected = float(of_final) + 3 * float(of_block) / 2
    assert float(distillation_loss(taps, {"out": a}, truth, teacher, 3.0)) == pytest.approx(expected)
    teacher.heads = ["x"]
    expected = (float(of_final) + float(of_block)) / 2
    assert float(distillation_loss(taps, a, truth, teacher, 0.0)) == pytest.approx(expected)


def test_labels():
    logits, labels = torch.randn(6, 4), torch.arange(6) % 4
    expected = float(nn.functional.cross_entropy(logits, labels))
    assert float(label_loss((logits, None), labels)) == pytest.approx(expected)
    for wrong in (torch.arange(6), torch.arange(5) % 4, torch.zeros(6, 2)):
        with pytest.raises(InputError, match=r"labels do not fit: outputs \[6, 4\] and labels"):
            label_loss(logits, wrong)


class Picky(nn.Module):
    """Refuses its input in the way it is told to."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.layer, self.error = nn.Linear(3, 2), error

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None):
        if self.error is not None:
            raise self.error
        return x.long()


@pytest.mark.parametrize(
    "error",
    [kind("wrong width") for kind in (RuntimeError, ValueError, KeyError, AssertionError, ZeroDivisionError)],
    ids=lambda error: type(error).__name__,
)
def test_data_that_the_model_refuses(error):
    teacher = Teacher(Picky(error), [])
    words = r"cannot run on the calibration data, called as Picky\(float32\[4, 3\], mask=bool\[4\]\): .*wrong width"
    with pytest.raises(InputError, match=words):
        teacher.run(Batch((torch.rand(4, 3),), {"mask": torch.ones(4, dtype=torch.bool)}, None))


def test_an_argument_too_many_or_too_few():
    with pytest.raises(InputError, match=r"Linear\(float32\[4, 3\], float32\[4\]\): TypeError"):
        Teacher(nn.Linear(3, 2), []).run(Batch((torch.rand(4, 3), torch.rand(4)), {}, None))
    with pytest.raises(InputError, match="missing 1 required positional argument: 'input2'"):
        Teacher(nn.Bilinear(3, 3, 2), []).run(Batch((torch.rand(4, 3),), {}, None))


def test_a_model_without_outputs_to_compare():
    with pytest.raises(InputError, match=r"returns no floating-point tensor but int64\[4, 3\]"):
        Teacher(Picky(None), []).run(Batch((torch.rand(4, 3),), {}, None))


class Viewing(nn.Module):
    """Works with pictures whose memory is in the order of their dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(108, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.view(len(x), -1))


def test_pictures_are_made_contiguous_for_a_model_that_views_them():
    batch = Batch((torch.rand(4, 3, 6, 6),), {}, None)
    for module, expected in ((nn.Conv2d(3, 2, 3), torch.channels_last), (Viewing(), torch.contiguous_format)):
        teacher = Teacher(module, [])
        teacher.probe(batch)
        assert teacher.memory_format == expected
        teacher.run(batch.to(teacher.device, teacher.memory_format))


def test_the_teacher_leaves_no_gradients_and_no_hooks():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    taps, final = Teacher(model, ["0"]).run(Batch((torch.rand(4, 3),), {}, None))
    assert list(taps) == ["0"] and not taps["0"][0].requires_grad and not final[0].requires_grad
    assert not any(m._forward_hooks for m in model.modules())


def test_a_model_that_changes_its_parameters_has_no_heads():
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.layer.weight.clamp_(-1, 1)
            return self.layer(x).sigmoid()

    teacher = Teacher(Clamped().requires_grad_(False), ())
    teacher.probe(Batch((torch.randn(4, 3),), {}, None))
    assert teacher.heads == [] and not any(p.requires_grad for p in teacher.module.parameters())


@pytest.mark.parametrize(("with_heads", "heads"), [(True, ["0"]), (False, [])])
def test_heads_are_compared_unless_they_are_not_wanted(with_heads: bool, heads: list[str]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()).requires_grad_(False)
    teacher = Teacher(model, (), with_heads)
    teacher.probe(Batch((torch.randn(4, 3),), {}, None))
    assert teacher.heads == heads
