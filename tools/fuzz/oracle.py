"""What must hold for every input: a typed error or correct data, and the independent decoder thinks the same."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from l2fmt.container import Reader, limits
from l2fmt.container.opening import open_readers
from l2fmt.errors import FormatError, L2Error, LimitExceededError
from l2fmt.pipeline import decode_tensor
from l2fmt.report import verify
from tools import reference_decoder

T = TypeVar("T")

MEMORY = 1 << 14  # what both decoders take for the machine's, which bounds how much a file may decode to
_REFUSALS = (FormatError, OSError, MemoryError)  # FileAccessError is an OSError


class BrokenPromiseError(AssertionError):
    """What must hold for every input did not; the message says what."""


def check(kept: bool, promise: str) -> None:
    """Raise BrokenPromiseError unless a promise was kept."""
    if not kept:
        raise BrokenPromiseError(promise)


@contextlib.contextmanager
def small_machine() -> Iterator[None]:
    """Let the decoders believe that the machine has `MEMORY` bytes while the block runs."""
    with (
        mock.patch.object(limits, "physical_memory", lambda: MEMORY),
        mock.patch.object(reference_decoder, "MAX_DECODED_BYTES", MEMORY),
    ):
        yield


def attempt(call: Callable[[], T], refusals: tuple[type[Exception], ...] = _REFUSALS) -> T | Exception:
    """Return the result of a call, or the error if it is one of those promised; all others pass."""
    try:
        return call()
    except refusals as error:
        check(bool(str(error)) or isinstance(error, MemoryError), f"{type(error).__name__} says nothing")
        return error


def typed(call: Callable[[], T]) -> T | Exception:
    """Return the result of a call that may also refuse what its caller gave."""
    return attempt(call, (L2Error, OSError, MemoryError))


def is_read_alike(data: bytes) -> bool:
    """Check that a file is refused by both decoders or decodes to the same bytes; return whether it was decoded."""
    ours = attempt(lambda: _decoded(data))
    theirs = attempt(lambda: reference_decoder.decode(data), (reference_decoder.Refused,))
    return _alike(ours, theirs)


def are_shards_read_alike(path: Path) -> bool:
    """Check the same of an index of shards."""
    ours = attempt(lambda: _decoded(path))
    theirs = attempt(lambda: reference_decoder.decode_shards(path), (reference_decoder.Refused, OSError))
    return _alike(ours, theirs)


def _decoded(source: Any) -> reference_decoder.Model:
    """Return everything a model holds, after a check of every byte."""
    verify(source)
    model = reference_decoder.Model()
    for reader in open_readers(source, None):
        with reader:
            model.aliases |= reader.aliases
            model.tensors |= {name: _tensor(reader, name) for name in reader.tensors}
    return model


def _tensor(reader: Reader, name: str) -> reference_decoder.Tensor:
    entry = reader.tensors[name]
    return reference_decoder.Tensor(entry.dtype.name, entry.shape, decode_tensor(reader, name).tobytes())


def _alike(ours: reference_decoder.Model | Exception, theirs: reference_decoder.Model | Exception) -> bool:
    if _is_limit(ours) or _is_limit(theirs):
        return False  # limits are a reader's own
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        both = isinstance(ours, Exception) and isinstance(theirs, Exception)
        check(both, f"one decoder refuses, the other does not: {_shown(ours)}; reference {_shown(theirs)}")
        return False
    check(ours.tensors.keys() == theirs.tensors.keys(), "the decoders differ in the names of the tensors")
    check(ours.aliases == theirs.aliases, "the decoders differ in the aliases")
    for name, tensor in ours.tensors.items():
        check(tensor == theirs.tensors[name], f"the decoders differ in tensor {name!r}")
    return True


def _is_limit(outcome: object) -> bool:
    beyond = isinstance(outcome, LimitExceededError | MemoryError)
    return beyond or (isinstance(outcome, reference_decoder.Refused) and outcome.code == "limit")


def _shown(outcome: object) -> str:
    return f"{type(outcome).__name__} {outcome}" if isinstance(outcome, Exception) else "accepts"
