"""Tensors of PyTorch that a GPU decodes: compressed bytes go to it, and what is decoded never leaves it.

All work is on torch's current stream of the device, and all memory is torch's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2codec.cuda.device import Device
from l2fmt.container import Limits, Reader
from l2fmt.container.entries import Group
from l2fmt.errors import MissingDependencyError, UnsupportedError
from l2fmt.memory import allocate, torch_dtype
from l2fmt.pipeline.decode import check_limits
from l2fmt.pipeline.on_device import Target, decode_groups
from l2fmt.store import Framework, Store


@dataclass(frozen=True)
class Place:
    """Where tensors are made: a device of torch, and a function that returns it as the codec sees it, with the stream
    that is torch's current one at that moment.
    """

    device: torch.device
    open: Callable[[], Device]


def gpu(device: torch.device) -> Place:
    """Return a CUDA device as a place.

    Raises UnsupportedError if there is no such device, MissingDependencyError without CuPy.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UnsupportedError(
            f"device {str(device)!r}: torch {torch.__version__} finds no CUDA device; device='cpu' decodes on the CPU"
        )
    number = torch.cuda.current_device() if device.index is None else device.index
    if number >= count:
        raise UnsupportedError(f"device {str(device)!r}: there are {count} CUDA devices, the first of them cuda:0")
    try:
        from l2codec.cuda._cupy import CupyDevice
    except ImportError as error:
        raise MissingDependencyError(
            f"decoding on a GPU needs CuPy ({error}): pip install 'l2fmt[cuda13]' for CUDA 13, 'l2fmt[cuda12]' for "
            "CUDA 12; device='cpu' decodes on the CPU"
        ) from error
    chosen = torch.device("cuda", number)

    def open_device() -> Device:
        stream = torch.cuda.current_stream(chosen).cuda_stream
        return CupyDevice(number, stream, lambda nbytes: TensorMemory(nbytes, chosen))

    return Place(chosen, open_device)


class TensorMemory:
    """Memory of torch's allocator, for work on the stream that was current when it was made."""

    def __init__(self, nbytes: int, device: torch.device):
        self._tensor = allocate((nbytes,), torch.uint8, device, f"{nbytes} bytes of scratch memory")

    @property
    def address(self) -> int:
        return self._tensor.data_ptr()


class DeviceStore(Store[Tensor]):
    """A `Store` whose tensors a GPU decodes to its own memory; `threads` are those that read the file."""

    def __init__(
        self,
        source: Any,
        framework: Framework[Tensor],
        place: Place,
        *,
        limits: Limits | None = None,
        threads: int | None = None,
    ):
        super().__init__(source, framework, limits=limits, threads=threads)
        self._place = place
        self._last: tuple[tuple[Reader, int], dict[str, Tensor]] | None = None  # tensors of a shared group

    def get(self, name: str) -> Tensor:
        """Decode one tensor into memory of its own; the group it may share with others is kept for the next call."""
        reader, entry = self._reader(name), self.entry(name)
        key, last = (reader, entry.group), self._last
        if last is None or last[0] != key:
            last = key, self._decode_groups([key])[0]
            if len(last[1]) > 1:
                self._last = last
        tensor = last[1][entry.name]
        return self.framework.finish(tensor.clone() if len(last[1]) > 1 else tensor, entry)

    def get_all(self) -> dict[str, Tensor]:
        """Decode every tensor once; an alias is the same object as its tensor."""
        groups = [(reader, number) for reader in self.readers for number in range(len(reader.index.groups))]
        decoded = {name: tensor for tensors in self._decode_groups(groups) for name, tensor in tensors.items()}
        finished = {name: self.framework.finish(decoded.pop(name), self.entry(name)) for name in list(decoded)}
        aliases = self.aliases
        return {name: finished[aliases.get(name, name)] for name in self.names()}

    def close(self) -> None:
        """Release the files."""
        super().close()
        self._last = None

    def _decode_groups(self, groups: Sequence[tuple[Reader, int]]) -> list[dict[str, Tensor]]:
        """Return the tensors of each group by name, in new memory."""
        described = [reader.index.groups[number] for reader, number in groups]
        for (reader, _), group in zip(groups, described, strict=True):
            check_limits(reader, group)
        memory = [_memory_of(group, self._place.device) for group in described]
        targets = [Target(*key, tensor.data_ptr()) for key, tensor in zip(groups, memory, strict=True)]
        decode_groups(targets, self._place.open(), self._useful_threads(sum(group.nbytes for group in described)))
        return [_tensors(group, tensor) for group, tensor in zip(described, memory, strict=True)]


def _memory_of(group: Group, device: torch.device) -> Tensor:
    """Return the one tensor of a group, or the bytes of all of them."""
    dtypes = [torch_dtype(entry) for entry in group.tensors]
    if len(dtypes) == 1:
        return allocate(group.tensors[0].shape, dtypes[0], device, f"{group.label} takes {group.nbytes} bytes")
    return allocate((group.nbytes,), torch.uint8, device, f"{group.label} take {group.nbytes} bytes")


def _tensors(group: Group, memory: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a group. Those that were coded together are small: each is copied to memory of its own."""
    if len(group.tensors) == 1:
        return {group.tensors[0].name: memory}
    parts = memory.split([entry.nbytes for entry in group.tensors])
    return {
        entry.name: part.clone().view(torch_dtype(entry)).view(entry.shape)
        for entry, part in zip(group.tensors, parts, strict=True)
    }
