"""Cut a model into groups and symbol sequences, and sequences into families that share frequency tables.

Symbols of one kind share a table set in the whole file: the codes of quantized weights, and each field of the words of
plain tensors of one dtype.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from l2codec import ClassMap, TableSet
from l2fmt import _registry
from l2fmt.errors import InputError
from l2fmt.pipeline.tensors import PlainTensor, QuantizedTensor
from l2fmt.transforms import Codebook, field_widths, from_float32, split_field, to_float32

_GROUPED = 1 << 14  # plain tensors below so many elements share a group, so that they share its fixed cost
_GROUP_LIMIT = 1 << 20  # elements of a shared group: what reading one of its tensors decodes
_BITS = _registry.TRANSFORMS["bits"]


@dataclass
class SymbolSequence:
    """The symbols of one stream to be: `load()` returns them, uint8 or uint16; `layout` as `l2codec.fit_classes` takes
    it.
    """

    load: Callable[[], np.ndarray]
    layout: tuple[int, int, int] | np.ndarray
    count: int
    tensor: QuantizedTensor | PlainTensor  # whose symbols these are, the first if several
    width: int = 16  # of coder raw, which codes what has no classes
    classes: ClassMap | None = None
    tables: TableSet | None = None
    table_set: int = 0


@dataclass
class GroupPlan:
    """A group to be written: tensors and sequences, one a stream."""

    tensors: Sequence[QuantizedTensor | PlainTensor]
    sequences: list[SymbolSequence]
    transform: int
    parameters: list


Families = dict[tuple, list[SymbolSequence]]
"""Sequences that share tables, by kind; the last element of a key is the size of the alphabet."""


def plan_groups(tensors: Sequence[QuantizedTensor | PlainTensor]) -> tuple[list[GroupPlan], Families]:
    """Return the groups of a model and the families of their sequences."""
    families: Families = {}
    groups = [_quantized_group(tensor, key, families) for tensor, key in _families_of(tensors)]
    groups += [_plain_group(members, families) for members in _shared_groups(tensors)]
    return groups, families


def _families_of(tensors: Sequence) -> list[tuple[QuantizedTensor, tuple]]:
    """Return the quantized tensors, each with the key of its family: (kind, lowest code, alphabet)."""
    ranges = {}
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor):
            codes = tensor.codes
            ranges[id(tensor)] = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    result = []
    # Codes that fit a byte are kept apart from wider ones: they decode faster, and their tables stay small.
    formula = [t for t in tensors if isinstance(t, QuantizedTensor) and not isinstance(t.transform, Codebook)]
    narrow = [t for t in formula if ranges[id(t)][0] >= -127 and ranges[id(t)][1] <= 127]
    keys = {}
    for part in (narrow, [t for t in formula if t not in narrow]):
        if part:
            low = min(0, *(ranges[id(t)][0] for t in part))
            high = max(0, *(ranges[id(t)][1] for t in part))
            if high - low >= _registry.MAX_ALPHABET:
                raise InputError(
                    f"tensor {part[0].name!r} and others have codes from {low} to {high}: the step is too fine"
                )
            for tensor in part:
                first, last = _range_of_values(tensor, (low, high), ranges[id(tensor)])
                keys[id(tensor)] = ("codes", first, last - first + 1)
    for tensor in tensors:
        if not isinstance(tensor, QuantizedTensor):
            continue
        if isinstance(tensor.transform, Codebook):
            low, size = tensor.transform.lowest, tensor.transform.table.size
            first, last = ranges[id(tensor)]
            if first < low or last >= low + size:
                raise InputError(
                    f"tensor {tensor.name!r} has codes {first} to {last}; its codebook has {low} to {low + size - 1}"
                )
            keys[id(tensor)] = ("codebook", low, size)
        result.append((tensor, keys[id(tensor)]))
    return result


def _range_of_values(tensor: QuantizedTensor, shared: tuple[int, int], own: tuple[int, int]) -> tuple[int, int]:
    """Return the shared range of codes, or the tensor's own if it has no finite value for some other tensor's code."""
    for low, high in (shared, own):
        low, high = min(low, 0), max(high, 0)
        with np.errstate(over="ignore"):
            ends = tensor.transform.values(np.array([low, high]))  # magnitudes grow with the code
            if np.isfinite(to_float32(from_float32(ends, tensor.dtype), tensor.dtype)).all():
                return low, high
    most = "F16" if tensor.dtype.name == "F16" else "float32"
    raise InputError(f"tensor {tensor.name!r}: its codes {own[0]} to {own[1]} stand for values beyond {most}")


def _quantized_group(tensor: QuantizedTensor, key: tuple, families: Families) -> GroupPlan:
    _, low, alphabet = key
    dtype = np.uint8 if alphabet <= 256 else np.uint16

    def load() -> np.ndarray:
        return (tensor.codes.reshape(-1) - low).astype(dtype)

    sequence = SymbolSequence(load, _layout(tensor.shape), tensor.codes.size, tensor, (alphabet - 1).bit_length())
    families.setdefault(key, []).append(sequence)
    return GroupPlan([tensor], [sequence], tensor.transform.id, tensor.transform.parameters(-low))


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) < 2:
        return (1, int(np.prod(shape)), 1)
    return (shape[0], shape[1], int(np.prod(shape[2:])))


def _shared_groups(tensors: Sequence) -> list[list[PlainTensor]]:
    """Put small plain tensors of one dtype and precision into shared groups, each larger one into its own."""
    groups: list[list[PlainTensor]] = []
    open_groups: dict[tuple, list[PlainTensor]] = {}
    elements: dict[tuple, int] = {}  # of those groups
    for tensor in tensors:
        if not isinstance(tensor, PlainTensor):
            continue
        key = (tensor.dtype.name, tensor.drop)
        if tensor.size >= _GROUPED:
            groups.append([tensor])
        elif key in open_groups and elements[key] + tensor.size <= _GROUP_LIMIT:
            open_groups[key].append(tensor)
            elements[key] += tensor.size
        else:
            open_groups[key], elements[key] = [tensor], tensor.size
            groups.append(open_groups[key])
    return groups


def _plain_group(members: list[PlainTensor], families: Families) -> GroupPlan:
    dtype, drop = members[0].dtype, members[0].drop
    if len(members) == 1:
        shape = members[0].shape
        layout = _layout(shape if dtype.words == 1 else (*shape, dtype.words))
    else:
        layout = np.array([t.size * dtype.words for t in members], np.int64)
    count = sum(t.size for t in members) * dtype.words
    sequences = []
    shift = drop
    for field, width in enumerate(widths := field_widths(dtype, drop)):

        def load(shift: int = shift, width: int = width) -> np.ndarray:
            return np.concatenate([split_field(t.words(), shift, width) for t in members])

        sequence = SymbolSequence(load, layout, count, members[0], width)
        families.setdefault(("words", dtype.name, drop, field, 1 << width), []).append(sequence)
        sequences.append(sequence)
        shift += width
    return GroupPlan(members, sequences, _BITS, [drop, *widths])
