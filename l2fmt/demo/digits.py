"""A digit classifier small enough to ship: its definition, its weights, and the images it never saw in training.

`tools/train_digits.py` made the weights; nothing here needs that script.
"""

from collections.abc import Mapping
from importlib.resources import as_file, files

import safetensors.torch
import torch
from torch import Tensor, nn

from l2fmt.errors import MissingDependencyError

CLASSES = 10
# Of each 18 consecutive images the first five are held out: 500 of 1,797, without a random generator.
HELD_OUT_PERIOD, HELD_OUT_RUN = 18, 5


class DigitsNet(nn.Module):
    """Classify images float32 [N, 1, 8, 8] with values 0..1 as logits [N, 10]; three convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, 32),
            _block(32, 64),
            nn.MaxPool2d(2),
            _block(64, 96),
        )
        self.classifier = nn.Linear(96, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def load_state() -> dict[str, Tensor]:
    """Load the trained weights that ship with the package."""
    with as_file(files("l2fmt.demo") / "digits.safetensors") as path:
        return safetensors.torch.load_file(path)


def held_out() -> tuple[Tensor, Tensor]:
    """Return the 500 images kept out of training, float32 [500, 1, 8, 8] in 0..1, and their labels, int64 [500].

    Raises MissingDependencyError without scikit-learn, whose package holds the images.
    """
    return split()[1]


def split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (images, labels) of the 1,297 training and of the 500 held-out digits, in the order of the data set."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError('the demo needs scikit-learn: pip install "l2fmt[demo]"') from error
    pixels, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 16.0).float().reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(digits).long()
    kept_out = torch.arange(len(labels)) % HELD_OUT_PERIOD < HELD_OUT_RUN
    return (images[~kept_out], labels[~kept_out]), (images[kept_out], labels[kept_out])


def accuracy(state_dict: Mapping[str, Tensor]) -> float:
    """Return the fraction of held-out digits that `DigitsNet` classifies correctly with these weights, 0..1."""
    model = DigitsNet()
    model.load_state_dict(state_dict)
    images, labels = held_out()
    with torch.inference_mode():
        predicted = model.eval()(images).argmax(dim=1)
    return (predicted == labels).float().mean().item()
