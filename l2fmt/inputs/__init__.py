"""What `pack` reads: checkpoints of other formats, and tensors in memory, as one kind of lazy source."""

from l2fmt.inputs.base import ModelSource
from l2fmt.inputs.opening import open_source

__all__ = ["ModelSource", "open_source"]
