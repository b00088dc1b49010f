"""Forward passes that wait before the layers of a module, so that these can be changed before the passes go on.

What a layer meets depends on the layers before it. Where these change one after the other, starting anew for each of
them takes the square of their number; passes that wait call every layer once.
"""

from collections.abc import Callable, Iterable, Sequence
from threading import Semaphore, Thread, get_ident
from typing import Self

import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch

_AT_ONCE = 8  # passes that run at the same time


class _Ended(BaseException):
    """Unwinds a pass that nobody waits for any more; no error, so that modules that catch those let it through."""


class Pass:
    """One forward pass, which `lead` takes from layer to layer; made by `Passes.start`."""

    def __init__(self, module: nn.Module, batch: Batch, passes: dict[int, "Pass"]):
        self._aim, self._met, self._over = "", set[str](), False
        self._given: Tensor | None = None
        self._error: BaseException | None = None
        self._go, self._there = Semaphore(0), Semaphore(0)
        # A thread has the stack that a module's code needs to wait in the middle of it. It never runs by itself.
        self._thread = Thread(target=self._run, args=(module, batch, passes), daemon=True)
        self._thread.start()

    def _run(self, module: nn.Module, batch: Batch, passes: dict[int, "Pass"]) -> None:
        self._go.acquire()
        passes[get_ident()] = self
        try:
            if not self._over:
                torch.set_num_threads(1)  # of this pass: several of them run at once
                with torch.no_grad():
                    module(*batch.args, **batch.kwargs)
        except _Ended:
            pass
        except BaseException as error:  # raised where the pass is waited for
            self._error = error
        del passes[get_ident()]
        self._over = True
        self._there.release()

    def meet(self, path: str, given: Tensor) -> None:
        """Wait before a layer if it is the one that the pass is led to; called in the thread of the pass."""
        first = path not in self._met
        self._met.add(path)
        if first and path == self._aim:
            self._given = given
            self._there.release()
            self._go.acquire()
        if self._over:
            raise _Ended

    def go(self, path: str) -> None:
        """Let the pass run to the first call of a layer, unless it is there or beyond."""
        if path == self._aim:
            self._there.release()
            return
        self._aim, self._given = path, None
        (self._there if self._over or path in self._met else self._go).release()

    def wait(self) -> Tensor | None:
        """Wait until the pass is where it was let go to; return what it gives the layer, None if it is not there."""
        self._there.acquire()
        return self._given

    def check(self) -> None:
        """Raise what the module raised in the pass."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End the pass wherever it is."""
        self._over = True
        self._go.release()
        self._thread.join()


class Passes:
    """Passes through a module that can wait before the layers at `paths`; a context that ends them all."""

    def __init__(self, module: nn.Module, paths: Iterable[str]):
        self._module = module
        self._running: dict[int, Pass] = {}  # by thread
        self._started: list[Pass] = []
        self._handles = [
            module.get_submodule(path).register_forward_pre_hook(self._hook(path)) for path in dict.fromkeys(paths)
        ]

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def meet(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            current = self._running.get(get_ident())
            if current is not None and given:
                current.meet(path, given[0])

        return meet

    def start(self, batch: Batch) -> Pass:
        """Return a new pass, which waits before the first layer."""
        self._started.append(Pass(self._module, batch, self._running))
        return self._started[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for started in self._started:
            started.end()
        for handle in self._handles:
            handle.remove()


def lead(passes: Sequence[Pass], path: str) -> list[Tensor | None]:
    """Let passes run until they call a layer for the first time; return what each gives it.

    It is None for a pass that does not call the layer, or has called others that it was led to after it. Passes run
    on so many threads as torch has, each on one. Raises what the module raises.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    met: list[Tensor | None] = []
    try:
        for first in range(0, len(passes), min(threads, _AT_ONCE)):
            group = passes[first : first + min(threads, _AT_ONCE)]
            for one in group:
                one.go(path)
            met += [one.wait() for one in group]
            for one in group:
                one.check()
    finally:
        torch.set_num_threads(threads)
    return met
