"""What a factor is by definition, whatever order it has its rows and columns in."""

import numpy as np

from l2fmt.optimize.second_order.factor import Factor


def natural(factor: Factor) -> np.ndarray:
    """Return the damped curvature in the order of the tensor, float64[groups, n, n]."""
    if factor.feedback is None:
        return factor.matrix[:, None] * np.eye(factor.matrix.shape[1])
    assert factor.order is not None
    given = np.argsort(factor.order, axis=1)
    return np.take_along_axis(np.take_along_axis(factor.matrix, given[:, :, None], 1), given[:, None], 2)
