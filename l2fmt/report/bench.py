"""How long a model takes to decode, part by part, and to load."""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from l2codec.processor import chosen_kernel
from l2fmt import _registry
from l2fmt.container import Group, Limits, Reader
from l2fmt.container.opening import open_readers
from l2fmt.container.writer import is_path
from l2fmt.errors import InputError
from l2fmt.pipeline import decode_group

_CODERS = {number: name for name, number in _registry.CODERS.items()}
_SCHEMA = 1


@dataclass(frozen=True)
class GroupTime:
    """What decoding one group takes: a large tensor, or small ones that are stored together.

    Attributes:
        name: the tensor, or the first of several. coder: names of the coders of its streams, joined by "+".
        symbols: of all its streams. bytes: what it takes of the file. decoded_bytes: what its tensors take in memory.
        seconds: to read, check and decode it to memory that is there, with one thread.
    """

    name: str
    tensors: int
    coder: str
    symbols: int
    bytes: int
    decoded_bytes: int
    seconds: float


@dataclass(frozen=True)
class BenchReport:
    """How long a model takes; times are medians of `repeat` runs in seconds, files read before.

    Attributes:
        kernel: the form of the rANS kernels that was used. groups: in the order of the file.
        load_seconds: threads -> time of `load_file`: one thread, and as many as torch has.
    """

    path: str
    kernel: str
    repeat: int
    groups: tuple[GroupTime, ...]
    load_seconds: dict[int, float]

    @property
    def seconds(self) -> float:
        """Time to decode all groups with one thread."""
        return sum(group.seconds for group in self.groups)

    def by_coder(self) -> dict[str, GroupTime]:
        """Return the sums of the groups of each coder; the name is that of the coder."""
        coders = dict.fromkeys(group.coder for group in self.groups)
        return {coder: total(coder, [g for g in self.groups if g.coder == coder]) for coder in coders}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON: its attributes, "schema", "seconds" and "coders" (`by_coder`)."""
        coders = {name: asdict(sums) for name, sums in self.by_coder().items()}
        return {"schema": _SCHEMA, **asdict(self), "seconds": self.seconds, "coders": coders}


def total(name: str, groups: list[GroupTime]) -> GroupTime:
    """Return the sums of some groups under a name."""
    counts = (sum(getattr(g, key) for g in groups) for key in ("tensors", "symbols", "bytes", "decoded_bytes"))
    tensors, symbols, size, decoded = counts
    coders = "+".join(dict.fromkeys(group.coder for group in groups))
    return GroupTime(name, tensors, coders, symbols, size, decoded, sum(group.seconds for group in groups))


def bench(source: Any, *, repeat: int = 5, limits: Limits | None = None) -> BenchReport:
    """Measure decoding and loading of a `.l2c` file, a shard index or a folder with one of them.

    Decodes everything `repeat` times group by group, and as often for each number of threads, after once that does not
    count. Raises InputError for a source that is no path, FormatError kinds, FileAccessError kinds.
    """
    if not is_path(source) or os.fspath(source) == "-":
        raise InputError("only a model on disk can be measured: it is read many times")
    if repeat < 1:
        raise InputError(f"a time is the median of at least one run, not of {repeat}")
    import torch

    from l2fmt.torch import load_file

    with ExitStack() as stack:
        readers = [stack.enter_context(reader) for reader in open_readers(source, limits)]
        groups = [
            _group_time(reader, number, repeat) for reader in readers for number in range(len(reader.index.groups))
        ]
    counts = dict.fromkeys((1, torch.get_num_threads()))
    load = {n: _median(lambda n=n: load_file(source, limits=limits, threads=n), repeat) for n in counts}
    return BenchReport(os.fsdecode(source), chosen_kernel(), repeat, tuple(groups), load)


def _group_time(reader: Reader, number: int, repeat: int) -> GroupTime:
    group: Group = reader.index.groups[number]
    outs = [np.empty(tensor.size * tensor.dtype.words, tensor.dtype.word) for tensor in group.tensors]
    return GroupTime(
        name=group.tensors[0].name,
        tensors=len(group.tensors),
        coder="+".join(dict.fromkeys(_CODERS[stream.coder] for stream in group.streams)),
        symbols=group.symbols * len(group.streams),
        bytes=group.length,
        decoded_bytes=group.nbytes,
        seconds=_median(lambda: decode_group(reader, number, outs), repeat),
    )


def _median(call: Callable[[], object], repeat: int) -> float:
    """Return the median time of a call in seconds, after one that does not count."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
