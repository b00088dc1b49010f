"""Which files a model is made of, and the readers of them."""

import os
import re
from pathlib import Path
from typing import Any

from l2fmt.container.limits import Limits
from l2fmt.container.reader import Reader
from l2fmt.container.shards import INDEX_SUFFIX, read_shard_index
from l2fmt.container.writer import is_path
from l2fmt.errors import InputError, L2Error, MissingFileError

SUFFIX = ".l2c"
_SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}\.l2c$")


def open_readers(source: Any, limits: Limits | None = None) -> list[Reader]:
    """Open the one file of a source, or all shards of a model, in order; sources are those of `l2fmt.store.Store`."""
    if (index := shard_index_path(source)) is not None:
        return list(read_shard_index(index, limits).open(limits).values())
    return [Reader(_locate(source) if _is_file_path(source) else source, limits=limits)]


def shard_index_path(source: Any) -> Path | None:
    """Return the shard index that a source means, None if it means a single file."""
    path = _locate(source) if _is_file_path(source) else None
    return path if path is not None and path.name.endswith(INDEX_SUFFIX) else None


def _is_file_path(source: Any) -> bool:
    return is_path(source) and os.fspath(source) != "-"


def _locate(source: str | os.PathLike[str]) -> Path:
    """Return the file or shard index that a path means: itself, what a folder holds, or the index of its shards."""
    path = Path(os.fsdecode(source))
    try:
        if path.is_dir():
            return _in_folder(path)
        index = path.with_name(path.name.removesuffix(SUFFIX) + INDEX_SUFFIX)
        shards_only = path.name.endswith(SUFFIX) and not path.exists() and index.exists()
    except L2Error:
        raise
    except (OSError, ValueError):
        return path  # opening it will say why
    return index if shards_only else path


def _in_folder(folder: Path) -> Path:
    found = [p for p in folder.iterdir() if p.name.endswith(INDEX_SUFFIX)]
    found += [p for p in folder.iterdir() if p.name.endswith(SUFFIX) and not _SHARD_NAME.search(p.name)]
    if not found:
        raise MissingFileError(f"{folder}: a folder without a model; expected one file *{SUFFIX} or *{INDEX_SUFFIX}")
    if len(found) > 1:
        names = ", ".join(sorted(p.name for p in found))
        raise InputError(f"{folder}: a folder with several models; choose one of {names}")
    return found[0]
