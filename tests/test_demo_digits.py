"""The embedded demo model: small, accurate, and the same split for everyone."""

import sys
from importlib.resources import files

import pytest
import torch

from l2fmt.demo import digits
from l2fmt.errors import MissingDependencyError


def test_the_weights_are_small_and_fit_the_module() -> None:
    state = digits.load_state()
    assert (files("l2fmt.demo") / "digits.safetensors").read_bytes().__len__() < 1_000_000
    digits.DigitsNet().load_state_dict(state)


def test_held_out_images_are_not_in_the_training_set() -> None:
    pytest.importorskip("sklearn")
    (seen, seen_labels), (images, labels) = digits.split()
    assert (seen.shape, seen_labels.shape) == ((1297, 1, 8, 8), (1297,))
    assert (images.shape, labels.shape) == ((500, 1, 8, 8), (500,))
    assert (images.dtype, images.min().item(), images.max().item()) == (torch.float32, 0.0, 1.0)
    known = {image.numpy().tobytes() for image in seen}
    assert not any(image.numpy().tobytes() in known for image in images)


def test_the_shipped_weights_are_accurate() -> None:
    pytest.importorskip("sklearn")
    assert digits.accuracy(digits.load_state()) >= 0.985


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "l2fmt\[demo\]"'):
        digits.held_out()
