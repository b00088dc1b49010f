"""Random changes of bytes, and of the trees that MessagePack and JSON hold; equal random numbers, equal changes."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from l2fmt.container._msgpack import pack

Mutate = Callable[[bytes, random.Random], bytes]

_MSGPACK_HEADS = b"\xc0\xc1\xc2\xc4\xc6\xc7\xca\xcb\xcf\xd3\xd9\xdb\xdc\xdd\xde\xdf\x80\x90\xa0\xff"
_VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 65535, 65536, 1 << 31, (1 << 32) - 1, 1 << 48,
    1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 0.0, -0.0, 0.5, 1.5, 1e-45, 3e38, float("inf"),
    float("nan"), "", "weight", "bias", "a/b", "..", "\n", "x" * 40, b"", b"\x80\0\1", b"\0" * 12, [], [0], [[]],
    [None, None], [0, 8, 4], [1, 10, 0, 0, 7, 8, 1], {}, {"a": "b"},
]  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few of them changed, added, removed or repeated."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        position = rng.randrange(len(changed) + 1)
        part = slice(position, position + rng.randrange(1, 9))
        match rng.randrange(7) if position < len(changed) else 0:
            case 0:
                changed[position:position] = rng.randbytes(rng.randrange(1, 6))
            case 1:
                changed[position] = rng.randrange(256)
            case 2:
                changed[position] ^= 1 << rng.randrange(8)
            case 3:
                changed[position] = rng.choice(_MSGPACK_HEADS)
            case 4:
                del changed[part]
            case 5:
                other = rng.randrange(len(changed))
                changed[part] = changed[other : other + part.stop - part.start]
            case 6:
                changed[part] = bytes([rng.choice((0, 255))]) * len(changed[part])
    return bytes(changed)


def mutate_tree(tree: Any, rng: random.Random, donors: Sequence[Any] = ()) -> None:
    """Change a few entries of a tree of maps and arrays in place; what replaces one may come from a similar tree."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        node, path = tree, []
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            path.append(key)
            if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.15:
                _mutate_entry(node, key, rng, _counterpart(path, rng, donors))
                break
            node = node[key]


def _mutate_entry(node: Any, key: Any, rng: random.Random, donated: Any) -> None:
    value = node[key]
    match rng.randrange(10):
        case 0 if isinstance(node, list):
            node.append(copy.deepcopy(rng.choice(_VALUES)))
        case 1:
            del node[key]
        case 2 if isinstance(node, list):
            node.insert(rng.randrange(len(node)), copy.deepcopy(value))
        case 2:
            node[_other_name(str(key), rng)] = copy.deepcopy(value)
        case 3 | 4 if donated is not None:
            node[key] = copy.deepcopy(donated)
        case 5:
            node[key] = copy.deepcopy(rng.choice(_VALUES))
        case _:
            node[key] = _near(value, rng)


def _near(value: Any, rng: random.Random) -> Any:
    """Return a value of the same type that differs a little."""
    if isinstance(value, bool) or value is None:
        return rng.choice((None, True, False, 0))
    if isinstance(value, int):
        step = rng.choice((-8, -4, -1, 1, 1, 2, 4, 8, 255, 256))
        changed = rng.choice((value + step, value + step, value ^ 1 << rng.randrange(17), value * 2, value // 2))
        return min(max(changed, -(1 << 63)), (1 << 64) - 1)
    if isinstance(value, float):
        return rng.choice((-value, value * 2, value / 2, value * 1e20, value * 1e-30, 0.0, float("inf")))
    if isinstance(value, bytes):
        return mutate_bytes(value, rng)
    if isinstance(value, str):
        return _other_name(value, rng)
    if isinstance(value, list):
        return rng.sample(value, len(value))
    return {}


def _other_name(name: str, rng: random.Random) -> str:
    return mutate_bytes(name.encode("utf-8", "replace"), rng).decode("utf-8", "replace")


def _counterpart(path: list[Any], rng: random.Random, donors: Sequence[Any]) -> Any:
    """Return what some donor has at a path, any entry of an array being as good as another; None if it has nothing."""
    node = rng.choice(donors) if donors else None
    for key in path:
        if isinstance(node, dict):
            node = node.get(key)
        else:
            node = rng.choice(node) if isinstance(node, list) and node else None
    return node


def mutate_packed(donors: Sequence[Any] = ()) -> Mutate:
    """Return a mutation of one MessagePack object."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.1 or (tree := unpacked(data)) is None:
            return mutate_bytes(data, rng)
        mutate_tree(tree, rng, donors)
        return packed(tree)

    return mutate


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with a few entries changed, or a few bytes."""
    try:
        tree = json.loads(data)
        if rng.random() < 0.8:
            mutate_tree(tree, rng)
            return json.dumps(tree, default=str, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        pass
    return mutate_bytes(data, rng)


def packed(tree: Any) -> bytes:
    """Return a tree as MessagePack, its floats in 32 bits where they can be, and integers modulo 2**64 if too large."""
    try:
        return pack(tree)
    except OverflowError:
        return msgpack.Packer(default=lambda value: value % 2**64).pack(tree)


def unpacked(data: bytes) -> Any:
    """Return the MessagePack object that bytes hold, None if they hold no array or map."""
    try:
        tree = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return None
    return tree if isinstance(tree, dict | list) else None
