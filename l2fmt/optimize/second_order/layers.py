"""Layers whose curvature is known: which module a weight belongs to, and the inputs that meet each of its rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight as a stack of matrices, [groups, rows, columns]: in each group `outputs = matrix @ inputs`."""

    name: str
    module: nn.Module

    @property
    def path(self) -> str:
        """The name of the module."""
        return self.name.rpartition(".")[0]

    @property
    def groups(self) -> int:
        """Number of groups of a convolution, 1 for other layers."""
        return self.module.groups if isinstance(self.module, _CONVOLUTIONS) else 1

    @property
    def geometry(self) -> tuple[object, ...]:
        """What makes rows of inputs of what the layer is given, beside that."""
        module = self.module
        if not isinstance(module, _CONVOLUTIONS):
            return ()
        return module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.padding_mode

    @property
    def is_table(self) -> bool:
        """Whether it is an embedding: its inputs choose rows."""
        return isinstance(self.module, nn.Embedding)

    def places(self, given: Tensor) -> Tensor:
        """Return a view of all inputs, [groups, samples, places of a sample, ...]; `...` flattens to the columns."""
        module = self.module
        if not isinstance(module, _CONVOLUTIONS):
            return given.reshape(1, given.shape[0], -1, given.shape[-1])
        patches = _patches(given, module)  # [N, C, *out, *kernel]
        dimensions = len(module.kernel_size)
        batch, channels, *places = patches.shape
        patches = patches.reshape(batch, module.groups, channels // module.groups, *places)
        order = (1, 0, *range(3, 3 + dimensions), 2, *range(3 + dimensions, 3 + 2 * dimensions))
        return patches.permute(order)

    def inputs(self, given: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, float]:
        """Return at most about `most` inputs as rows, [groups, n, columns], and how many each of them stands for."""
        places = self.places(given)
        outside = places.shape[1 : 1 + self._outer]
        count = outside.numel()
        if count <= most:
            return places.reshape(places.shape[0], count, -1), 1.0
        chosen = torch.randint(count, (most,), generator=generator).to(given.device)  # before the copy
        at = torch.unravel_index(chosen, outside)
        return places[(slice(None), *at)].reshape(places.shape[0], most, -1), count / most

    @property
    def _outer(self) -> int:
        """How many dimensions of `places`, after the groups, are samples and places."""
        return 1 + len(self.module.kernel_size) if isinstance(self.module, _CONVOLUTIONS) else 2  # type: ignore[arg-type]

    def outputs_by_row(self, output: Tensor) -> Tensor:
        """Return an output, or its gradient, as [rows of all groups, samples, places]."""
        channel = 1 if isinstance(self.module, _CONVOLUTIONS) else -1
        return output.movedim(channel, 0).flatten(2) if output.dim() > 2 else output.movedim(channel, 0)[..., None]


def find_layers(module: nn.Module, names: Iterable[str]) -> dict[str, Layer]:
    """Return the layers of those weights, by name, whose module is a convolution, a linear layer or an embedding."""
    found: dict[str, Layer] = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        try:
            owner = module.get_submodule(path)
        except AttributeError:
            continue
        if attribute == "weight" and isinstance(owner, (*_CONVOLUTIONS, nn.Linear, nn.Embedding)):
            found[name] = Layer(name, owner)
    return found


def _patches(given: Tensor, module: nn.Module) -> Tensor:
    """Return a view [N, C, *out, *kernel] of what a convolution multiplies its kernels with."""
    dimensions = len(module.kernel_size)  # type: ignore[arg-type]
    x = given if given.dim() == dimensions + 2 else given.unsqueeze(0)
    padding = list(module._reversed_padding_repeated_twice)  # type: ignore[arg-type]
    if any(padding):
        mode = "constant" if module.padding_mode == "zeros" else str(module.padding_mode)
        x = F.pad(x, padding, mode=mode)
    sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)  # type: ignore[arg-type]
    for axis, (kernel, stride, dilation) in enumerate(sizes, start=2):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return x
