"""Make the system fail at a chosen call: kills, errors and short counts, in this process or in one forked for it."""

import builtins
import contextlib
import io
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from l2fmt.errors import L2Error

TYPED = (L2Error, OSError, MemoryError)
WRITTEN, REFUSED, BROKEN = 0, 10, 11  # how a child ends that was not killed
_CHANGES = ("open", "fsync", "replace", "unlink", "chmod", "mkdir", "rmdir")

Fault = Callable[[int], None]
"""Called before each system call with its number, counted from 0; it may raise, kill or do nothing."""
Read = Callable[[memoryview], int]
"""Reads into the beginning of a buffer and returns how many bytes."""


class BrokenPromiseError(AssertionError):
    """What must hold after every fault did not; the message says what, and after which fault."""


def check(kept: bool, promise: str, after: str) -> None:
    """Raise BrokenPromiseError unless a promise was kept."""
    if not kept:
        raise BrokenPromiseError(f"after {after}: {promise}")


def killed_at(at: int) -> Fault:
    """Kill this process, without a chance to clean up, before call number `at`."""

    def fault(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def failing_at(at: int, code: int) -> Fault:
    """Let call number `at` fail with an errno."""

    def fault(number: int) -> None:
        if number == at:
            raise OSError(code, os.strerror(code))

    return fault


class WritingCalls:
    """Counts the system calls by which Python changes files while the block runs, and puts a fault before each.

    Every write is short: it takes half of what it is given, so that faults find files cut at any place.
    """

    def __init__(self, fault: Fault | None = None):
        self.count, self._fault, self._patches = 0, fault, contextlib.ExitStack()

    def before_call(self) -> None:
        """Count a call and run the fault."""
        self.count += 1
        if self._fault is not None:
            self._fault(self.count - 1)

    def __enter__(self) -> "WritingCalls":
        for name in _CHANGES:
            self._patches.enter_context(mock.patch.object(os, name, self._counted(getattr(os, name))))
        opening = self._opening(io.open)
        self._patches.enter_context(mock.patch.object(io, "open", opening))
        self._patches.enter_context(mock.patch.object(builtins, "open", opening))
        return self

    def __exit__(self, *exception: object) -> None:
        self._patches.close()

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.before_call()
            return function(*args, **kwargs)

        return call

    def _opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = self

        class File(io.FileIO):
            def write(self, data: Any, /) -> int:
                calls.before_call()
                view = memoryview(data).cast("B")
                return super().write(view[: -(-len(view) // 2)])

        def call(file: Any, mode: str = "r", *args: Any, opener: Any = None, **kwargs: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wxa+"):
                return function(file, mode, *args, opener=opener, **kwargs)
            raw = File(file, mode.replace("b", ""), opener=opener)
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        return call


@contextlib.contextmanager
def reading_calls(reading: Callable[[int, memoryview, Read], int]) -> Iterator[list[int]]:
    """Let `reading(number, buffer, read)` stand for `os.preadv`, where `read` is the true call; yield all offsets."""
    original, offsets = os.preadv, []

    def call(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        offsets.append(offset)
        return reading(len(offsets) - 1, buffers[0], lambda part: original(descriptor, [part], offset))

    with mock.patch.object(os, "preadv", call):
        yield offsets


def in_child(work: Callable[[], object], watch: Callable[[int], None] | None = None) -> int:
    """Run `work` in a forked process and return how it ended: WRITTEN, REFUSED, BROKEN or minus a signal's number.

    `watch` is called here with the id of the process.
    """
    child = os.fork()
    if not child:
        ending = BROKEN
        try:
            work()
            ending = WRITTEN
        except TYPED:
            ending = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(ending)
    if watch is not None:
        watch(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
