"""Open whatever the caller has: a path, bytes, a stream, a module or a mapping of tensors."""

import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from l2fmt.errors import FileAccessError, InputError, MissingFileError
from l2fmt.inputs.base import ModelSource
from l2fmt.inputs.hf_directory import INDEX_SUFFIX, open_directory, open_index
from l2fmt.inputs.sniff import open_file
from l2fmt.inputs.tensors import open_mapping

AnySource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any] | nn.Module


def open_source(source: AnySource, *, key: str | None = None) -> ModelSource:
    """Open a model for reading, one tensor at a time; the format is told by content, not by file extension.

    Args:
        source: path of a safetensors file, of a file by `torch.save`, of a Hugging Face folder or of its index;
            the bytes or a binary stream of such a file; a module; a mapping of names to tensors.
        key: which entry of a checkpoint dict holds the weights, when there are several.

    Raises InputError for what cannot be packed, MissingFileError and FileAccessError for paths. Nothing is ever
    unpickled but tensors and plain data. Bytes and streams are copied to a temporary file, so that reading them is as
    lazy as reading a path; `close` removes it.
    """
    if isinstance(source, nn.Module):
        return open_mapping(source.state_dict(), f"the module {type(source).__name__}", key)
    if isinstance(source, Mapping):
        return open_mapping(source, "the mapping", key)
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_stream(io.BytesIO(source), "the bytes", key)
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), key)
    if callable(getattr(source, "read", None)):
        return _open_stream(source, "the stream", key)
    raise InputError(f"a {type(source).__name__} cannot be packed; expected a path, bytes, a module or named tensors")


def _open_path(path: Path, key: str | None) -> ModelSource:
    origin = str(path)
    try:
        if path.is_dir():
            return open_directory(path, origin, key)
        if path.name.endswith(INDEX_SUFFIX):
            return open_index(path, origin, key)
        return open_file(path, origin, key)
    except (FileAccessError, InputError):
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{origin}: no such file or folder") from error
    except OSError as error:
        raise FileAccessError(f"{origin}: cannot be read ({error.strerror or error})") from error


def _open_stream(stream: BinaryIO, origin: str, key: str | None) -> ModelSource:
    folder = tempfile.TemporaryDirectory(prefix="l2fmt-", ignore_cleanup_errors=True)
    try:
        path = Path(folder.name) / "input"
        with path.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        source = open_file(path, origin, key)
    except BaseException:
        folder.cleanup()
        raise
    # The file goes after the memory maps of it: some systems keep a mapped file from being removed.
    resources = ExitStack()
    resources.callback(folder.cleanup)
    resources.enter_context(source.resources)
    source.resources = resources
    return source
