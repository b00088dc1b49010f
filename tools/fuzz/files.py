"""Changes of `.l2c` files that get past the checksums: what is changed is put together again with those made right."""

import random
import zlib
from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any

from l2fmt import _registry
from l2fmt.container import Limits, rules
from l2fmt.container.entries import Group
from l2fmt.container.header import HEADER_BYTES
from l2fmt.container.index import Index
from l2fmt.dtypes import dtype_by_id
from l2fmt.errors import FormatError
from tools.fuzz.mutation import Mutate, mutate_bytes, mutate_tree, packed, unpacked
from tools.vectors.building import assembled

_HEADER_FIELDS = (
    "major", "minor", "required", "optional", "index_length", "inflated_index_length", "index_checksum", "file_length",
)  # fmt: skip
_EDGES = (0, 1, 2, 47, 48, 255, (1 << 16) - 1)
_MOST_BYTES = 1 << 16
_CHECKSUM = {"groups": 5, "sections": 2}  # its place in an entry


def index_of(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the inflated index of a file and what follows it, None if it has none."""
    length = int.from_bytes(data[20:24], "little")
    stored = data[HEADER_BYTES : HEADER_BYTES + length]
    if data[12:13] == b"\1":
        try:
            stored = zlib.decompressobj().decompress(stored, _MOST_BYTES)
        except zlib.error:
            return None
    return (stored, data[HEADER_BYTES + length :]) if stored else None


def mutate_file(seeds: Sequence[bytes], classes_only: bool = False) -> Mutate:
    """Return a mutation of files; entries of their indexes may come from those of the seeds.

    With `classes_only` it turns to what follows the streams of a group: scales and class vectors.
    """
    donors = [tree for seed in seeds if (found := index_of(seed)) and (tree := unpacked(found[0]))]

    def mutate(data: bytes, rng: random.Random) -> bytes:
        kind = rng.random()
        found = index_of(data)
        if found is None or kind < 0.03:
            return mutate_bytes(data, rng)
        index, payload = found
        if kind < 0.06:
            return assembled(index, payload, **{rng.choice(_HEADER_FIELDS): rng.choice(_EDGES)})
        tree = unpacked(index)
        if kind < 0.1 or not isinstance(tree, dict):
            return _with_index(mutate_bytes(index, rng), payload, rng)
        pieces = [payload]
        groups, sections = _parsed(index)
        if groups and sum(length for length in [*(group.length for group in groups), *sections]) == len(payload):
            pieces = _cut(payload, [*(group.length for group in groups), *sections])
            if kind < 0.6:
                number = rng.randrange(len(pieces))
                if number < len(groups):
                    entry = tree["groups"][number]
                    pieces[number] = _mutate_group(pieces[number], groups[number], entry, rng, classes_only)
                else:
                    pieces[number] = mutate_bytes(pieces[number], rng)
                    tree["sections"][number - len(groups)][1] = len(pieces[number])
                return _joined(tree, pieces, rng)
        mutate_tree(tree, rng, donors)
        if rng.random() < 0.9:
            _mend(tree)
        return _joined(tree, pieces, rng)

    return mutate


def _parsed(index: bytes) -> tuple[Sequence[Group], list[int]]:
    """Return the groups of an index and the lengths of its sections; none if it is not valid."""
    try:
        parsed = Index.parse(index, Limits.none(), HEADER_BYTES + len(index))
    except FormatError:
        return (), []
    return parsed.groups, [section.length for section in parsed.sections]


def _cut(data: bytes, lengths: list[int]) -> list[bytes]:
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return pieces


def _mutate_group(data: bytes, group: Group, entry: list[Any], rng: random.Random, classes_only: bool) -> bytes:
    """Return the bytes of a group with a stream or what follows the streams changed, and its entry made to fit."""
    lengths = [length for stream in group.streams for length in (stream.length, stream.padding)]
    *streams, rest = _cut(data, [*lengths, len(data)])
    if classes_only or rng.random() < 0.3:
        changed = mutate_bytes(rest, rng)
        entry[4] = max(group.class_bytes + len(changed) - len(rest), 0)
        return b"".join(streams) + changed
    place = rng.randrange(len(group.streams))
    changed = mutate_bytes(streams[2 * place], rng)
    entry[3][place][1] = len(changed)
    streams[2 * place : 2 * place + 2] = changed, bytes(-len(changed) % 4)
    return b"".join([*streams, rest])


def _mend(tree: dict[str, Any]) -> None:
    """Make right what follows from other entries: the order of maps, and the lengths of raw streams."""
    try:
        for key in ("aliases", "metadata"):
            tree[key] = dict(sorted(tree[key].items()))
        symbols = [0] * len(tree["groups"])
        for _, dtype, shape, group in tree["tensors"]:
            symbols[group] += prod(map(index, shape)) * dtype_by_id(dtype).words  # a list times a number is long
        for count, (_, _, _, streams, _, _) in zip(symbols, tree["groups"], strict=True):
            for stream in streams:
                if stream[0] == _registry.RAW:
                    stream[1] = min(-(-count * stream[2] // 8), rules.MAX_SIZE)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, FormatError):
        pass  # too much is wrong already


def _joined(tree: dict[str, Any], pieces: list[bytes], rng: random.Random) -> bytes:
    """Return a file of an index and the bytes of its groups and sections, cut or filled up to what the index says."""
    index = packed(tree)
    groups, sections = _parsed(index)
    lengths = [*(group.length for group in groups), *sections]
    if groups and sum(lengths) < _MOST_BYTES:
        whole = pieces + [b""] * (len(lengths) - len(pieces))
        pieces = [piece[:length].ljust(length, b"\0") for piece, length in zip(whole, lengths, strict=False)]
        entries = [(entry, _CHECKSUM[key]) for key in _CHECKSUM for entry in tree[key]]
        for (entry, place), piece in zip(entries, pieces, strict=True):
            entry[place] = zlib.crc32(piece)
        index = packed(tree)
    return _with_index(index, b"".join(pieces), rng)


def _with_index(index: bytes, payload: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return assembled(zlib.compress(index), payload, inflated_index_length=len(index), required=1)
    return assembled(index, payload)
