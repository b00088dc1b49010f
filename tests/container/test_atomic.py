"""A target holds its old content or the whole new one, whatever fails, and nothing is left beside it."""

import errno
import io
import os
import stat
import tempfile

import pytest

from l2fmt.container import Reader, Writer, atomic, atomic_write, strip
from l2fmt.errors import FileAccessError, InputError, TargetExistsError

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


class FailingFile:
    """Wraps a file so that the n-th write, the flush or the close fails."""

    def __init__(self, file, point):
        self._file, self._point, self._writes = file, point, 0

    def write(self, data):
        self._writes += 1
        if self._point == self._writes:
            self._file.write(data[: len(data) // 2])
            fail()
        return self._file.write(data)

    def flush(self):
        if self._point == "flush":
            fail()
        self._file.flush()

    def fileno(self):
        return self._file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()
        if self._point == "close":
            fail()


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("point", [1, 2, 3, "flush", "close", "os.fsync", "os.replace", "os.open"])
def test_failures_leave_no_trace(tmp_path, monkeypatch, writing, point, existing):
    target = tmp_path / "model.l2c"
    if existing:
        target.write_bytes(b"original")
    if isinstance(point, str) and point.startswith("os."):
        monkeypatch.setattr(atomic.os, point[3:], fail)
    else:
        monkeypatch.setattr(atomic, "open", lambda *args: FailingFile(io.FileIO(*args), point), raising=False)
    with pytest.raises(FileAccessError, match=r"cannot write .*model.l2c: No space left"):
        writing(target, overwrite=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["model.l2c"] if existing else [])
    assert not existing or target.read_bytes() == b"original"


def test_exceptions_of_the_caller_leave_no_trace(tmp_path):
    target = tmp_path / "model.l2c"
    target.write_bytes(b"original")
    for error in (ZeroDivisionError, KeyboardInterrupt, ValueError):
        with pytest.raises(error), Writer(target, overwrite=True):
            raise error
        with pytest.raises(error), atomic_write(target, overwrite=True) as file:
            file.write(b"half")
            raise error
    assert os.listdir(tmp_path) == ["model.l2c"]
    assert target.read_bytes() == b"original"


def test_failing_spool(tmp_path, monkeypatch, writing):
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", fail)
    with pytest.raises(FileAccessError, match="No space left"):
        writing(tmp_path / "model.l2c")
    assert not os.listdir(tmp_path)


def test_large_payloads_spill_beside_the_target(tmp_path, monkeypatch, writing, small):
    folders = []
    monkeypatch.setattr("l2fmt.container.writer._SPOOL_MEMORY", 16)
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda *args, **kwargs: folders.append(kwargs["dir"]) or temporary(*args, **kwargs)
    )
    writing(tmp_path / "model.l2c")
    assert folders == [os.path.realpath(tmp_path)]
    assert (tmp_path / "model.l2c").read_bytes() == small
    assert os.listdir(tmp_path) == ["model.l2c"]


def test_existing_targets_need_overwrite(tmp_path, writing, small):
    target = tmp_path / "model.l2c"
    writing(target)
    for error in (TargetExistsError, FileExistsError):
        with pytest.raises(error, match=r"model\.l2c exists"):
            writing(target)
    target.write_bytes(b"other")
    writing(str(target), overwrite=True)
    assert target.read_bytes() == small


def test_target_that_appears_meanwhile(tmp_path):
    target = tmp_path / "model.l2c"
    with pytest.raises(TargetExistsError), Writer(target):
        target.write_bytes(b"mine")
    with pytest.raises(TargetExistsError), atomic_write(target):
        pytest.fail("the target exists")
    assert target.read_bytes() == b"mine"
    target.unlink()
    with pytest.raises(TargetExistsError), atomic_write(target) as file:
        file.write(b"ours")
        target.write_bytes(b"mine")
    assert target.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["model.l2c"]


def test_targets_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(FileAccessError, match="is a directory"):
        Writer(tmp_path, overwrite=True)
    with pytest.raises(FileAccessError, match="no folder"):
        Writer(tmp_path / "missing" / "model.l2c")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # as no folder is closed to root
        with pytest.raises(FileAccessError, match="nothing can be written to the folder"):
            Writer(tmp_path / "model.l2c")
        atomic.check_target(os.devnull, overwrite=False)
    with pytest.raises(FileAccessError, match="without a name"):
        Writer("")
    with pytest.raises(FileAccessError, match="null"):
        Writer("a\0b")
    with pytest.raises(InputError, match="must be a path"):
        Writer(5)


@posix
def test_permissions(tmp_path, writing):
    target = tmp_path / "model.l2c"
    mask = os.umask(0o027)
    try:
        writing(target)
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
    finally:
        os.umask(mask)
    target.chmod(0o600)
    writing(target, overwrite=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@posix
def test_a_private_file_is_private_before_it_has_its_permissions(tmp_path, monkeypatch):
    target = tmp_path / "model.l2c"
    target.touch(0o600)
    modes, chmod = [], os.chmod

    def watched(path, mode):
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", watched)
    with atomic_write(target, overwrite=True) as file:
        file.write(b"data")
    assert modes == [0o600]


@posix
def test_symbolic_links_are_followed(tmp_path, writing, small):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.l2c").symlink_to(tmp_path / "folder" / "model.l2c")
    writing(tmp_path / "link.l2c")
    assert (tmp_path / "link.l2c").is_symlink()
    assert (tmp_path / "folder" / "model.l2c").read_bytes() == small


@posix
def test_pipes_are_not_replaced(tmp_path, writing):
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        writing(tmp_path / "fifo")
        with Reader(file.read()) as reader:
            reader.verify_checksums()
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


def test_saving_over_an_open_file(tmp_path, writing, small):
    target = tmp_path / "model.l2c"
    writing(target)
    with Reader(target) as reader:
        strip(target, target, overwrite=True)
        reader.verify_checksums()
    assert target.stat().st_size < len(small)


def test_file_objects(writing, small):
    class Plain:
        data = b""

        def write(self, data):
            self.data += bytes(data)

    plain, seekable = Plain(), io.BytesIO()
    writing(plain)
    writing(seekable)
    assert plain.data == seekable.getvalue() == small
    seekable.close()
    with pytest.raises(FileAccessError, match="cannot write the file object"):
        writing(seekable)
    plain.write = fail
    with pytest.raises(FileAccessError, match="No space left"):
        writing(plain)
