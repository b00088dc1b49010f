"""What goes into layers and comes out of them while a module runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch


class _Stop(Exception):
    """Ends a forward pass at the layer that was asked for."""


@contextmanager
def watched(
    module: nn.Module, paths: Sequence[str], see: Callable[[str, Tensor, Tensor], object], stop: bool = False
) -> Iterator[Callable[[Batch], None]]:
    """Yield a function that runs the module on a batch and calls `see(path, input, output)` for each layer named.

    With `stop` the module runs no further than the first of them.
    """

    def hook(path: str) -> Callable[..., None]:
        def seen(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if given:
                see(path, given[0], output)
            if stop:
                raise _Stop

        return seen

    def run(batch: Batch) -> None:
        with suppress(_Stop):
            module(*batch.args, **batch.kwargs)

    handles = [module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()
