"""What a reader is willing to spend on a file (spec/container.md 7)."""

import os
from dataclasses import dataclass
from functools import cache

from l2fmt import _registry
from l2fmt.errors import LimitExceededError

_UNLIMITED = 1 << 64
_ASSUMED_MEMORY = 16 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds that a reader enforces before it allocates; `None` stands for the physical memory of the machine.

    `max_tensors` bounds each kind of entry of the index by itself: tensors, groups, streams, table sets, aliases,
    metadata and sections. `max_tensor_bytes` is the decoded size of a tensor, or of a group of tensors that are coded
    together, and also the most offsets that the class vectors of a group may have; `max_decoded_bytes` the size of all
    tensors, of all shards, and of what `unpack` writes where every alias gets a copy; `max_table_bytes` what all table
    sets take once expanded. A source that cannot seek is read into memory up to `max_decoded_bytes`. Change some with
    `dataclasses.replace`.

    To open a file takes at most five times the bytes of its inflated index and 2,000 bytes for each entry of it; to
    decode a group, its stored and decoded bytes, twice the decoded bytes if it has several tensors, a dozen bytes for
    each class offset, and the tables.
    """

    max_index_bytes: int = _registry.MAX_INDEX_BYTES
    max_inflated_index_bytes: int = _registry.MAX_INFLATED_INDEX_BYTES
    max_tensors: int = _registry.MAX_TENSORS
    max_table_bytes: int = _registry.MAX_TABLE_BYTES
    max_tensor_bytes: int | None = None
    max_decoded_bytes: int | None = None

    @classmethod
    def none(cls) -> "Limits":
        """Return limits that refuse nothing, for files from a trusted source."""
        return cls(*[_UNLIMITED] * 6)

    def allowed(self, field: str) -> int:
        """Return the value of a limit, with None resolved."""
        value = getattr(self, field)
        return physical_memory() if value is None else value

    def check(self, field: str, found: int, what: str) -> None:
        """Raise LimitExceededError if `found`, described by `what`, is above the limit called `field`."""
        if found > (allowed := self.allowed(field)):
            raise LimitExceededError(f"{what}: {found} is above the limit {field} = {allowed}", field)


@cache
def physical_memory() -> int:
    """Return the bytes of memory of this machine, or 16 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _ASSUMED_MEMORY
