"""The state of a training run in a file: written whole or not at all, and read only by the run it belongs to."""

import io
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from l2fmt.container.atomic import atomic_write, check_target
from l2fmt.errors import FileAccessError, InputError


class Checkpoint:
    """Keeps a dictionary of tensors and plain values at `path`, or nothing without a path.

    `identity` says which run it is: its weights, data, target and settings. Raises FileAccessError for a path that
    cannot be written.
    """

    def __init__(self, path: str | None, identity: str):
        self._path, self._identity = path, identity
        if path is not None:
            check_target(path, overwrite=True)  # better now than after the first minute

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was kept."""
        if self._path is None:
            return
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, buffer)
        with atomic_write(self._path, overwrite=True) as file:
            file.write(buffer.getbuffer())

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, or None; raise InputError for the file of another run, or what is none."""
        if self._path is None or not Path(self._path).exists():
            return None
        try:
            data = Path(self._path).read_bytes()
        except OSError as error:
            raise FileAccessError(f"{self._path}: cannot be read ({error.strerror or error})") from error
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if (damaged := archive.testzip()) is not None:  # torch does not look at the checksums
                    raise InputError(f"{self._path} is damaged: the checksum of {damaged} is wrong")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # torch lets any kind escape on damaged bytes
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(f"{self._path} is no checkpoint ({reason})") from error
        if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
            raise InputError(f"{self._path} is no checkpoint of a training run")
        if content.get("identity") != self._identity:
            reason = "the model, the data, the target or a setting differs"
            raise InputError(f"{self._path} belongs to another run ({reason}); remove it, or name another file")
        return content["state"]


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Within it the first Ctrl-C only sets the event that it yields, so that an update can end; a second interrupts.

    Outside the main thread, which alone gets signals, and under a handler of the caller's, nothing changes.
    """
    event = threading.Event()
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield event
        return

    def first(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
