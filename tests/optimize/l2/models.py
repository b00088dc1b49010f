"""Small models of all kinds, their data, and how `l2` compresses them in a few iterations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import l2fmt

SHORT: dict[str, Any] = {"rounds": 1, "transform_iterations": 0, "weight_iterations": 6, "batch_size": 16}


class Model(nn.Module):
    """A model that does what a function says with its layers."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def words(vocabulary: int, *shape: int) -> Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


def used(module: nn.Module, data: Tensor) -> nn.Module:
    """Give the norms statistics that are not where they begin."""
    module.train()
    for _ in range(20):
        module(data * 2 + 1)
    return module


def tied() -> nn.Module:
    model = Model(
        lambda m, x: m.head(torch.tanh(m.middle(m.words(x)))),
        words=nn.Embedding(90, 32),
        middle=nn.Linear(32, 32),
        head=nn.Linear(32, 90, bias=False),
    )
    model.head.weight = model.words.weight  # type: ignore[union-attr]
    return model


def with_table() -> nn.Module:
    model = Model(lambda m, x: m.head(m.words(x) + m.table), words=nn.Embedding(90, 32), head=nn.Linear(32, 32))
    model.register_buffer("table", drawn(5, 32))
    return model


PICTURES = drawn(40, 3, 8, 8)


ROWS = drawn(40, 64)


def convolutions() -> nn.Module:
    """Plain, grouped and depthwise convolutions."""
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.Conv2d(32, 64, 3, groups=4)]
    layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 1, bias=False)]
    return used(nn.Sequential(*layers, nn.BatchNorm2d(64)), PICTURES)


def normed(affine: bool = True) -> nn.Module:
    layers = [nn.Linear(64, 48), nn.BatchNorm1d(48, affine=affine), nn.ReLU()]
    return used(nn.Sequential(*layers, nn.Linear(48, 16), nn.BatchNorm1d(16, affine=affine)), ROWS)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 32))


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "convolutions": (convolutions, PICTURES),
    "1d": (lambda: used(nn.Sequential(nn.Conv1d(4, 64, 7), nn.BatchNorm1d(64)), drawn(40, 4, 12)), drawn(40, 4, 12)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 32, 3), nn.BatchNorm3d(32), nn.ReLU()), drawn(20, 2, 5, 5, 5)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 32, 3, 2), nn.ConvTranspose2d(32, 8, 3)), PICTURES),
    "tied": (tied, words(90, 40, 5)),
    "a table in a buffer": (with_table, words(90, 40, 5)),
    "an unused layer": (
        lambda: Model(lambda m, x: m.used(x), used=nn.Linear(64, 32), unused=nn.Linear(64, 32)),
        ROWS,
    ),
    "two outputs": (
        lambda: Model(lambda m, x: (m.a(x), {"b": m.b(x), "n": 3}), a=nn.Linear(64, 32), b=nn.Linear(64, 32)),
        ROWS,
    ),
    "named inputs": (
        lambda: Model(lambda m, *, left, right: m.a(left) + m.b(right), a=nn.Linear(64, 32), b=nn.Linear(32, 32)),
        {"left": ROWS, "right": drawn(40, 32)},
    ),
    "two inputs": (lambda: Model(lambda m, x, y: m.a(x) * y, a=nn.Linear(64, 64)), [((ROWS, ROWS), None)]),
    "GRU": (
        lambda: Model(lambda m, x: m.head(m.gru(x)[0]), gru=nn.GRU(16, 32, batch_first=True), head=nn.Linear(32, 16)),
        drawn(40, 6, 16),
    ),
    "LSTM": (lambda: Model(lambda m, x: m.lstm(x), lstm=nn.LSTM(16, 24, batch_first=True)), drawn(40, 6, 16)),
    "attention": (
        lambda: Model(lambda m, x: m.attention(x, x, x)[0], attention=nn.MultiheadAttention(32, 4, batch_first=True)),
        drawn(40, 6, 32),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 32, batch_first=True), 2),
        drawn(40, 6, 32),
    ),
    "float16": (lambda: perceptron().half(), ROWS),
    "bfloat16": (lambda: perceptron().bfloat16(), ROWS),
    "float64": (lambda: perceptron().double(), ROWS),
    "one sample": (perceptron, ROWS[:1]),
    "frozen": (lambda: perceptron().requires_grad_(False), ROWS),
}


def original_bytes(module: nn.Module) -> int:
    return sum(
        t.numel() * t.element_size() for t in {id(t): t for t in module.state_dict(keep_vars=True).values()}.values()
    )


def compressed(
    module: nn.Module, data: Any, ratio: float | None = None, options: Any = None, **more: Any
) -> l2fmt.PackResult:
    """Compress to a ratio, by default what makes a weight of any dtype about 5 bits and leaves room for headers."""
    if ratio is None:
        size = 8 * max(t.element_size() for t in module.parameters())
        ratio = size / 6.5
    return l2fmt.compress(module, data, target_ratio=ratio, method="l2", options={**SHORT, **(options or {})}, **more)
