"""One side of a layer's curvature, of its rows or of its columns, ready for error feedback."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DEAD = 1e-4  # of the mean: inputs that are hardly ever there, rows that hardly matter


@dataclass(frozen=True, eq=False)
class Factor:
    """A damped curvature of n rows or columns, float64[groups, n, n], or float64[groups, n] if it is diagonal.

    feedback: U, upper triangular with U^T U the inverse of the matrix, as error feedback needs it; `None` if that is
    diagonal.
    """

    matrix: np.ndarray
    feedback: np.ndarray | None

    @classmethod
    def of(cls, matrix: Tensor, damping: float, diagonal_damping: float) -> "Factor":
        """Return a factor with so many times the mean of its diagonal added to this."""
        if matrix.dim() == 2:
            mean = matrix.mean() if float(matrix.mean()) > 0 else torch.ones(()).to(matrix)
            return cls((matrix.clamp(min=_DEAD * float(mean)) + diagonal_damping * mean).cpu().numpy(), None)
        whole = _damped(matrix, damping)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(whole))
        return cls(whole.cpu().numpy(), torch.linalg.cholesky(inverse, upper=True).cpu().numpy())

    @property
    def diagonal(self) -> np.ndarray:
        """What an error of one row or column meets while no other makes up for it, float64[groups, n]."""
        return self.matrix if self.feedback is None else self.matrix.diagonal(axis1=1, axis2=2)

    @property
    def pivots(self) -> np.ndarray:
        """What an error meets that those after it make up for, float64[groups, n]."""
        return self.matrix if self.feedback is None else self.feedback.diagonal(axis1=1, axis2=2) ** -2.0

    def scaled(self, scales: np.ndarray) -> "Factor":
        """Return the factor of weights that are divided by scales, [groups or 1, n]."""
        wide = np.asarray(scales, np.float64)
        if self.feedback is None:
            return Factor(self.matrix * wide**2, None)
        return Factor(self.matrix * wide[:, :, None] * wide[:, None], self.feedback / wide[:, None])


def _damped(matrix: Tensor, damping: float) -> Tensor:
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, mean.mean().clamp(min=1e-30))
    added = damping * mean[:, None] * torch.ones_like(matrix[:, 0])
    return matrix + torch.diag_embed(added.clamp(min=_DEAD * float(mean.mean())))
