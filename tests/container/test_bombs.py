"""Small files that claim much: refused without memory or time in proportion to the claim (spec/container.md 7)."""

import copy
import json
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import suppress

import pytest

from l2fmt.container import Limits, Reader
from l2fmt.container._msgpack import pack
from l2fmt.errors import CorruptFileError, FormatError, LimitExceededError

# Generous: what is refused on sight takes milliseconds.
SECONDS = 10


@pytest.fixture
def cheaply():
    """Check that a file is refused in little memory beyond the inflated index itself."""

    def check(data, kind, match, megabytes=8, **options):
        start = time.perf_counter()
        tracemalloc.start()
        try:
            with pytest.raises(kind, match=match):
                Reader(data, **options)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < megabytes << 20
        assert time.perf_counter() - start < SECONDS

    return check


def test_index_inflates_to_more_than_claimed(broken, cheaply):
    compressor = zlib.compressobj(9)
    stored = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.flush()
    for claimed in (1, 100, 1 << 20):
        data = broken.file(stored, required=1, inflated=claimed)
        cheaply(data, CorruptFileError, "does not inflate", megabytes=8)
    cheaply(broken.file(stored, required=1, inflated=(1 << 32) - 1), LimitExceededError, "max_inflated_index_bytes")


ARRAY, MAP, STRING, BINARY = b"\xdd", b"\xdf", b"\xdb", b"\xc6"


@pytest.mark.parametrize("count", [1 << 20, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize(
    ("old", "kind"),
    [
        (b"\xa7aliases\x81", MAP),
        (b"\xa6groups\x94", ARRAY),
        (b"\xa8metadata\x82", MAP),
        (b"\xa8sections\x92", ARRAY),
        (b"\xaatable_sets\x92", ARRAY),
        (b"\xa7tensors\x96", ARRAY),
    ],
)
def test_claimed_counts(broken, cheaply, old, kind, count):
    data = broken.file(broken.index_bytes.replace(old, old[:-1] + kind + struct.pack(">I", count)))
    cheaply(data, LimitExceededError, "max_tensors")
    cheaply(data, CorruptFileError, None, limits=Limits.none())


@pytest.mark.parametrize("head", [ARRAY, MAP, STRING, BINARY, b"\xc9"])
@pytest.mark.parametrize("old", [b"\xa7aliases", b"\xa4tied", b"\xa4bias", b"\x93\x03\x02\x02", b"\xc4\x03"])
def test_claimed_lengths_within_an_entry(broken, cheaply, head, old):
    claimed = head + struct.pack(">I", (1 << 32) - 1)
    cheaply(broken.file(broken.index_bytes.replace(old, claimed)), CorruptFileError, None)
    filled = head + struct.pack(">I", 1 << 20) + bytes(1 << 20)
    cheaply(broken.file(broken.index_bytes.replace(old, filled)), CorruptFileError, None, megabytes=16)


@pytest.mark.parametrize(
    "nest", [b"\x91", b"\x81", b"\x92\x90", b"\xdc\x00\x7f", b"\xdc\xff\xff", b"\xdd\x00\xff\xff\xff"]
)
@pytest.mark.parametrize("depth", [9, 100, 1000, 1023, 1024, 1025, 1_000_000])
def test_deep_nesting(broken, cheaply, nest, depth):
    for old in (b"\xa4bias", b"\x93\x03\x02\x02"):
        index = broken.index_bytes.replace(old, nest * depth + b"\xc0")
        cheaply(broken.file(index), CorruptFileError, None, megabytes=32)


def test_many_tensors(broken, cheaply):
    """One more than allowed is refused by its count, before an entry is read."""
    entry = b"\x94\xa4bias\x09\x91\x05\x01"
    before = broken.index_bytes[: broken.index_bytes.index(b"\xa7tensors")]
    index = before + b"\xa7tensors" + ARRAY + struct.pack(">I", 1_000_001) + entry * 1_000_001
    cheaply(broken.file(index, deflated=True), LimitExceededError, "max_tensors", megabytes=40)


def test_streams_are_counted(broken, cheaply):
    index = broken.index() | {"aliases": {}, "metadata": {}, "sections": [], "table_sets": [], "class_set": None}
    index["tensors"] = [["bits", 1, [0], 0]]
    index["groups"] = [[0, [0] + [1] * 8, [None, None], [[0, 0, 1]] * 8, 0, 0]]
    cheaply(broken.file(index), LimitExceededError, "number of streams", limits=Limits(max_tensors=7))


def test_many_metadata(broken, cheaply):
    index = broken.index()
    index["metadata"] = {f"{number:05d}": "" for number in range(1001)}
    cheaply(broken.file(index), LimitExceededError, "number of metadata", limits=Limits(max_tensors=1000))


@pytest.mark.parametrize("shape", [[1 << 47, 1 << 47], [1 << 48] * 32, [1 << 48, 1 << 15]])
def test_shapes_beyond_the_format(broken, cheaply, shape):
    index = broken.index()
    index["tensors"][1][2] = shape
    cheaply(broken.file(index), CorruptFileError, "2\\^63 bytes", limits=Limits.none())


@pytest.mark.parametrize("shape", [[1 << 40, 1], [1, 1 << 47], [1 << 20, 1 << 20, 1 << 20]])
def test_elements_that_cost_no_bytes(broken, cheaply, shape):
    """A table of one symbol codes a whole tensor in nothing: only the limit stands between it and the allocation."""
    index = broken.index()
    index["tensors"][1][2] = shape
    index["groups"][0][2] = [None, None]
    cheaply(broken.file(index), LimitExceededError, "decoded bytes of tensor 'weight'")
    limits = Limits(max_tensor_bytes=1 << 62)
    cheaply(broken.file(index), LimitExceededError, "max_decoded_bytes", limits=limits)


def test_class_offsets_that_cost_no_bytes(broken, cheaply):
    """64 streams of one bit each may have 64 class vectors as long as the tensor: eight times its decoded bytes."""
    index = broken.index() | {"aliases": {}, "sections": [], "class_set": 1}
    index["tensors"] = [["bits", 12, [1 << 20, 1], 0]]
    stream = [1, 0, 0, 0, 1, 8, 0]
    index["groups"] = [[0, [0] + [1] * 64, [None, None], [stream] * 64, 0, 0]]
    limits = Limits(max_tensor_bytes=1 << 23, max_decoded_bytes=1 << 23)
    cheaply(
        broken.file(index), LimitExceededError, f"class offsets of tensor 'bits': {64 << 20} is above", limits=limits
    )
    cheaply(broken.file(index), CorruptFileError, "end at byte")


def test_tables_that_expand(broken, cheaply):
    index = broken.index()
    index["table_sets"] = [[8, 65536, 0, 64, b"\0"]]
    cheaply(broken.file(index), LimitExceededError, "max_table_bytes")
    index["table_sets"] = [[14, 2, 0, 64, b"\0"]] * 3
    cheaply(broken.file(index), LimitExceededError, "max_table_bytes")


def test_many_scales(broken, cheaply):
    """Scales are stored plainly: as many as a shape claims must be in the file."""
    index = broken.index()
    index["tensors"][1][2] = [1 << 30, 1]
    limits = Limits(max_tensor_bytes=1 << 40, max_decoded_bytes=1 << 40)
    cheaply(broken.file(index), CorruptFileError, "end at byte", limits=limits)


COUNT = 5000


@pytest.mark.parametrize(
    ("key", "entries"),
    [
        ("aliases", {f"{number:04x}": "weight" for number in range(COUNT)}),
        ("groups", [[0, [0, 16], [None, None], [[0, 2, 16]], 0, 0]] * COUNT),
        ("metadata", {f"{number:04x}": "" for number in range(COUNT)}),
        ("metadata", {"text": "x" * (4 << 20)}),
        ("sections", [[f"{number:04x}", 0, 0] for number in range(COUNT)]),
        ("table_sets", [[8, 2, 0, 1, b""]] * COUNT),
        ("table_sets", [[8, 2, 0, 1, bytes(4 << 20)]]),
        ("tensors", [[f"{number:04x}", 9, [], 0] for number in range(COUNT)]),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_memory_of_opening_is_a_function_of_the_limits(broken, key, entries):
    """What `Limits` says: five times the inflated index, and 2,000 bytes an entry."""
    index = broken.index() | {key: entries}
    if key == "groups":
        index |= {"aliases": {}, "class_set": None}
        index["tensors"] = [[f"{number:x}", 9, [], number] for number in range(COUNT)]
    count = sum(len(value) for value in index.values() if isinstance(value, list | dict))
    bound = 5 * len(pack(index)) + 2000 * count
    data = broken.file(index, deflated=True)
    del index
    tracemalloc.start()
    try:
        with suppress(FormatError):
            Reader(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bound / 20 < peak < bound


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
def test_bombs_at_the_default_limits(broken, tmp_path):
    """Refused in a tenth of a second and 50 MB, whole process measured; here with ten times as much time."""
    index, before = broken.index(), broken.index_bytes
    million = struct.pack(">I", 1_000_000)
    tensors = before[: before.index(b"\xa7tensors")] + b"\xa7tensors" + ARRAY + million
    groups = before.replace(b"\xa6groups\x94", b"\xa6groups" + ARRAY + million)
    group = pack([0, [0, 16], [None, None], [[0, 2, 16]], 0, 0])
    wide = copy.deepcopy(index)
    wide["tensors"][1][2], wide["groups"][0][2] = [1 << 20] * 2, [None, None]
    shapes = copy.deepcopy(index)
    shapes["tensors"][1][2] = [1 << 48] * 32
    bombs = {
        "inflating": broken.file(bytes(256 << 20), deflated=True),
        "text": broken.file(index | {"metadata": {"": "x" * (255 << 20)}}, deflated=True),
        "tensors": broken.file(tensors + b"\x94\xa4bias\x09\x91\x05\x01" * 1_000_000, deflated=True),
        "groups": broken.file(groups.replace(group, group * 1_000_000), deflated=True),
        "deep": broken.file(before.replace(b"\xa4bias", b"\x91" * 1_000_000 + b"\xc0"), deflated=True),
        "symbols without bits": broken.file(wide, deflated=True),
        "shapes": broken.file(shapes),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "shards").write_bytes(b'{"metadata": {"a": [' + b"{}," * (15 << 18) + b'{}]}, "weight_map": {}}')
    line = [sys.executable, "-c", MEASURE, *bombs, "shards"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for name, error, seconds, memory in json.loads(done.stdout):
        print(f"{name}: {error}, {1e3 * seconds:.1f} ms, {memory / 1e6:.1f} MB")  # pytest -s shows it
        assert error in ("CorruptFileError", "LimitExceededError"), name
        assert memory < 50_000_000 and seconds < 1, (name, error, seconds, memory)


MEASURE = """
import json, sys, time
from pathlib import Path
from l2fmt.container import Reader, read_shard_index

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

found = []
for name in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start, error = memory("VmRSS"), time.perf_counter(), "none"
    try:
        (read_shard_index if name == "shards" else Reader)(name)
    except Exception as raised:
        error = type(raised).__name__
    found.append((name, error, time.perf_counter() - start, memory("VmHWM") - before))
print(json.dumps(found))
"""
