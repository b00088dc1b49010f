"""Share bits out among tensors: which of them gives up a bit next."""

import heapq
from collections.abc import Sequence

import numpy as np


def drop_order(losses: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """Return the tensors that give up one bit after another, until all have the fewest: the cheapest bit first.

    losses: float64[tensors, widths], of each tensor with the fewest bits, one more, and so on, in a unit that all
    tensors share. Bits are as many as a tensor has weights. Returns tensors * (widths - 1) indices.
    """
    widths = [losses.shape[1] - 1] * len(sizes)

    def price(tensor: int) -> float:
        after, before = losses[tensor, widths[tensor] - 1], losses[tensor, widths[tensor]]
        return float(after - before) / sizes[tensor]

    waiting = [(price(tensor), tensor) for tensor in range(len(sizes))] if losses.shape[1] > 1 else []
    heapq.heapify(waiting)
    order = []
    while waiting:
        _, tensor = heapq.heappop(waiting)
        order.append(tensor)
        widths[tensor] -= 1
        if widths[tensor] > 0:
            heapq.heappush(waiting, (price(tensor), tensor))
    return order


def bits_after(order: Sequence[int], tensors: int, most: int) -> np.ndarray:
    """Return the bits of each tensor, int64[tensors], when these of an order have given up theirs."""
    return most - np.bincount(np.asarray(order, np.int64), minlength=tensors)
