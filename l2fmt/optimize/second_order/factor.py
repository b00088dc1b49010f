"""One side of a layer's curvature, of its rows or of its columns, ready for error feedback."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DEAD = 1e-4  # of the mean: inputs that are hardly ever there, rows that hardly matter


@dataclass(frozen=True, eq=False)
class Factor:
    """A damped curvature of n rows or columns, in the order in which they are rounded.

    matrix: float64[groups, n, n], or float64[groups, n] if it is diagonal.
    feedback: U, upper triangular with U^T U the inverse of the matrix, as error feedback needs it; `None` if that is
        diagonal.
    order: int64[groups, n], which row or column comes when; `None` if they come as they are.

    The last has nobody to make up for it and should matter least, the first should be made up for best. The product of
    all pivots is the determinant, whatever the order; errors of one step add up to the sum of them, which is least when
    they are alike. Descending products of what one counts alone, H_ii, and with all others making up for it,
    1 / (H^-1)_ii, come close to the order that a pivoted factorization finds at many times the price.
    """

    matrix: np.ndarray
    feedback: np.ndarray | None
    order: np.ndarray | None = None

    @classmethod
    def of(cls, matrix: Tensor, damping: float, diagonal_damping: float, by_importance: bool = True) -> "Factor":
        """Return a factor with so many times the mean of its diagonal added to this.

        Without `by_importance` rows or columns are rounded as they come.
        """
        if matrix.dim() == 2:
            mean = matrix.mean() if float(matrix.mean()) > 0 else torch.ones(()).to(matrix)
            return cls((matrix.clamp(min=_DEAD * float(mean)) + diagonal_damping * mean).cpu().numpy(), None)
        whole = _damped(matrix, damping)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(whole))
        if not by_importance:
            return cls(whole.cpu().numpy(), torch.linalg.cholesky(inverse, upper=True).cpu().numpy())
        return cls._in_turn(whole, inverse, torch.arange(whole.shape[1], device=whole.device).expand(len(whole), -1))

    @classmethod
    def _in_turn(cls, matrix: Tensor, inverse: Tensor, order: Tensor) -> "Factor":
        """Return the factor of a matrix, and its inverse, whose rows and columns are in an order, in a better one."""
        counts = matrix.diagonal(dim1=1, dim2=2) / inverse.diagonal(dim1=1, dim2=2)
        turns = counts.argsort(dim=1, descending=True, stable=True)
        both = torch.arange(len(turns), device=turns.device)[:, None, None], turns[:, :, None], turns[:, None]
        feedback = torch.linalg.cholesky(inverse[both], upper=True)
        return cls(matrix[both].cpu().numpy(), feedback.cpu().numpy(), order.gather(1, turns).cpu().numpy())

    def places(self, count: int) -> np.ndarray:
        """Return which of `count` rows or columns comes when, int64[groups or 1, count]."""
        return np.arange(count)[None] if self.order is None else self.order

    def as_given(self, values: np.ndarray) -> np.ndarray:
        """Return values [groups, n] that are in the order of rounding in that of the tensor."""
        result = np.empty_like(values)
        np.put_along_axis(result, self.places(values.shape[1]), values, 1)
        return result

    @property
    def diagonal(self) -> np.ndarray:
        """What an error of one row or column meets while no other makes up for it, float64[groups, n]."""
        return self.matrix if self.feedback is None else self.matrix.diagonal(axis1=1, axis2=2)

    @property
    def pivots(self) -> np.ndarray:
        """What an error meets that those after it make up for, float64[groups, n]."""
        return self.matrix if self.feedback is None else self.feedback.diagonal(axis1=1, axis2=2) ** -2.0

    def scaled(self, scales: np.ndarray) -> "Factor":
        """Return the factor of weights that are divided by scales, [groups or 1, n] in the order of the tensor."""
        wide = np.take_along_axis(np.asarray(scales, np.float64), self.places(scales.shape[1]), 1)
        if self.feedback is None:
            return Factor(self.matrix * wide**2, None)
        matrix, feedback = self.matrix * wide[:, :, None] * wide[:, None], self.feedback / wide[:, None]
        if self.order is None:
            return Factor(matrix, feedback)
        by_other = torch.from_numpy(feedback)
        return self._in_turn(
            torch.from_numpy(matrix), by_other.transpose(1, 2) @ by_other, torch.from_numpy(self.order)
        )


def _damped(matrix: Tensor, damping: float) -> Tensor:
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, mean.mean().clamp(min=1e-30))
    added = damping * mean[:, None] * torch.ones_like(matrix[:, 0])
    return matrix + torch.diag_embed(added.clamp(min=_DEAD * float(mean.mean())))
