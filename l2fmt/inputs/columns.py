"""Samples as columns: tensors with the same first dimension, checked, from whatever a batch comes in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2fmt.errors import InputError

DRAWN = 4096  # samples at most of what must be read or computed, such as a loader without end, where no limit is given
MAX_BYTES = 4 << 30  # of all samples in memory, whatever the limit
LABELS = ("labels", "label", "y")

# Tensors with the same first dimension, by place: positional arguments 0, 1, ..., named arguments, None for labels.
Place = int | str | None
Columns = dict[Place, Tensor]


def choose_samples(count: int, sample_bytes: int, limit: int, notes: list[str]) -> Sequence[int]:
    """Return which samples to take: all, or as many as the limit and the memory allow, at even distances.

    A choice of fewer is added to the notes. Raises InputError if not one fits in memory.
    """
    most = min(limit, MAX_BYTES // max(sample_bytes, 1))
    if most == 0:
        raise InputError(f"a calibration sample has {sample_bytes:,} bytes; at most {MAX_BYTES:,} are kept in memory")
    if most >= count:
        return range(count)
    notes.append(f"{most:,} of {count:,} calibration samples are used, at even distances")
    return [i * count // most for i in range(most)]


def as_columns(item: Any, where: str, *, single: bool = False) -> Columns:
    """Return the tensors of a batch, or of a single sample as a batch of one; `where` names it in messages.

    Raises InputError for what is no tensor, has no samples, or is of differing lengths.
    """
    inputs, labels = item, None
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise InputError(f"{where} has {len(item)} parts; expected inputs, or a pair of inputs and labels")
        inputs, labels = (*item, None)[:2]
    if isinstance(inputs, Mapping):
        named = dict(inputs)
        candidates = [labels, *(named.pop(name, None) for name in LABELS)]
        present = [candidate for candidate in candidates if candidate is not None]
        if len(present) > 1:
            raise InputError(f"{where} has {len(present)} sets of labels; expected one of {', '.join(LABELS)}")
        labels = present[0] if present else None
    else:
        named = dict(enumerate(inputs)) if isinstance(inputs, tuple | list) else {0: inputs}
    columns = {place: _tensor(value, f"{where}: {_name(place)}") for place, value in named.items()}
    if not columns:
        raise InputError(f"{where} has no inputs")
    if labels is not None:
        columns[None] = _label_tensor(labels, f"{where}: {_name(None)}")
    if single:
        columns = {place: tensor.unsqueeze(0) for place, tensor in columns.items()}
    lengths = {_name(place): tensor.shape[0] if tensor.dim() else None for place, tensor in columns.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        found = ", ".join(f"{name} {'no dimension' if n is None else n}" for name, n in lengths.items())
        raise InputError(f"{where} has differing lengths ({found}); the first dimension of all must count the samples")
    if 0 in lengths.values():
        raise InputError(f"{where} has no samples")
    return columns


def _tensor(value: Any, what: str) -> Tensor:
    """Return a dense tensor on the CPU that shares memory with the value where it can."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
            raise InputError(
                f"{what} is a tensor without dense elements ({value.layout}, {value.device}, {value.dtype})"
            )
        return value.detach().cpu().as_subclass(Tensor)
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(f"{what} is a {type(value).__name__}; expected a tensor or an array")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        raise InputError(f"{what} is an array of {array.dtype}; expected numbers")
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _label_tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, int | float | list):
        return _tensor(value, what)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} are no numbers ({error}); leave them out where the method needs none") from error


def checked_columns(columns: Columns, where: str) -> Columns:
    """Return the tensors with floats of at most 32 bits; raises InputError for inputs that are not finite."""
    checked = dict(columns)
    for place, tensor in columns.items():
        if tensor.is_floating_point():
            if tensor.dtype not in (torch.float16, torch.bfloat16):
                checked[place] = tensor = tensor.float()
            if place is not None and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():  # NaN is either
                raise InputError(f"{where}: {_name(place)} holds values that are not finite numbers of float32")
    return checked


def sample_count(columns: Columns) -> int:
    """Return how many samples the tensors hold."""
    return next(iter(columns.values())).shape[0]


def byte_count(columns: Columns) -> int:
    """Return the bytes of all tensors together."""
    return sum(tensor.nbytes for tensor in columns.values())


def listing(places: Iterable[Place]) -> str:
    """Return the places as messages name them."""
    return ", ".join(sorted(map(_name, places)))


def _name(place: Place) -> str:
    return "labels" if place is None else f"input {place}" if isinstance(place, int) else repr(place)
