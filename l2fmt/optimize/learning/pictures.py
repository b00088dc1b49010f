"""Pictures shifted and mirrored, so that a thousand do for many."""

import torch
import torch.nn.functional as F

from l2fmt.inputs.calibration import Batch


def augmented(batch: Batch, generator: torch.Generator) -> Batch:
    """Return a batch whose pictures, float32 [N, 3, H, W], are shifted by up to an eighth and half of them mirrored.

    What moves in is 0, the mean of normalized pictures. Inputs that are no pictures stay as they are.
    """
    return Batch(
        tuple(_augmented(value, generator) for value in batch.args),
        {name: _augmented(value, generator) for name, value in batch.kwargs.items()},
        batch.labels,
    )


def _augmented(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if x.dim() != 4 or x.shape[1] != 3 or not x.is_floating_point():
        return x
    count, _, height, width = x.shape
    most = (height // 8, width // 8)
    down, right = (int(torch.randint(-n, n + 1, (), generator=generator)) for n in most)
    shifted = F.pad(x, (right, -right, down, -down))
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted)
