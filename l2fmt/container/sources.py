"""Where the bytes of a file come from: a path, a buffer, a file object or a pipe, all read the same way."""

import contextlib
import io
import os
import stat
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from l2fmt.container.header import HEADER_BYTES, Header
from l2fmt.errors import (
    CorruptFileError,
    FileAccessError,
    InputError,
    L2Error,
    LimitExceededError,
    MissingFileError,
)

_CHUNK = 1 << 20
_MAX_READ = 1 << 30  # Linux reads at most 2 GiB at once


class ByteSource(ABC):
    """Random access to `size` bytes; `name` is what error messages call them. Safe to use from several threads."""

    name: str
    size: int

    def read(self, offset: int, length: int) -> np.ndarray:
        """Return those bytes as a new uint8 array, which later changes of the source do not reach.

        Raises CorruptFileError if the source ends before, FileAccessError if it cannot be read.
        """
        if offset + length > self.size:
            raise CorruptFileError(
                f"{self.name} has {self.size} bytes; bytes {offset} to {offset + length} are missing"
            )
        data = np.empty(length, np.uint8)
        with translate_os_errors(self.name, "read"):
            self._fill(data.data, offset)
        return data

    @abstractmethod
    def _fill(self, buffer: memoryview, offset: int) -> None:
        """Read bytes from `offset` on into all of `buffer`."""

    def close(self) -> None:  # noqa: B027  most sources have nothing to release
        """Release what was opened for the source; reading afterwards is an error."""


def open_source(source: Any, max_bytes: int) -> ByteSource:
    """Return a ByteSource for a path, a buffer (bytes, memoryview, mmap, ...) or a binary file object.

    `"-"` is standard input ("./-" is a file of that name). What cannot seek is read whole, up to `max_bytes`; a
    seekable file object is taken from its beginning. Raises FileAccessError, LimitExceededError or InputError.
    """
    if isinstance(source, ByteSource):
        return source
    if isinstance(source, str) and source == "-":
        return _read_stream(sys.stdin.buffer, "standard input", max_bytes)
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), max_bytes)
    try:
        with translate_os_errors("the data", "read"):
            return BufferSource(memoryview(source).cast("B"), "the data")
    except TypeError as error:  # no buffer, or one with gaps
        if hasattr(source, "read"):
            return _open_file_object(source, max_bytes)
        raise InputError(
            f"a source must be a path, a contiguous buffer or a binary file, not {type(source)}"
        ) from error


def _open_path(path: Any, max_bytes: int) -> ByteSource:
    with translate_os_errors(path, "read"):
        file = io.FileIO(path, "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return FileSource(file, os.fsdecode(path), owned=True)
        with file:
            return _read_stream(file, os.fsdecode(path), max_bytes)


def _open_file_object(file: Any, max_bytes: int) -> ByteSource:
    name = str(getattr(file, "name", None) or "the file object")
    with translate_os_errors(name, "read"):
        seekable = file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek")
    return FileSource(file, name, owned=False) if seekable else _read_stream(file, name, max_bytes)


def _read_stream(file: BinaryIO | io.RawIOBase, name: str, max_bytes: int) -> "BufferSource":
    """Read what cannot seek into memory: no further than one byte beyond the length that its header gives."""
    data = bytearray()
    with translate_os_errors(name, "read"):
        while len(data) < HEADER_BYTES and (chunk := _check_bytes(file.read(HEADER_BYTES - len(data)), name)):
            data += chunk
        length = Header.parse(bytes(data)).file_length
        if length > max_bytes:
            what = f"{name} cannot seek and has {length} bytes; it is read whole up to {max_bytes}"
            raise LimitExceededError(what, "max_decoded_bytes")
        while len(data) <= length and (chunk := _check_bytes(file.read(min(_CHUNK, length + 1 - len(data))), name)):
            data += chunk
    return BufferSource(memoryview(data), name)


def _check_bytes(data: object, name: str) -> bytes:
    if data is None:
        raise FileAccessError(f"{name} is not ready to be read")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"{name} must be opened in binary mode; reading gave {type(data)}")
    return bytes(data)


@contextlib.contextmanager
def translate_os_errors(
    path: Any, verb: str, kinds: tuple[type[Exception], ...] = (OSError, ValueError)
) -> Iterator[None]:
    """Raise errors of the operating system as FileAccessError (or MissingFileError) that names the path.

    `kinds` are by default OSError and ValueError, which a closed file or a NUL in a path raises.
    """
    name = os.fsdecode(path)
    try:
        yield
    except L2Error:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{name} does not exist") from error
    except kinds as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise FileAccessError(f"cannot {verb} {name}: {reason}") from error


class BufferSource(ByteSource):
    """Bytes in memory; copied when read, because their owner may change them meanwhile."""

    def __init__(self, data: memoryview, name: str):
        self.name, self.size, self._data = name, data.nbytes, data

    def _fill(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]

    def close(self) -> None:
        """Release the buffer, so that a memory map can be closed."""
        self._data.release()


class FileSource(ByteSource):
    """A seekable file: one opened here is read by position, one of the caller's under a lock."""

    def __init__(self, file: Any, name: str, *, owned: bool):
        self.name, self._file, self._owned = name, file, owned
        self._positional = owned and hasattr(os, "preadv")
        self._lock = threading.Lock()
        with translate_os_errors(name, "read"):
            self.size: int = file.seek(0, os.SEEK_END)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        read = self._read_at if self._positional else self._seek_and_read
        while buffer:
            if not (count := read(buffer[:_MAX_READ], offset)):
                raise CorruptFileError(f"{self.name} ended at byte {offset}; it had {self.size} bytes when opened")
            buffer, offset = buffer[count:], offset + count

    def _read_at(self, buffer: memoryview, offset: int) -> int:
        return os.preadv(self._file.fileno(), [buffer], offset)

    def _seek_and_read(self, buffer: memoryview, offset: int) -> int:
        with self._lock:
            self._file.seek(offset)
            chunk = _check_bytes(self._file.read(len(buffer)), self.name)
        if len(chunk) > len(buffer):
            raise FileAccessError(f"{self.name} returned more bytes than were asked for")
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self._owned:
            self._file.close()
