"""Mutated files with repaired checksums: the reader raises nothing but L2Error, and what it accepts is canonical."""

import contextlib
import copy
import random
import time

import pytest

from l2fmt.container import Limits, Reader, parse_resume
from l2fmt.errors import CorruptFileError, L2Error

LIMITS = Limits(max_tensor_bytes=1 << 30, max_decoded_bytes=1 << 30)
VALUES = [
    None, True, False, -1, 0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 65535, 65536, 1 << 31, (1 << 32) - 1, 1 << 48,
    1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 0.0, -0.0, 0.5, 1.5, float("inf"), float("nan"), "",
    "weight", "bias", "\n", "x" * 40, b"", b"\x80\0\1", b"\0" * 12, [], [0], [[]], [None, None], [0, 8, 4],
    [1, 10, 0, 0, 7, 8, 1], {}, {"a": "b"},
]  # fmt: skip


def explore(data):
    """Use all a reader offers; return whether the file was accepted."""
    try:
        with Reader(data, limits=LIMITS) as reader:
            stored = data[48 : reader.header.payload_offset]
            assert reader.index.to_bytes() == reader.header.index_bytes(stored)
            for group in reader.index.groups:
                assert group.layout.size == group.symbols
                assert group.offset + group.length <= len(data)
            _ = reader.table_sets, reader.class_tables
            for name in reader.names():
                reader.read_group(reader.resolve(name).group)
            reader.verify_checksums()
            for section in reader.index.sections:
                with contextlib.suppress(CorruptFileError):
                    parse_resume(reader.read_section(section), reader.index)
        return True
    except L2Error as error:
        assert str(error)
        return False


def mutate_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        position = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[position] = rng.randrange(256)
            case 1:
                data[position] ^= 1 << rng.randrange(8)
            case 2:
                data[position:position] = rng.randbytes(rng.randrange(1, 6))
            case 3:
                del data[position : position + rng.randrange(1, 9)]
            case 4:
                data[position] = rng.choice(
                    b"\xc0\xc1\xc2\xc4\xc6\xc7\xca\xcb\xcf\xd3\xd9\xdb\xdc\xdd\xde\xdf\x80\x90\xa0\xff"
                )
            case 5:
                other = rng.randrange(len(data))
                data[position : position + 4] = data[other : other + rng.randrange(1, 9)]
    return bytes(data)


def mutate_values(index, rng):
    for _ in range(rng.choice([1, 1, 2, 4])):
        node = index
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and rng.random() < 0.85:
                node = node[key]
                continue
            action = rng.randrange(8)
            if action == 0 and isinstance(node, list):
                node.append(copy.deepcopy(rng.choice(VALUES)))
            elif action == 1:
                del node[key]
            elif action == 2 and isinstance(node, list):
                node.insert(rng.randrange(len(node)), node[key])
            elif isinstance(node[key], int) and action < 6:
                node[key] = max(-(1 << 63), min(node[key] + rng.choice([-1, 1, 4, 8]), (1 << 64) - 1))
            else:
                node[key] = copy.deepcopy(rng.choice(VALUES))
            break
    return index


@pytest.mark.parametrize("seed", range(4))
def test_bytes_of_the_index(broken, seed):
    rng = random.Random(seed)
    start = time.perf_counter()
    accepted = sum(
        explore(broken.file(mutate_bytes(broken.index_bytes, rng), deflated=rng.random() < 0.3)) for _ in range(2000)
    )
    assert accepted < 1000
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("seed", range(4))
def test_values_of_the_index(broken, seed):
    rng = random.Random(seed)
    accepted = sum(explore(broken.file(mutate_values(broken.index(), rng))) for _ in range(2000))
    assert accepted < 1000


def test_bytes_of_the_file(small):
    rng = random.Random(0)
    for _ in range(2000):
        changed = mutate_bytes(small, rng)
        assert changed == small or not explore(changed)


def test_header_fields(broken):
    rng = random.Random(0)
    edges = [0, 1, 2, 47, 48, 255, 65535, 1 << 20, 1 << 31, (1 << 32) - 1]
    names = [
        "required",
        "optional",
        "index_length",
        "inflated",
        "index_checksum",
        "file_length",
        "reserved",
        "checksum",
    ]
    for _ in range(2000):
        fields = {name: rng.choice(edges) for name in rng.sample(names, rng.randrange(1, 4))}
        explore(broken.file(deflated=rng.random() < 0.5, **fields))
