"""Arrays that go to a device together, in one copy."""

import numpy as np

from l2codec.cuda.device import Device, Memory

_ALIGNMENT = 16


class Staging:
    """Arrays gathered for one copy to a device: until then each is known by its place, and no place is 0."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, np.ndarray]] = []
        self.size = _ALIGNMENT

    def add(self, array: np.ndarray | None) -> int:
        """Return the place of an array, 0 for None. What is in the array is read by `upload`, not before."""
        if array is None:
            return 0
        place = self.size
        self._parts.append((place, array))
        self.size = place + -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return place

    def upload(self, device: Device, memory: Memory) -> np.ndarray:
        """Copy everything to memory of `size` bytes; return what must be kept until `device.wait` returns."""
        host = device.staging(self.size)
        for place, array in self._parts:
            host[place : place + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        device.upload(memory.address, host)
        self._parts.clear()
        return host


def relocate(descriptors: np.ndarray, names: tuple[str, ...], base: int) -> None:
    """Turn places into addresses, in fields of descriptors: 0 stays 0, what is nowhere."""
    for name in names:
        field = descriptors[name]
        field[field != 0] += np.uint64(base)
