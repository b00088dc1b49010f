"""Ways to break a sound file so that all its checksums stay right (used by invalid.py)."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack

from l2fmt._registry import BITS, UNIFORM
from l2fmt.container import Reader

from .building import FileBuilder, assembled, geometric_counts
from .valid_coding import resume

COUNTS = geometric_counts(5, 2, 8, (1, 2))


def sound() -> bytes:
    """Return a valid file of two groups: `coded` with class vectors, and the raw tensors `x` and `y`."""
    builder = FileBuilder(99, {"author": "nobody"}, class_tables=True)
    number = builder.tables([COUNTS, COUNTS[::-1]], 8, 2)
    coded = builder.coded("rans", number, (3, 2, 1), row=[0, 1, 0], symbols=[0, 1, 2, 3, 4, 2])
    scales = (struct.pack("<3f", 1, 2, 3), b"")
    builder.group([("coded", "F32", (3, 2))], UNIFORM, [2, 0.5], [coded], ("F32", None), scales)
    builder.group([("x", "U8", (2,)), ("y", "U8", (1,))], BITS, [0, 8], [builder.raw([1, 2, 3], 8)])
    builder.writer.add_alias("tied", "x")
    builder.writer.add_section("note", b"for nobody")
    return builder.finish()


def edited(*changes: tuple[tuple[Any, ...], Any], data: bytes | None = None, payload: bytes | None = None) -> bytes:
    """Return the valid file with entries of its index changed, each named by its path, and with another payload."""
    index, found = split(sound() if data is None else data)
    payload = found if payload is None else payload
    tree = msgpack.unpackb(index)
    for (*path, last), value in changes:
        entry = tree
        for step in path:
            entry = entry[step]
        entry[last] = value
    return assembled(msgpack.Packer(use_single_float=True).pack(tree), payload)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return the inflated index of a file and what follows it."""
    with Reader(data) as reader:
        return reader.index.to_bytes(), data[reader.header.payload_offset :]


def index_replaced(old: bytes, new: bytes, data: bytes | None = None) -> bytes:
    """Return the valid file with bytes of its index replaced."""
    index, payload = split(sound() if data is None else data)
    assert index.count(old) == 1
    return assembled(index.replace(old, new), payload)


def changed_group(data: bytes, change: Callable[[bytes], bytes], **fields: Any) -> bytes:
    """Return a file of one group and no section with its bytes and fields of its entry changed; checksums are right."""
    payload = change(split(data)[1])
    numbers = {"scales": 2, "streams": 3, "class_bytes": 4}
    changes = [(("groups", 0, numbers[name]), value) for name, value in fields.items()]
    return edited((("groups", 0, 5), zlib.crc32(payload)), *changes, data=data, payload=payload)


def table_bytes(value: int, bits: int, alphabet: int) -> bytes:
    """Return a file whose one table set is this bit string."""
    builder = FileBuilder(98)
    number = builder.tables([[256] + [0] * (alphabet - 1)], 8, 0)
    coded = builder.coded("rans", number, (1, 4, 1))
    builder.group([("w", "F32", (4,))], UNIFORM, [0, 1.0], [coded])
    return edited((("table_sets", 0, 4), value.to_bytes(-(-bits // 8), "little")), data=builder.finish())


def stream(coder: str, tamper: Callable[[bytes], bytes], count: int = 11, **options: Any) -> bytes:
    """Return a file of one stream whose bytes are tampered with."""
    builder = FileBuilder(97)
    dyadic = [16, 64, 128, 32, 16]
    number = builder.tables([dyadic if coder == "huffman" else COUNTS], 8, 2)
    symbols = [i * i % 5 for i in range(count)]
    coded = (
        builder.raw(symbols, 3)
        if coder == "raw"
        else builder.coded(coder, number, (1, count, 1), symbols=symbols, **options)
    )
    builder.group([("w", "F32", (count,))], UNIFORM, [2, 1.0], [replace(coded, data=tamper(coded.data))])
    return builder.finish()


def quantized(
    transform: int, parameters: list[Any], symbols: list[int], *, scale: tuple[str, bytes] | None = None
) -> bytes:
    """Return a file of one quantized tensor of shape (2, n / 2), its symbols raw."""
    builder = FileBuilder(96)
    coded = builder.raw(symbols, 3)
    scales, stored = ((scale[0], None), (scale[1], b"")) if scale else ((None, None), (b"", b""))
    builder.group([("w", "F32", (2, len(symbols) // 2))], transform, parameters, [coded], scales, stored)
    return builder.finish()


def group_bytes(position: int, bits: int) -> bytes:
    """Return the valid file with bits of a byte of its first group turned, and the group's checksum right."""
    index, payload = split(sound())
    with Reader(sound()) as reader:
        length = reader.index.groups[0].length
    changed = bytearray(payload)
    changed[position % length] ^= bits
    return edited((("groups", 0, 5), zlib.crc32(changed[:length])), data=assembled(index, bytes(changed)))


def deflated(stored: bytes, inflated: int) -> bytes:
    """Return the valid file with a deflated index of that claimed length."""
    _, payload = split(sound())
    return assembled(stored, payload, inflated_index_length=inflated, required=1)


def deflated_index(extra: bytes = b"", missing: int = 0) -> bytes:
    """Return the valid file deflated, with bytes after the zlib stream or too short a length claimed."""
    index, _ = split(sound())
    return deflated(zlib.compress(index, 9) + extra, len(index) - missing)


def many_tables() -> bytes:
    """Return a file whose tables take 24 MiB once they are expanded."""
    builder = FileBuilder(95)
    builder.tables([[1 << 14, 0]] * 64, 14, 0)
    builder.group([("w", "U8", (1,))], BITS, [0, 8], [builder.raw([0], 8)])
    data = builder.finish()
    (entry,) = msgpack.unpackb(split(data)[0])["table_sets"]
    return edited((("table_sets",), [entry] * 3), data=data)


def bomb() -> bytes:
    """Return a file that claims 2^45 elements, of a symbol that takes no bits."""
    builder = FileBuilder(94)
    number = builder.tables([[256]], 8, 0)
    coded = builder.coded("range", number, (1, 4, 1), block_bits=30)
    builder.group([("w", "F32", (4,))], UNIFORM, [0, 1.0], [coded])
    return edited((("tensors", 0, 2), [1 << 45]), data=builder.finish())


def resume_points(row: int, column: int, value: int) -> bytes:
    """Return the vector `resume` with one number of its first record changed: words read, and the states of 4 lanes."""
    data = resume().finish()
    with Reader(data) as reader:
        (section,) = reader.index.sections
    content = bytearray(data[section.offset :])
    struct.pack_into("<I", content, 16 + 4 * (5 * row + column), value)
    changed = data[: section.offset] + bytes(content)
    return edited((("sections", 0, 2), zlib.crc32(content)), data=changed)
