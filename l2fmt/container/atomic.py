"""Writes files so that a target holds either its old content or the whole new one (spec/security.md 4)."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from l2fmt.container.sources import translate_os_errors
from l2fmt.errors import FileAccessError, TargetExistsError


def check_target(path: Any, *, overwrite: bool) -> None:
    """Raise TargetExistsError if `path` is a file that must not be replaced, FileAccessError if it cannot be written.

    That is, if it is a directory, or its folder does not exist or takes no files.
    """
    name = os.fsdecode(path)
    if not name:
        raise FileAccessError("cannot write to a path without a name")
    with translate_os_errors(path, "write"):
        mode = _mode(path)
        if mode is not None and stat.S_ISDIR(mode):
            raise FileAccessError(f"{name} is a directory")
        if mode is not None and stat.S_ISREG(mode) and not overwrite:
            raise TargetExistsError(f"{name} exists; overwriting it was not asked for")
        if not os.path.isdir(folder := os.path.dirname(os.path.realpath(name))):
            raise FileAccessError(f"cannot write {name}: there is no folder {folder}")
        if (mode is None or stat.S_ISREG(mode)) and not os.access(folder, os.W_OK):
            raise FileAccessError(f"cannot write {name}: nothing can be written to the folder {folder}")


@contextlib.contextmanager
def atomic_write(path: Any, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block ends, and leaves no trace when it raises.

    The bytes are written beside the target (that of a symbolic link) under a random name, flushed to disk and renamed.
    A process that is killed meanwhile leaves them behind as `.l2fmt-*.tmp`, which nothing reads and anyone may delete.
    The new file has the permissions of the one it replaces, else the usual ones. A device or pipe is written directly.
    Raises TargetExistsError, or FileAccessError that names the path.
    """
    check_target(path, overwrite=overwrite)
    target = os.path.realpath(os.fsdecode(path))
    with translate_os_errors(path, "write", (OSError,)):
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb") as file:
                yield file
            return
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".l2fmt-{secrets.token_hex(8)}.tmp")
    with translate_os_errors(path, "write", (OSError,)):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            # Nobody who may not read the target may open this, not even before it gets the permissions of the target.
            descriptor = os.open(temporary, flags, 0o666 if mode is None else 0o600)
            with open(descriptor, "wb") as file:
                if mode is not None:
                    os.chmod(temporary, stat.S_IMODE(mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            check_target(path, overwrite=overwrite)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(folder)


def _mode(path: Any) -> int | None:
    """Return the mode of what `path` leads to, None if there is nothing."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush the renaming to disk, where the system can; the file is complete either way."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
