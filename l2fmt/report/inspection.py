"""What a file holds and what it costs: every byte is counted once."""

import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from l2fmt import _registry
from l2fmt.container import Group, Index, Limits, Reader, TensorEntry
from l2fmt.container.header import HEADER_BYTES, Header
from l2fmt.container.opening import open_readers, shard_index_path
from l2fmt.container.writer import is_path
from l2fmt.pipeline import decode_group

# What the bytes of a model are for, in the order in which they are shown.
PARTS = (
    "header",
    "index",
    "metadata",
    "tables",
    "class_vectors",
    "scales",
    "weights",
    "vectors",
    "lossless",
    "sections",
    "shard_index",
)
_TRANSFORMS = {number: name for name, number in _registry.TRANSFORMS.items()}
_CODERS = {number: name for name, number in _registry.CODERS.items()}
_SLICE = 1 << 20  # elements looked at at once
_SCHEMA = 1


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a file.

    Attributes:
        kind: "weights" (quantized), "vectors" (floats with a rounded mantissa) or "lossless".
        coder: names of the coders of its streams, joined by "+".
        bytes: what it takes of the file, streams, scales and class vectors; in a shared group its share by elements.
        bits_per_weight: of these bytes; None for an empty tensor.
        sparsity: share of elements that are zero, 0..1; None if it is no float, is empty, or was not asked for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    transform: str
    coder: str
    bytes: int
    bits_per_weight: float | None
    sparsity: float | None


@dataclass(frozen=True)
class Inspection:
    """What a model holds and what it costs.

    Attributes:
        path, files: what was opened; the names of all its files. tensors: one row for each tensor, in the order of
        the model. aliases: other names of tensors (tied weights). parts: bytes by purpose, summing to `file_bytes`;
        "class_vectors" has octave scales too, which are coded with them, "scales" all others.
        "index", "metadata" and "tables" share one deflated index; the last two
            count as what it would be shorter without them.
        original_bytes: bytes of the tensors as given to `pack`, if the file says so, else `decoded_bytes`.
    """

    path: str
    files: tuple[str, ...]
    tensors: tuple[TensorRow, ...]
    aliases: dict[str, str]
    metadata: dict[str, str]
    parts: dict[str, int]
    original_bytes: int
    decoded_bytes: int

    @property
    def file_bytes(self) -> int:
        """Bytes of all files of the model."""
        return sum(self.parts.values())

    @property
    def ratio(self) -> float:
        """Bytes of the tensors as given over bytes of all files."""
        return self.original_bytes / self.file_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain values for JSON.

        Keys, which only grow within a "schema": schema, path, files, file_bytes, original_bytes, decoded_bytes,
        ratio, parts (name -> bytes), metadata, aliases, tensors (objects with the attributes of `TensorRow`, and
        share: bytes over file_bytes).
        """
        tensors = [asdict(row) | {"share": row.bytes / self.file_bytes} for row in self.tensors]
        sizes = {"file_bytes": self.file_bytes, "ratio": self.ratio}
        return {"schema": _SCHEMA, **asdict(self), **sizes, "tensors": tensors}


def inspect(source: Any, *, sparsity: bool = True, limits: Limits | None = None) -> Inspection:
    """Look into a `.l2c` file, a shard index, a folder with one of them, bytes or a binary file.

    Without `sparsity` nothing but the index is read. Raises FormatError kinds, FileAccessError kinds.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(reader) for reader in open_readers(source, limits)]
        parts: dict[str, int] = dict.fromkeys(PARTS, 0)
        rows: list[TensorRow] = []
        for reader in readers:
            for name, count in _index_parts(reader).items():
                parts[name] += count
            rows += _rows(reader, parts, sparsity)
            parts["sections"] += sum(section.length for section in reader.index.sections)
        if (index := shard_index_path(source)) is not None:
            parts["shard_index"] = os.path.getsize(index)
        metadata = {key: value for reader in reversed(readers) for key, value in reader.metadata.items()}
        decoded = sum(reader.index.nbytes for reader in readers)
        return Inspection(
            path=os.fsdecode(source) if is_path(source) else readers[0].name,
            files=tuple(reader.name for reader in readers),
            tensors=tuple(rows),
            aliases={alias: name for reader in readers for alias, name in reader.aliases.items()},
            metadata=metadata,
            parts=parts,
            original_bytes=_original_bytes(metadata, decoded),
            decoded_bytes=decoded,
        )


def _original_bytes(metadata: dict[str, str], decoded: int) -> int:
    text = metadata.get("l2fmt.original_bytes", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else decoded


def _index_parts(reader: Reader) -> dict[str, int]:
    """Return the bytes before the first group by purpose."""
    index = reader.index
    bare = tuple(replace(entry, data=b"") for entry in index.table_sets)
    tables = _stored(index) - _stored(replace(index, table_sets=bare))
    metadata = _stored(index) - _stored(replace(index, metadata={}))
    rest = reader.header.index_length - tables - metadata
    return {"header": HEADER_BYTES, "index": rest, "metadata": metadata, "tables": tables}


def _stored(index: Index) -> int:
    return len(Header.build(index.to_bytes(), 0)[1])


def _rows(reader: Reader, parts: dict[str, int], sparsity: bool) -> list[TensorRow]:
    """Return the rows of one file in its order, and add the bytes of its groups to the parts."""
    found: dict[str, TensorRow] = {}
    for number, group in enumerate(reader.index.groups):
        kind = _kind(group)
        parts["class_vectors"] += group.class_bytes
        parts["scales"] += sum(group.scale_bytes)
        parts[kind] += group.length - group.class_bytes - sum(group.scale_bytes)
        zeros = _zeros(reader, number) if sparsity and group.dtype.kind in ("float", "complex") else None
        coder = "+".join(dict.fromkeys(_CODERS[stream.coder] for stream in group.streams))
        for tensor, share in zip(group.tensors, _shares(group), strict=True):
            found[tensor.name] = TensorRow(
                name=tensor.name,
                shape=tensor.shape,
                dtype=tensor.dtype.name,
                kind=kind,
                transform=_TRANSFORMS[group.transform],
                coder=coder,
                bytes=share,
                bits_per_weight=8 * share / tensor.size if tensor.size else None,
                sparsity=zeros[tensor.name] / tensor.size if zeros and tensor.size else None,
            )
    return [found[name] for name in reader.tensors]


def _kind(group: Group) -> str:
    if group.transform != _registry.BITS:
        return "weights"
    return "vectors" if group.parameters[0] else "lossless"


def _shares(group: Group) -> list[int]:
    """Return the bytes of each tensor of a group, in proportion to its elements, summing to those of the group."""
    if not group.size:
        return [group.length] + [0] * (len(group.tensors) - 1)
    ends = np.cumsum([tensor.size for tensor in group.tensors]).tolist()
    bounds = [0, *(group.length * end // group.size for end in ends)]
    return [end - start for start, end in pairwise(bounds)]


def _zeros(reader: Reader, number: int) -> dict[str, int]:
    """Return how many elements of each tensor of a group are zero, of either sign."""
    group = reader.index.groups[number]
    words = [np.empty(tensor.size * tensor.dtype.words, tensor.dtype.word) for tensor in group.tensors]
    decode_group(reader, number, words)
    return {tensor.name: _count_zeros(tensor, array) for tensor, array in zip(group.tensors, words, strict=True)}


def _count_zeros(tensor: TensorEntry, words: np.ndarray) -> int:
    name = tensor.dtype.name
    if name == "F8_E8M0":  # powers of two: none is zero
        return 0
    # The kinds without a negative zero give its pattern to NaN.
    drop = tensor.dtype.word.type(0 if name.endswith("FNUZ") else 1)
    total = 0
    for start in range(0, words.size, _SLICE):
        part = words[start : start + _SLICE] << drop  # without the sign
        elements = part.reshape(-1, tensor.dtype.words)
        total += len(elements) - int(np.count_nonzero(elements.any(1) if tensor.dtype.words > 1 else part))
    return total
