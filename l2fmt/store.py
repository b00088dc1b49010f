"""Open a model, one file or shards, and hand out its tensors: what `l2fmt.torch` and `l2fmt.numpy` share.

A framework says how memory for a tensor is made; everything else is the same for all.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from l2codec.threads import Step, run
from l2fmt.container import Limits, Reader, TensorEntry
from l2fmt.container.opening import open_readers
from l2fmt.container.writer import is_path
from l2fmt.errors import InputError, MissingTensorError
from l2fmt.pipeline import decode_group
from l2fmt.pipeline.decode import open_group

T = TypeVar("T")

_CACHE_BYTES = 64 << 20  # of decoded groups; the last one is kept whatever its size
_THREAD_BYTES = 1 << 20  # decoded bytes for which a thread more is worth starting


class Framework(Protocol[T]):
    """How tensors of a library are made."""

    def threads(self) -> int:
        """Return how many threads the library works with."""
        ...

    def allocate(self, entry: TensorEntry) -> tuple[T, np.ndarray]:
        """Return a new tensor and its memory: a contiguous one-dimensional array of `entry.dtype.word`."""
        ...

    def finish(self, tensor: T, entry: TensorEntry) -> T:
        """Return a filled tensor as the caller asked for it, such as in another dtype."""
        ...

    def part(self, tensor: T, index: Any) -> T:
        """Return `tensor[index]` in memory of its own."""
        ...


class Store(Generic[T]):
    """The tensors of a model, decoded when asked for; checksums are always verified. Threads may share it.

    `source` is the path of a `.l2c` file, of a `.l2c.index.json` or of a folder that holds one of them, the bytes of
    a file, a binary file object, or "-" for standard input. `threads` is how many decode, by default those of the
    framework; results do not depend on it.
    """

    def __init__(
        self, source: Any, framework: Framework[T], *, limits: Limits | None = None, threads: int | None = None
    ):
        if threads is not None and threads < 1:
            raise InputError(f"loading takes at least one thread, not {threads}")
        self.framework = framework
        self._threads = framework.threads() if threads is None else threads
        self.readers = open_readers(source, limits)
        self.name = os.fsdecode(source) if is_path(source) else self.readers[0].name
        self._home = {name: reader for reader in self.readers for name in reader.names()}
        self._cache: OrderedDict[tuple[int, int], dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of all tensors, in the order of the model, then all aliases."""
        return [*(name for reader in self.readers for name in reader.tensors), *self.aliases]

    def names_by_offset(self) -> list[str]:
        """Return all names in the order of their bytes: the fastest to read them in."""
        numbers = {reader: number for number, reader in enumerate(self.readers)}
        return sorted(self.names(), key=lambda name: (numbers[self._home[name]], self.entry(name).group))

    @property
    def aliases(self) -> dict[str, str]:
        """Other names of tensors (tied weights): alias -> name."""
        return {alias: name for reader in self.readers for alias, name in reader.aliases.items()}

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of all files; where shards differ, that of the first."""
        return {key: value for reader in reversed(self.readers) for key, value in reader.metadata.items()}

    def entry(self, name: str) -> TensorEntry:
        """Return what the index says of a tensor or alias; raise MissingTensorError if there is none."""
        return self._reader(name).resolve(name)

    def get(self, name: str) -> T:
        """Decode one tensor into memory of its own; the group it may share with others is kept for the next call."""
        reader, entry = self._reader(name), self.entry(name)
        if len(reader.index.groups[entry.group].tensors) == 1:
            return self._decode(reader, entry.group)[entry.name]
        tensor, words = self.framework.allocate(entry)
        words[:] = self._group_words(reader, entry.group)[entry.name]
        return self.framework.finish(tensor, entry)

    def get_all(self) -> dict[str, T]:
        """Decode every tensor once; an alias is the same object as its tensor. Reading and decoding overlap."""
        decoded: dict[str, T] = {}
        # Memory for all tensors first, as the system fills what lies together, in large pages, twice as fast.
        groups = deque(
            (reader, number, self._allocate(reader, number))
            for reader in self.readers
            for number in range(len(reader.index.groups))
        )
        nbytes = sum(reader.index.nbytes for reader in self.readers)
        units = (partial(self._begin, *groups.popleft(), decoded) for _ in range(len(groups)))
        run(units, self._useful_threads(nbytes))
        aliases = self.aliases
        return {name: decoded[aliases.get(name, name)] for name in self.names()}

    def _decode(self, reader: Reader, number: int) -> dict[str, T]:
        decoded: dict[str, T] = {}
        nbytes = reader.index.groups[number].nbytes
        begin = partial(self._begin, reader, number, self._allocate(reader, number), decoded)
        run([begin], self._useful_threads(nbytes))
        return decoded

    def _allocate(self, reader: Reader, number: int) -> list[tuple[T, np.ndarray]]:
        return [self.framework.allocate(entry) for entry in reader.index.groups[number].tensors]

    def _begin(
        self, reader: Reader, number: int, made: list[tuple[T, np.ndarray]], decoded: dict[str, T]
    ) -> tuple[Sequence[Step], Step]:
        """Read a group and return the steps that decode it and add its tensors, which are `made`, to `decoded`."""
        steps, last = open_group(reader, number, [words for _, words in made])

        def finish() -> None:
            last()
            for entry, (tensor, _) in zip(reader.index.groups[number].tensors, made, strict=True):
                decoded[entry.name] = self.framework.finish(tensor, entry)

        return steps, finish

    def _useful_threads(self, nbytes: int) -> int:
        return min(self._threads, 1 + nbytes // _THREAD_BYTES)

    def _group_words(self, reader: Reader, number: int) -> dict[str, np.ndarray]:
        """Return the words of the tensors of a shared group, decoded or remembered."""
        key = (id(reader), number)
        with self._lock:
            if key not in self._cache:
                entries = reader.index.groups[number].tensors
                words = [np.empty(entry.size * entry.dtype.words, entry.dtype.word) for entry in entries]
                decode_group(reader, number, words, self._useful_threads(sum(part.nbytes for part in words)))
                self._cache[key] = {entry.name: part for entry, part in zip(entries, words, strict=True)}
                while len(self._cache) > 1 and sum(map(_nbytes, self._cache.values())) > _CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]

    def _reader(self, name: str) -> Reader:
        if name not in self._home:
            near = get_close_matches(str(name), list(self._home)[:10000], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise MissingTensorError(f"no tensor {name!r} in {self.name}{hint}")
        return self._home[name]

    def close(self) -> None:
        """Release the files."""
        for reader in self.readers:
            reader.close()
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class LazyFile(Generic[T]):
    """What `safe_open` returns, in every framework: tensors of a file, decoded one at a time. Threads may share it."""

    def __init__(self, store: Store[T]):
        self._store = store

    def keys(self) -> list[str]:
        """Return the names of all tensors in the order of the model, then all aliases."""
        return self._store.names()

    def offset_keys(self) -> list[str]:
        """Return the names of all tensors in the order of their bytes, the fastest to read them in."""
        return self._store.names_by_offset()

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata, None if there is none."""
        return self._store.metadata or None

    def aliases(self) -> dict[str, str]:
        """Return the names of tied weights: alias -> name of the tensor."""
        return self._store.aliases

    def dtype(self, name: str) -> str:
        """Return the dtype a tensor is stored as, such as "BF16", without reading it."""
        return self._store.entry(name).dtype.name

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._store.entry(name).shape

    def get_tensor(self, name: str) -> T:
        """Decode one tensor or alias, each time into new memory. Raises MissingTensorError, CorruptFileError."""
        return self._store.get(name)

    def get_tensors(self) -> dict[str, T]:
        """Decode all tensors; those that are tied are the same object."""
        return self._store.get_all()

    def get_slice(self, name: str) -> "Slice[T]":
        """Return an object to index for a part of a tensor; see `Slice`."""
        self._store.entry(name)
        return Slice(self._store, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._store.close()


class Slice(Generic[T]):
    """A tensor to take parts of.

    The first `[...]` decodes the whole tensor, because a part of entropy-coded data cannot be found without what
    precedes it; the object then keeps it. Parts are copies.
    """

    def __init__(self, store: Store[T], name: str):
        self._store, self._name = store, name
        self._whole: T | None = None

    def get_shape(self) -> list[int]:
        """Return the shape of the whole tensor."""
        return list(self._store.entry(self._name).shape)

    def get_dtype(self) -> str:
        """Return the dtype the tensor is stored as, such as "F32"."""
        return self._store.entry(self._name).dtype.name

    def __getitem__(self, index: Any) -> T:
        if self._whole is None:
            self._whole = self._store.get(self._name)
        return self._store.framework.part(self._whole, index)


def _nbytes(words: Mapping[str, np.ndarray]) -> int:
    return sum(part.nbytes for part in words.values())


def alias_names(identities: Mapping[str, object | None]) -> dict[str, str]:
    """Return tied weights: each name to the first name of the same identity; None is an identity of its own."""
    first: dict[object, str] = {}
    owners = {name: name if what is None else first.setdefault(what, name) for name, what in identities.items()}
    return {name: owner for name, owner in owners.items() if owner != name}
