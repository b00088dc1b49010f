"""The one shape every input has: named tensors, handed out one at a time."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Self

from torch import Tensor

from l2fmt.errors import MissingTensorError


class ModelSource(ABC):
    """Named tensors of a model, read lazily; a context manager that releases its files on exit.

    Attributes:
        origin: what messages call the input, such as its path.
        skipped: entries that are not tensors of the model and so are left out, each as "name (what it is)".
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.skipped: list[str] = []
        self.resources = ExitStack()

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all tensors, aliases included, in the order of the checkpoint."""

    @abstractmethod
    def get(self, name: str) -> Tensor:
        """Return one tensor: dense, contiguous, on the CPU, without gradient, of the dtype and shape as given.

        It may share memory with the input, so it must not be written to. Raises MissingTensorError.
        """

    @abstractmethod
    def tensor_nbytes(self, name: str) -> int:
        """Return the bytes of one tensor's elements, without reading them."""

    def aliases(self) -> dict[str, str]:
        """Return tied weights: each name to the first name with exactly the same memory, dtype, shape and strides."""
        return {}

    def metadata(self) -> dict[str, str]:
        """Return the free text the checkpoint carries about itself."""
        return {}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors as given, tied weights counted once: the numerator of the compression ratio."""
        aliases = self.aliases()
        return sum(self.tensor_nbytes(name) for name in self.names() if name not in aliases)

    def missing(self, name: str) -> MissingTensorError:
        """Build the error for a name that is not in this source."""
        return MissingTensorError(f"{self.origin}: there is no tensor {name!r}; it has {len(self.names())} others")

    def close(self) -> None:
        """Release files, memory maps and temporary copies."""
        self.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
