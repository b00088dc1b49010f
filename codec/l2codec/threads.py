"""Work spread over threads, with the result of doing it in order."""

import _thread
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from l2codec.float_mode import ieee_floats

T = TypeVar("T")
R = TypeVar("R")
Step = Callable[[], object]
Unit = Callable[[], tuple[Sequence[Step], Step]]
"""Work to be done: calling it begins, and returns steps in any order, by any threads, and the step after all these."""

_BEGIN, _LAST = -1, 1 << 62  # where beginning and the last step of a unit stand among its steps
_INTERRUPT = (-1, 0)  # before everything


def run(units: Iterable[Unit], threads: int) -> None:
    """Do all units in as many threads as `threads`, this one included; with one thread, in order.

    At most `threads` units have begun and are not done. If something fails, what comes before it in order is still
    done, nothing is begun any more, and, when no other thread is running, the first error in order is raised: the same
    for any number of threads. Floats are those of `ieee_floats`.
    """
    with ieee_floats():  # threads have the arithmetic of the one that starts them
        if threads > 1:
            _Pool(units, threads).run()
            return
        for begin in units:
            steps, last = begin()
            for step in steps:
                step()
            last()


def results(function: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Return what a function makes of each item, in order; up to `threads` threads share the items, as `run` says."""
    found: dict[int, R] = {}

    def step(number: int) -> None:
        found[number] = function(items[number])

    run([lambda: ([partial(step, number) for number in range(len(items))], lambda: None)], min(threads, len(items)))
    return [found[number] for number in range(len(items))]


class _Begun:
    """A unit at work: `left` steps, beginning included, are not done."""

    def __init__(self, number: int, begin: Unit):
        self.number, self.begin, self.left = number, begin, 1
        self.steps: Sequence[Step] = ()
        self.last: Step = begin


class _Pool:
    def __init__(self, units: Iterable[Unit], threads: int):
        self._units = enumerate(units)
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[tuple[_Begun, int]] = deque()
        self._unfinished = self._running = self._others = 0
        self._no_more_units = False
        self._place, self._error = (_LAST, 0), None

    def run(self) -> None:
        try:
            for _ in range(self._threads - 1):
                with self._changed, suppress(RuntimeError):  # the system gives no more threads: fewer do it
                    # Not `threading.Thread`, which waits until the thread runs: time in which this one could work.
                    _thread.start_new_thread(self._help, ())
                    self._others += 1
            self._work()
        except BaseException as error:  # an interrupt between two steps
            self._fail(_INTERRUPT, error)
        finally:
            with self._changed:
                while self._others:
                    self._changed.wait()
        if self._error is not None:
            raise self._error

    def _help(self) -> None:
        self._work()
        with self._changed:
            self._others -= 1
            self._changed.notify_all()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            unit, at = taken
            place = (unit.number, at)
            try:
                if at == _BEGIN:
                    self._begin(unit)
                else:
                    unit.steps[at]()
                if self._was_last_step(unit):
                    place = (unit.number, _LAST)
                    unit.last()
            except BaseException as error:
                self._fail(place if isinstance(error, Exception) else _INTERRUPT, error)
            with self._changed:
                self._running -= 1
                self._unfinished -= place[1] == _LAST
                self._changed.notify_all()

    def _take(self) -> tuple[_Begun, int] | None:
        """Return what to do next, or None when nothing is left; wait as long as what others do may bring more."""
        with self._changed:
            while self._place != _INTERRUPT:
                taken = None
                if not self._no_more_units and self._unfinished < self._threads:
                    taken = self._next_unit()
                while taken is None and self._waiting:
                    unit, at = self._waiting.popleft()
                    taken = (unit, at) if (unit.number, at) < self._place else None
                if taken is not None:
                    self._running += 1
                    return taken
                if not self._running:
                    break
                self._changed.wait()
            return None

    def _next_unit(self) -> tuple[_Begun, int] | None:
        for number, begin in self._units:
            self._unfinished += 1
            return _Begun(number, begin), _BEGIN
        self._no_more_units = True
        return None

    def _begin(self, unit: _Begun) -> None:
        unit.steps, unit.last = unit.begin()
        with self._changed:
            unit.left += len(unit.steps)
            self._waiting.extend((unit, at) for at in range(len(unit.steps)))
            self._changed.notify_all()

    def _was_last_step(self, unit: _Begun) -> bool:
        with self._changed:
            unit.left -= 1
            return not unit.left

    def _fail(self, place: tuple[int, int], error: BaseException) -> None:
        with self._changed:
            self._no_more_units = True
            if place < self._place:
                self._place, self._error = place, error
            self._changed.notify_all()
