"""Resume points and files without their optional sections."""

import struct

import numpy as np
import pytest

from l2fmt._registry import HUFFMAN, RANS, UNIFORM
from l2fmt.container import Reader, ResumePoints, Stream, TableSetEntry, Writer, build_resume, parse_resume, strip
from l2fmt.container.sections import count_points
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError, TargetExistsError


@pytest.fixture(scope="module")
def index():
    """Group 0: 600 symbols in blocks of 256, 4 lanes. Group 1: huffman. Group 2: 10 symbols, 1 lane."""
    with Writer() as writer:
        writer.add_table_set(TableSetEntry(8, 2, 0, 1, bytes.fromhex("800001")))
        for number, (size, stream) in enumerate(
            [(600, Stream(RANS, block_bits=8, lane_bits=2)), (9, Stream(HUFFMAN)), (10, Stream(RANS, block_bits=30))]
        ):
            writer.add_group(
                [(f"t{number}", DTYPES["F32"], (size,))], UNIFORM, [0, 0.5], (None, None), [(stream, b"bytes")]
            )
    with Reader(writer.getvalue()) as reader:
        return reader.index


def record(group=0, stream=0, interval=100, count=4, lanes=4, state=1 << 16):
    head = struct.pack("<IIII", group, stream, interval, count)
    return head + np.full(count * (1 + lanes), state, "<u4").tobytes()


def test_round_trip(index):
    rng = np.random.default_rng(0)
    records = [
        ResumePoints(2, 0, 3, np.arange(3), rng.integers(1 << 16, 1 << 32, (3, 1))),
        ResumePoints(0, 0, 100, np.arange(4), rng.integers(1 << 16, 1 << 32, (4, 4))),
    ]
    data = build_resume(records)
    assert len(data) == 2 * 16 + 3 * 8 + 4 * 20
    found = parse_resume(data, index)
    assert [record.group for record in found] == [0, 2]
    for given, record in zip(reversed(records), found, strict=True):
        assert (given.stream, given.interval) == (record.stream, record.interval)
        assert np.array_equal(given.positions, record.positions) and np.array_equal(given.states, record.states)
    assert build_resume(found) == data
    assert parse_resume(b"", index) == [] and build_resume([]) == b""


@pytest.mark.parametrize(
    ("interval", "count"), [(100, 4), (128, 2), (256, 0), (4, 63 * 2 + 21), (252, 2), (88, 4), (84, 7)]
)
def test_points_lie_inside_blocks(index, interval, count):
    expected = sum(len(range(interval, length, interval)) for length in (256, 256, 88))
    assert count_points(index.groups[0], index.groups[0].streams[0], interval) == expected == count
    assert len(parse_resume(record(interval=interval, count=count), index)[0].positions) == count


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (record()[:10], "ends within a record"),
        (record()[:-1], "there must be 4"),
        (record() + b"\0", "ends within a record"),
        (record(count=3), "there must be 4"),
        (record(count=5), "there must be 4"),
        (struct.pack("<IIII", 0, 0, 100, (1 << 32) - 1), "there must be 4"),
        (record(group=3), "group is 3"),
        (record(stream=1), "stream is 1"),
        (record(group=1), "only rans"),
        (record(interval=0), "interval is 0"),
        (record(interval=2), "interval is 2"),
        (record(interval=102), "no multiple of the 4 lanes"),
        (record() + record(), "out of order"),
        (record(group=2, interval=5, count=1, lanes=1) + record(), "out of order"),
        (record(state=(1 << 16) - 1), "below 2\\^16"),
    ],
)
def test_rule(index, data, match):
    with pytest.raises(CorruptFileError, match=match):
        parse_resume(data, index)


def test_strip(tmp_path, small, writing):
    bare = writing(sections=False)
    assert strip(small, None) == strip(bare, None) == bare
    (tmp_path / "a.l2c").write_bytes(small)
    strip(tmp_path / "a.l2c", tmp_path / "b.l2c")
    assert (tmp_path / "b.l2c").read_bytes() == bare
    with pytest.raises(TargetExistsError):
        strip(tmp_path / "a.l2c", tmp_path / "b.l2c")
    with Reader(small) as full, Reader(bare) as stripped:
        assert stripped.index.sections == () and len(full.index.sections) == 2
        assert [group.checksum for group in full.index.groups] == [group.checksum for group in stripped.index.groups]
