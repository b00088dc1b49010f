"""Models split into several files, and the JSON that says which file holds a tensor (spec/container.md 10)."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from l2fmt.container.atomic import atomic_write
from l2fmt.container.limits import Limits
from l2fmt.container.reader import Reader
from l2fmt.container.rules import MAX_SIZE, MAX_U32, check_integer, check_name, show
from l2fmt.container.sources import translate_os_errors
from l2fmt.errors import CorruptFileError, FormatError, InputError

INDEX_SUFFIX = ".l2c.index.json"


@dataclass(frozen=True)
class ShardIndex:
    """Where the tensors of a sharded model are: `weight_map` gives the file in `folder` of each tensor or alias."""

    folder: Path
    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any]

    @property
    def files(self) -> list[str]:
        """Names of the shards, in ascending order."""
        return sorted(set(self.weight_map.values()))

    @property
    def checksums(self) -> Mapping[str, int] | None:
        """The `Index.content_checksum` of each shard; None if this index binds its shards to nothing."""
        return self.metadata.get("checksums")

    def check_shard(self, file: str, names: Iterable[str]) -> None:
        """Raise CorruptFileError unless the tensors and aliases of a shard are exactly those the map places there."""
        held = set(names)
        expected = {name for name, shard in self.weight_map.items() if shard == file}
        if missing := expected - held:
            raise CorruptFileError(
                f"shard {file!r} does not hold tensor {min(missing)!r}, which the shard index places there"
            )
        if extra := held - expected:
            raise CorruptFileError(
                f"shard {file!r} holds tensor {min(extra)!r}, which the shard index does not place there"
            )

    def open(self, limits: Limits | None = None) -> dict[str, Reader]:
        """Open every shard and check what it holds; return file name -> Reader, for the caller to close.

        The limit on all decoded bytes is that of the shards together.
        """
        limits = limits or Limits()
        readers: dict[str, Reader] = {}
        try:
            for file in self.files:
                readers[file] = Reader(self.folder / file, limits=limits)
                self.check_shard(file, readers[file].names())
                if self.checksums and self.checksums[file] != readers[file].index.content_checksum:
                    raise CorruptFileError(f"shard {file!r} is not the one that the shard index was written for")
            total = sum(reader.index.nbytes for reader in readers.values())
            limits.check("max_decoded_bytes", total, "bytes of the decoded tensors of all shards")
            if (claimed := self.metadata.get("total_size", total)) != total:
                raise CorruptFileError(
                    f"the shard index says that total_size is {claimed}; the tensors of all shards have {total} bytes"
                )
        except BaseException:
            for reader in readers.values():
                reader.close()
            raise
        return readers


def read_shard_index(path: Any, limits: Limits | None = None) -> ShardIndex:
    """Read and check a `.l2c.index.json`; raise CorruptFileError, LimitExceededError or FileAccessError."""
    limits = limits or Limits()
    allowed = limits.allowed("max_index_bytes")
    path = Path(path)
    with translate_os_errors(path, "read"), path.open("rb") as file:
        data = file.read(min(allowed, os.fstat(file.fileno()).st_size) + 1)
    limits.check("max_index_bytes", len(data), f"bytes of {path}")
    # A value takes many times its bytes once parsed. All but the first follow a comma or nest, 1,000 deep at most.
    limits.check("max_tensors", data.count(b",") // 2, f"half the number of values in {path}")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not valid JSON: {error}") from error
    weight_map, metadata = (value.get(key) if isinstance(value, dict) else None for key in ("weight_map", "metadata"))
    if not isinstance(weight_map, dict) or not isinstance(metadata, dict):
        raise CorruptFileError(f"{path} must be an object that holds the objects 'weight_map' and 'metadata'")
    limits.check("max_tensors", len(weight_map), f"number of tensors in {path}")
    if "total_size" in metadata:
        check_integer(metadata["total_size"], 0, MAX_SIZE, f"{path}: total_size")
    for name, shard in weight_map.items():
        check_name(name, "tensor name")
        _check_shard_name(shard)
    if "checksums" in metadata:
        _check_checksums(metadata["checksums"], weight_map, str(path))
    return ShardIndex(path.parent, weight_map, metadata)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise CorruptFileError(f"the shard index repeats the key {show(key)}")
    return result


def _no_constant(name: str) -> None:
    raise CorruptFileError(f"the shard index holds {name}, which is no JSON")


def _check_shard_name(name: object) -> None:
    """Allow a plain name only: one that stays in its folder on every operating system."""
    check_name(name, "shard name")
    text = str(name)
    plain = PureWindowsPath(text).name == text == PurePosixPath(text).name
    if not plain or ":" in text or text == "..":
        raise CorruptFileError(f"shard name {text!r} must be a plain file name, without folder or drive")


def _check_checksums(checksums: object, weight_map: Mapping[str, str], label: str) -> None:
    if not isinstance(checksums, dict) or checksums.keys() != set(weight_map.values()):
        raise CorruptFileError(f"{label}: checksums must be an object with one entry for each shard, and no other")
    for file, checksum in checksums.items():
        check_integer(checksum, 0, MAX_U32, f"{label}: the checksum of {file!r}")


def write_shard_index(
    path: Any,
    weight_map: Mapping[str, str],
    total_size: int,
    checksums: Mapping[str, int] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a `.l2c.index.json` atomically.

    `total_size` is the bytes of the decoded tensors; with `checksums`, those of `Index.content_checksum`, no other
    shards of the same names are taken. Raises InputError for what a reader would refuse, TargetExistsError.
    """
    data = shard_index_bytes(weight_map, total_size, checksums, metadata=metadata)
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(data)


def shard_index_bytes(
    weight_map: Mapping[str, str],
    total_size: int,
    checksums: Mapping[str, int] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the content of a `.l2c.index.json`; raise InputError for what a reader would refuse."""
    about: dict[str, Any] = {**(metadata or {}), "total_size": total_size}
    if checksums is not None:
        about["checksums"] = dict(checksums)
    try:
        check_integer(total_size, 0, MAX_SIZE, "total_size")
        for name, shard in weight_map.items():
            check_name(name, "tensor name")
            _check_shard_name(shard)
        if "checksums" in about:
            _check_checksums(about["checksums"], weight_map, "the shard index")
    except FormatError as error:
        raise InputError(str(error)) from error
    content = {"metadata": about, "weight_map": dict(weight_map)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def shard_names(stem: str, count: int) -> list[str]:
    """Return the names of `count` shards: stem-00001-of-0000N.l2c, ..."""
    return [f"{stem}-{number:05d}-of-{count:05d}.l2c" for number in range(1, count + 1)]


def plan_shards(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Distribute tensors, in their order, over shards of at most that size; a larger tensor has a shard of its own."""
    if max_shard_bytes <= 0:
        raise InputError(f"the size of a shard must be positive, not {max_shard_bytes}")
    shards: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if not shards or size > left:
            shards.append([])
            left = max_shard_bytes
        shards[-1].append(name)
        left -= size
    return shards
