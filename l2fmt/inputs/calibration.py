"""Calibration data: the samples a method feeds to a module, from tensors, data sets or loaders."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from l2fmt.errors import InputError
from l2fmt.inputs.columns import (
    DRAWN,
    MAX_BYTES,
    Columns,
    Place,
    as_columns,
    byte_count,
    checked_columns,
    choose_samples,
    listing,
    sample_count,
)


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of the module, `module(*args, **kwargs)`, on tensors whose first dimension counts the samples.

    Floats are float32, integers of the dtype they were given in. `labels`, if there are any, have one entry a sample.
    The tensors may share memory with the set, so they must not be written to.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Tensor | None

    @property
    def count(self) -> int:
        """Samples."""
        return next(iter([*self.args, *self.kwargs.values()])).shape[0]

    def to(self, device: torch.device, pictures: torch.memory_format = torch.preserve_format) -> "Batch":
        """Return the batch on a device, its tensors of four dimensions in a memory format."""

        def moved(x: Any) -> Any:
            return x.to(device, memory_format=pictures if x.dim() == 4 else torch.preserve_format)

        kwargs = {name: moved(value) for name, value in self.kwargs.items()}
        return Batch(tuple(map(moved, self.args)), kwargs, None if self.labels is None else self.labels.to(device))


@dataclass(frozen=True, eq=False)
class _Group:
    """Samples of one combination of shapes and dtypes: all rows of the columns, or those of an index int64[samples]."""

    columns: Columns
    rows: Tensor | None = None

    @property
    def count(self) -> int:
        return sample_count(self.columns) if self.rows is None else len(self.rows)

    def chosen(self, index: Tensor) -> "_Group":
        """Return some of these samples, without a copy of them."""
        return _Group(self.columns, index if self.rows is None else self.rows[index])

    def batch(self, index: slice | Tensor) -> Batch:
        at = index if self.rows is None else self.rows[index]
        chosen = {place: tensor[at] for place, tensor in self.columns.items()}
        labels = chosen.pop(None, None)
        for place, tensor in chosen.items():
            chosen[place] = tensor.float() if tensor.is_floating_point() else tensor
        positional = sorted(place for place in chosen if isinstance(place, int))
        named = {place: tensor for place, tensor in chosen.items() if isinstance(place, str)}
        return Batch(tuple(chosen[place] for place in positional), named, labels)


class CalibrationSet:
    """Samples on the CPU, from which batches of any size are drawn; made by `of` or `read_calibration`.

    Samples of different shapes, such as texts of different lengths, never share a batch: those of each shape are
    batched among themselves. `notes` says where not all the data are used.
    """

    def __init__(self, groups: Sequence[Columns | _Group], notes: Sequence[str] = ()) -> None:
        """Take columns, one for each combination of shapes and dtypes."""
        self._groups = [group if isinstance(group, _Group) else _Group(group) for group in groups]
        self.notes = list(notes)

    @property
    def count(self) -> int:
        """Samples."""
        return sum(group.count for group in self._groups)

    @property
    def has_labels(self) -> bool:
        """Whether each sample has a label."""
        return None in self._groups[0].columns

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of names, dtypes, shapes and bytes of all tensors, whatever batches they came in."""
        digest = hashlib.sha256()
        for group in self._groups:
            for place in sorted(group.columns, key=repr):
                tensor = group.columns[place] if group.rows is None else group.columns[place][group.rows]
                digest.update(f"{place!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @classmethod
    def of(cls, data: Any, limit: int | None = None) -> "CalibrationSet":
        """Return a set of at most `limit` samples of what the caller has.

        Args:
            data: a tensor or array [N, ...]; a mapping of names to such, the module's keyword arguments, of which
                "labels", "label" or "y" are labels; a pair (inputs, labels), inputs being one of these or a tuple of
                positional arguments; a `Dataset` of samples of these kinds; an iterable of batches of these kinds; a
                function without arguments that returns one of all these; a CalibrationSet, returned as it is.
            limit: by default 4,096 of a dataset or an iterable, all of tensors. Of tensors and datasets that hold more,
                samples at even distances are taken; of iterables the first. In memory they have at most 4 GiB.

        Raises InputError for what is empty, of differing lengths, not a tensor, or not finite.
        """
        if limit is not None and limit < 1:
            raise InputError(f"the limit must be at least one sample, not {limit}")
        if isinstance(data, CalibrationSet):
            return data
        notes: list[str] = []
        if isinstance(data, Tensor | np.ndarray | Mapping) or (isinstance(data, tuple) and len(data) == 2):
            columns = as_columns(data, "the calibration data")
            count = sample_count(columns)
            index = choose_samples(count, byte_count(columns) // count, limit or count, notes)
            if len(index) < count:
                columns = {place: tensor[list(index)] for place, tensor in columns.items()}
            return cls([checked_columns(columns, "the calibration data")], notes)
        limit = DRAWN if limit is None else limit
        if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
            return cls._gather(_samples(data, limit, notes), limit, notes)
        if isinstance(data, Iterable) and not isinstance(data, str | bytes):
            kind, single = ("sample", True) if isinstance(data, Dataset) else ("batch", False)
            items = (as_columns(item, f"calibration {kind} {i}", single=single) for i, item in enumerate(data))
            return cls._gather(items, limit, notes)
        if callable(data):
            return cls.of(data(), limit)
        raise InputError(f"a {type(data).__name__} is no calibration data; expected tensors, a dataset or batches")

    @classmethod
    def _gather(cls, batches: Iterable[Columns], limit: int, notes: list[str]) -> "CalibrationSet":
        """Join batches of one shape and dtype, up to the limit or the memory allowed."""
        groups: dict[frozenset[Any], list[Columns]] = {}
        places: set[Place] = set()
        count = nbytes = 0
        for number, batch in enumerate(batches):
            places = places or set(batch)
            if set(batch) != places:
                found, before = listing(batch), listing(places)
                raise InputError(f"calibration batch {number} has {found}, those before it {before}; expected the same")
            length = sample_count(batch)
            room = min(limit - count, (MAX_BYTES - nbytes) * length // max(byte_count(batch), 1))
            if room > 0:
                # A copy, because a loader may write its next batch into the same memory.
                part = {place: tensor[:room].clone() for place, tensor in batch.items()}
                part = checked_columns(part, f"calibration batch {number}")
                kind = frozenset((place, tensor.dtype, tensor.shape[1:]) for place, tensor in part.items())
                groups.setdefault(kind, []).append(part)
                count, nbytes = count + sample_count(part), nbytes + byte_count(part)
            if room < length:
                notes.append(f"of the calibration data the first {count:,} samples are used")
                break
        if not count:
            raise InputError(f"the calibration data hold no sample of at most {MAX_BYTES:,} bytes")
        # Taking each tensor out of its part frees the parts while the joined ones grow.
        joined = [
            {at: torch.cat([part.pop(at) for part in parts]) for at in list(parts[0])} for parts in groups.values()
        ]
        return cls(joined, notes)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches without end, each epoch in a new order.

        An epoch leaves out what does not fill a batch, except where a shape has fewer samples than one batch.
        """
        while True:
            drawn: list[tuple[_Group, Tensor]] = []
            for group in self._groups:
                order = torch.randperm(group.count, generator=generator)
                drawn += [(group, index) for index in order[: max(len(order) // size, 1) * size].split(size)]
            for number in torch.randperm(len(drawn), generator=generator).tolist():
                group, index = drawn[number]
                yield group.batch(index)

    def split(self, share: float, seed: int) -> "tuple[CalibrationSet, CalibrationSet]":
        """Return a share of the samples of each shape, drawn by a seed and at least one, and the others, if any.

        They share their memory with this set.
        """
        generator = torch.Generator().manual_seed(seed)
        parts: tuple[list[_Group], list[_Group]] = ([], [])
        for group in self._groups:
            order = torch.randperm(group.count, generator=generator)
            first = max(round(share * len(order)), 1)
            for part, index in zip(parts, (order[:first], order[first:]), strict=True):
                if len(index):
                    part.append(group.chosen(index))
        return CalibrationSet(parts[0]), CalibrationSet(parts[1])

    def joined(self, others: "CalibrationSet") -> "CalibrationSet":
        """Return a set of these samples and of others, which share no batch with them."""
        return CalibrationSet([*self._groups, *others._groups], [*self.notes, *others.notes])

    def in_order(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield all samples once, in the order given, those of one shape after those of another.

        With a generator it is batches whose order it draws.
        """
        batches = [(group, start) for group in self._groups for start in range(0, group.count, size)]
        if generator is not None:
            batches = [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]
        for group, start in batches:
            yield group.batch(slice(start, start + size))

    def sample(self, size: int, most: int, seed: int) -> Iterator[Batch]:
        """Yield all samples as `in_order` does, or where there are more than `most`, so many drawn by a seed."""
        if self.count <= most:
            yield from self.in_order(size)
            return
        drawn = 0
        for batch in self.shuffled(size, torch.Generator().manual_seed(seed)):
            yield batch
            drawn += batch.count
            if drawn >= most:
                return


def _samples(dataset: Any, limit: int, notes: list[str]) -> Iterator[Columns]:
    """Yield samples of a dataset with a length as batches of one, at even distances if there are more than allowed."""
    if not hasattr(dataset, "__len__"):
        raise InputError(f"the dataset {type(dataset).__name__} has no length; give an iterable of batches instead")
    if len(dataset):
        first = as_columns(dataset[0], "calibration sample 0", single=True)
        for i in choose_samples(len(dataset), byte_count(first), limit, notes):
            yield as_columns(dataset[i], f"calibration sample {i}", single=True)
