"""Layers whose curvature is known: which module a weight belongs to, and the inputs that meet each of its rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHT_GRADIENTS = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}


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

    def overlaps(self, given: Tensor) -> bool:
        """Whether it is a convolution whose inputs overlap in what it is given, samples of their own."""
        module = self.module
        return isinstance(module, _CONVOLUTIONS) and max(module.kernel_size) > 1 and given.dim() == self._outer + 1

    def sample_gradients(self, given: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of a convolution's weight for each sample, float32[groups, samples, rows, columns].

        `gradient` is that of the output for what the layer is given. Samples become groups of one convolution, so that
        inputs that overlap, `places`, need not be copied.
        """
        module, count = self.module, given.shape[0]
        assert isinstance(module, _CONVOLUTIONS)
        x, y = _padded(given, module).float(), gradient.float()
        weights = _WEIGHT_GRADIENTS[len(module.kernel_size)](
            x.reshape(1, -1, *x.shape[2:]),
            torch.Size((count * module.out_channels, *module.weight.shape[1:])),
            y.reshape(1, -1, *y.shape[2:]),
            module.stride,  # type: ignore[arg-type]
            0,
            module.dilation,  # type: ignore[arg-type]
            count * module.groups,
        )
        return weights.reshape(count, module.groups, module.out_channels // module.groups, -1).transpose(0, 1)

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


def _padded(given: Tensor, module: nn.Module) -> Tensor:
    """Return what a convolution is given, with its padding."""
    padding = list(module._reversed_padding_repeated_twice)  # type: ignore[arg-type]
    if not any(padding):
        return given
    return F.pad(given, padding, mode="constant" if module.padding_mode == "zeros" else str(module.padding_mode))


def _patches(given: Tensor, module: nn.Module) -> Tensor:
    """Return a view [N, C, *out, *kernel] of what a convolution multiplies its kernels with."""
    dimensions = len(module.kernel_size)  # type: ignore[arg-type]
    x = _padded(given if given.dim() == dimensions + 2 else given.unsqueeze(0), module)
    sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)  # type: ignore[arg-type]
    for axis, (kernel, stride, dilation) in enumerate(sizes, start=2):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return x
