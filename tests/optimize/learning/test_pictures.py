"""Shifted and mirrored pictures."""

import pytest
import torch

from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.learning.pictures import augmented


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(count: int = 64, height: int = 16, width: int = 24) -> torch.Tensor:
    """Pictures that tell where each pixel comes from; none is 0."""
    return (1 + torch.arange(3 * height * width).float()).reshape(1, 3, height, width).expand(count, -1, -1, -1)


def test_pictures_are_shifted_and_half_of_them_mirrored():
    x = ramp()
    shifts, mirrored = set(), 0
    for seed in range(40):
        (y,) = augmented(Batch((x,), {}, None), generator(seed)).args
        assert y.shape == x.shape and y.dtype == x.dtype
        for picture in y[:4]:
            inside = picture[0].flatten().nonzero()[0]
            line = picture[0].flatten()[inside : inside + 1]
            assert float(line) >= 1
        flipped = y[:, 0, 8, 11] > y[:, 0, 8, 12]
        mirrored += int(flipped.sum())
        straight = y[~flipped][0, 0]
        value = int(straight[8, 12]) - 1
        down, right = 8 - value // 24, 12 - value % 24
        assert abs(down) <= 3 and abs(right) <= 3
        assert float((straight == 0).float().mean()) == pytest.approx(1 - (16 - abs(down)) * (24 - abs(right)) / 384)
        shifts.add((down, right))
    assert len(shifts) > 15
    assert 0.4 < mirrored / (40 * 64) < 0.6


def test_the_generator_alone_decides():
    batch = Batch((ramp(),), {"more": ramp() * 2}, torch.arange(64))
    first, second, third = (augmented(batch, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.args[0], second.args[0]) and torch.equal(first.kwargs["more"], second.kwargs["more"])
    assert not torch.equal(first.args[0], third.args[0])
    assert first.labels is batch.labels


def test_what_is_no_picture_stays():
    others = (torch.rand(4, 1, 8, 8), torch.rand(4, 7), torch.randint(0, 255, (4, 3, 8, 8)), torch.rand(4, 3, 8))
    batch = Batch(others, {"mask": torch.ones(4, 5, dtype=torch.bool)}, None)
    result = augmented(batch, generator())
    assert all(a is b for a, b in zip(result.args, others, strict=True))
    assert result.kwargs["mask"] is batch.kwargs["mask"]


def test_pictures_are_not_written_to():
    x = ramp().clone()
    before = x.clone()
    augmented(Batch((x,), {}, None), generator(3))
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 12, 8), (2, 3, 8, 1), (2, 3, 4, 64), (2, 3, 64, 4)])
def test_narrow_pictures(shape):
    for seed in range(10):
        (y,) = augmented(Batch((torch.rand(shape),), {}, None), generator(seed)).args
        assert y.shape == shape and y.any()
