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

    The order is one that error feedback along several paths does well in: what counts most comes first, as the last has
    nobody to make up for it, and what makes up for what just came comes soon, while paths still differ by it. What one
    counts is H_ii, alone, times 1 / (H^-1)_ii, with all others making up for it; what two make up for each other is the
    square of their partial correlation.
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
        turns = _turns(whole, inverse)
        both = torch.arange(len(turns), device=turns.device)[:, None, None], turns[:, :, None], turns[:, None]
        feedback = torch.linalg.cholesky(inverse[both], upper=True)
        return cls(whole[both].cpu().numpy(), feedback.cpu().numpy(), turns.cpu().numpy())

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
        return Factor(self.matrix * wide[:, :, None] * wide[:, None], self.feedback / wide[:, None], self.order)


def _turns(matrix: Tensor, inverse: Tensor) -> Tensor:
    """Return the order in which the rows and columns of matrices come, of which the inverse is known."""
    from l2fmt.optimize.second_order import _kernels

    alone, joined = matrix.diagonal(dim1=1, dim2=2), inverse.diagonal(dim1=1, dim2=2)
    closeness = (inverse.square() / (joined[:, :, None] * joined[:, None])).float()
    closeness.diagonal(dim1=1, dim2=2).zero_()
    counts = alone / joined
    counts = (counts / counts.amax(1, keepdim=True)).clamp(min=1e-12)
    turns = np.empty(counts.shape, np.int64)
    _kernels.take_turns(closeness.cpu().numpy(), counts.cpu().numpy(), turns)
    return torch.from_numpy(turns).to(matrix.device)


def _damped(matrix: Tensor, damping: float) -> Tensor:
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, mean.mean().clamp(min=1e-30))
    added = damping * mean[:, None] * torch.ones_like(matrix[:, 0])
    return matrix + torch.diag_embed(added.clamp(min=_DEAD * float(mean.mean())))
