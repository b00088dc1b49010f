"""Every kind of source gives the same file, and what the system refuses is a FileAccessError."""

import io
import mmap
import os
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from l2fmt.container import Limits, Reader
from l2fmt.container.sources import open_source
from l2fmt.errors import CorruptFileError, FileAccessError, InputError, LimitExceededError, MissingFileError

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


@pytest.fixture
def path(tmp_path, small):
    path = tmp_path / "model.l2c"
    path.write_bytes(small)
    return path


def contents(source, **options):
    """Read everything a file holds."""
    with Reader(source, **options) as reader:
        reader.verify_checksums()
        groups = [reader.read_group(number) for number in range(len(reader.index.groups))]
        streams = [[stream.tobytes() for stream in group.streams] for group in groups]
        scales = [(group.row_scales, group.column_scales, group.class_bytes) for group in groups]
        return reader.index, streams, scales, reader.read_section(reader.index.sections[0])


class Slow(io.RawIOBase):
    """A file object that gives one byte at a time, and may not seek."""

    def __init__(self, data, seekable):
        self._data, self._seekable = io.BytesIO(data), seekable

    def read(self, size=-1):
        return self._data.read(min(size, 1) if size >= 0 else size)

    def seekable(self):
        return self._seekable

    def seek(self, *where):
        return self._data.seek(*where)


def test_paths_buffers_and_files(path, small):
    expected = contents(small)
    assert contents(path) == contents(str(path)) == expected
    for buffer in (bytearray(small), memoryview(small), np.frombuffer(small, np.uint8)):
        assert contents(buffer) == expected
    with path.open("rb") as file:
        file.seek(5)
        assert contents(file) == expected
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert contents(mapped) == expected
    assert contents(io.BytesIO(small)) == expected
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(small)
        assert contents(spooled) == expected
    assert contents(Slow(small, True)) == contents(Slow(small, False)) == expected


@posix
def test_pipes(tmp_path, small, monkeypatch):
    expected = contents(small)
    os.mkfifo(tmp_path / "fifo")
    thread = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(small,))
    thread.start()
    assert contents(tmp_path / "fifo") == expected
    thread.join()
    for standard_input in (False, True):
        reading, writing = os.pipe()
        with open(writing, "wb") as end:
            end.write(small)
        with open(reading, "rb") as file:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
            assert contents("-" if standard_input else file) == expected


def test_streams_are_read_whole_within_a_limit(small):
    limits = Limits(max_decoded_bytes=len(small) - 1)
    with pytest.raises(LimitExceededError, match="cannot seek"):
        Reader(Slow(small, False), limits=limits)
    endless = Slow(small + bytes(1 << 20), False)
    with pytest.raises(CorruptFileError, match="appended"):
        Reader(endless)
    assert endless._data.tell() == len(small) + 1
    with pytest.raises(CorruptFileError, match="truncated"):
        Reader(Slow(small[:-1], False))
    with pytest.raises(CorruptFileError, match="not an"):
        Reader(Slow(b"PK" + bytes(100), False))


@posix
def test_devices(small):
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(CorruptFileError, match=r"not an \.l2c file"):
            Reader(device)


def test_opening_reads_only_what_it_needs(small):
    reads = []

    class Counting(io.BytesIO):
        def read(self, size=-1, /):
            reads.append(size)
            return super().read(size)

    with Reader(Counting(small)):
        assert len(reads) == 1


def test_what_cannot_be_opened(tmp_path, path, small):
    with pytest.raises(MissingFileError, match=r"missing\.l2c"):
        Reader(tmp_path / "missing.l2c")
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "missing.l2c")
    with pytest.raises(FileAccessError, match=r"cannot read .*(irectory|denied)"):
        Reader(tmp_path)
    with pytest.raises(FileAccessError, match="null"):
        Reader("a\0b")
    with pytest.raises(FileAccessError):
        Reader(path / "below")
    for source in (None, 5, 1.5, [small], np.zeros((4, 4), np.uint8)[:, ::2]):
        with pytest.raises(InputError, match="must be a path"):
            Reader(source)
    with pytest.raises(InputError, match="binary mode"), path.open(encoding="latin-1") as file:
        Reader(file)
    with pytest.raises(InputError, match="binary mode"):
        Reader(io.StringIO("text"))
    closed = io.BytesIO(small)
    closed.close()
    with pytest.raises(FileAccessError, match="closed"):
        Reader(closed)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.close()
    with pytest.raises(FileAccessError, match="closed"):
        Reader(mapped)


def test_file_objects_that_misbehave(small):
    class Bad(io.BytesIO):
        answer: Any = staticmethod(lambda data: data)

        def read(self, size=-1, /):
            return self.answer(super().read(size))

    def fail(data):
        raise OSError(5, "Input/output error")

    for answer, match in [(fail, "Input/output"), (lambda data: None, "not ready"), (lambda data: data + b"x", "more")]:
        with pytest.raises(FileAccessError, match=match):
            bad = Bad(small)
            bad.answer = answer
            Reader(bad)
    file = Bad(small)
    with Reader(file) as reader:
        file.answer = fail
        with pytest.raises(FileAccessError, match="Input/output"):
            reader.read_group(0)


def test_reading_after_close(path, small):
    for source in (path, small):
        reader = Reader(source)
        reader.close()
        reader.close()
        with pytest.raises(FileAccessError):
            reader.read_group(0)


def test_file_that_changes_while_open(path, small):
    with Reader(path) as reader:
        group = reader.index.groups[0]
        before = reader.read_group(0)
        copy = before.streams[0].tobytes()
        with path.open("r+b") as file:
            file.seek(group.offset)
            file.write(b"zzz")
        assert before.streams[0].tobytes() == copy
        with pytest.raises(CorruptFileError, match="'weight' is damaged"):
            reader.read_group(0)
        with path.open("r+b") as file:
            file.truncate(group.offset + 4)
        with pytest.raises(CorruptFileError, match="ended at byte"):
            reader.read_group(0)


def test_buffer_that_changes_while_open(small):
    data = bytearray(small)
    with Reader(data) as reader:
        streams = reader.read_group(0).streams
        data[:] = bytes(len(data))
        assert streams[0].tobytes() == b"0123456789"


def test_arrays_are_aligned_and_owned(path, small):
    for source in (path, small, io.BytesIO(small)):
        with Reader(source) as reader:
            for stream in reader.read_group(1).streams:
                assert stream.ctypes.data % 4 == 0
                assert stream.flags.writeable


@posix
def test_short_reads_are_completed(path, small, monkeypatch):
    expected = contents(small)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:3]], offset))
    assert contents(path) == expected


def test_systems_without_positional_reads(path, small, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    assert contents(path) == contents(small)


def test_threads_share_a_reader(path):
    for source in (path, io.BytesIO(path.read_bytes())):
        with Reader(source) as reader, ThreadPoolExecutor(8) as pool:
            expected = [reader.read_group(number).streams[0].tobytes() for number in range(4)]
            results = pool.map(lambda n: reader.read_group(n % 4).streams[0].tobytes(), range(400))
            assert list(results) == expected * 100


def test_a_source_can_be_given_ready_made(small):
    assert contents(open_source(small, 0)) == contents(small)
    with pytest.raises(CorruptFileError, match="are missing"):
        open_source(small, 0).read(len(small) - 1, 2)


def test_index_larger_than_the_first_read(breaking, small, tmp_path):
    broken = breaking(small)
    index = broken.index()
    index["metadata"] = {f"{number:06d}": "x" * 20 for number in range(5000)}
    data = broken.file(index)
    (tmp_path / "big.l2c").write_bytes(data)
    assert contents(tmp_path / "big.l2c")[1:] == contents(data)[1:] == contents(small)[1:]
