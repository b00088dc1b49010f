"""`index` adds and removes resume points, and changes nothing else."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

import l2fmt
from l2fmt import numpy as arrays
from l2fmt.container import Reader, parse_resume
from l2fmt.container.sections import RESUME, copy
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError, FileAccessError, InputError, LimitExceededError, TargetExistsError
from l2fmt.pipeline import Encoding, QuantizedTensor, check_resume, write_files
from l2fmt.transforms import Uniform

VECTORS = Path(__file__).parents[1] / "spec" / "vectors" / "valid"


@pytest.fixture(scope="module")
def bare(model):
    """The small model without resume points."""
    return l2fmt.index(model, strip=True).data


def weights(*names: str) -> list[QuantizedTensor]:
    rng = np.random.default_rng(3)
    codes = {name: np.rint(rng.laplace(size=(40, 50))).clip(-9, 9).astype(np.int8) for name in names}
    return [QuantizedTensor(name, DTYPES["F32"], (40, 50), codes[name], Uniform(0.1)) for name in names]


def points_of(source) -> int:
    with Reader(source) as reader:
        return check_resume(reader)


def same(a, b) -> bool:
    a, b = arrays.load(a), arrays.load(b)
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a)


def test_a_file_with_points_is_what_packing_with_them_writes(model, bare):
    done = l2fmt.index(bare, interval=256)
    assert done.data == model and len(bare) < len(model)
    assert (done.bytes_before, done.file_bytes, done.added_bytes) == (len(bare), len(model), len(model) - len(bare))
    assert done.points == points_of(model) > 0
    assert same(bare, model)


def test_stripping_gives_back_the_file(bare):
    for interval in (256, 512, 1 << 17):
        done = l2fmt.index(bare, interval=interval)
        back = l2fmt.index(done.data, interval=256, strip=True)
        assert back.data == bare and back.points == 0 and back.added_bytes == -done.added_bytes
    assert l2fmt.index(bare, strip=True).data == bare
    assert done.points == 0 and done.data == bare  # no stream is that long


def test_points_replace_those_that_there_are(bare):
    coarse, fine = (l2fmt.index(bare, interval=interval) for interval in (512, 256))
    assert 0 < coarse.points < fine.points
    assert l2fmt.index(fine.data, interval=512).data == coarse.data


def test_points_are_as_far_apart_in_every_lane():
    """What lies between two points is decoded in a time that goes by the symbols of a lane, not by those of all."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(2)
    sizes = (2000, 20_000, 400_000)
    tensors = [
        QuantizedTensor(f"{size}", DTYPES["F32"], (size,), rng.integers(-9, 10, size).astype(np.int16), Uniform(0.1))
        for size in sizes
    ]
    write_files(buffer, tensors, {}, {})
    done = l2fmt.index(buffer.getvalue(), interval=333)
    assert done.data is not None and l2fmt.verify(done.data).resume_points == done.points
    with Reader(done.data) as reader:
        section = reader.section(RESUME)
        assert section is not None
        records = parse_resume(reader.read_section(section), reader.index)
        lanes = [1 << group.streams[0].lane_bits for group in reader.index.groups]
    assert len(set(lanes)) == 3 and [record.interval for record in records] == [333 * n for n in lanes]
    assert done.points == sum(len(record.positions) for record in records)


@pytest.mark.parametrize("coder", ["raw", "range", "huffman"])
def test_only_rans_has_points(coder):
    buffer = io.BytesIO()
    write_files(buffer, weights("a"), {}, {}, Encoding(coder))
    done = l2fmt.index(buffer.getvalue(), interval=256)
    assert (done.points, done.data) == (0, buffer.getvalue())


def test_streams_and_other_sections_keep_their_bytes(bare):
    with Reader(bare) as reader:
        noted = copy(reader, None, {"note": b"for nobody"})
    done = l2fmt.index(noted, interval=256)
    assert done.data is not None
    with Reader(bare) as before, Reader(done.data) as after:
        assert [section.kind for section in after.index.sections] == ["note", RESUME]
        assert after.read_section(after.index.sections[0]) == b"for nobody"
        starts = [reader.header.payload_offset for reader in (before, after)]
        length = sum(group.length for group in before.index.groups)
    assert bare[starts[0] : starts[0] + length] == done.data[starts[1] : starts[1] + length]
    assert l2fmt.index(done.data, strip=True).data == noted
    parts = l2fmt.inspect(done.data).parts
    assert parts["sections"] == done.file_bytes - starts[1] - length > len(b"for nobody")
    assert l2fmt.verify(done.data).resume_points == done.points


def test_a_path_is_replaced(bare, model, tmp_path):
    path = tmp_path / "model.l2c"
    path.write_bytes(bare)
    os.chmod(path, 0o640)
    done = l2fmt.index(path, interval=256)
    assert path.read_bytes() == model and done.data is None and done.file_bytes == len(model)
    assert path.stat().st_mode & 0o777 == 0o640 and list(tmp_path.iterdir()) == [path]
    assert l2fmt.index(tmp_path, strip=True).points == 0  # the folder means the file in it
    assert path.read_bytes() == bare


def test_another_target(bare, model, tmp_path):
    path, other, buffer = tmp_path / "model.l2c", tmp_path / "other.l2c", io.BytesIO()
    path.write_bytes(bare)
    l2fmt.index(path, other, interval=256)
    assert l2fmt.index(io.BytesIO(bare), buffer, interval=256).file_bytes == len(model)
    assert path.read_bytes() == bare and other.read_bytes() == buffer.getvalue() == model
    with pytest.raises(TargetExistsError):
        l2fmt.index(path, other)
    l2fmt.index(path, other, strip=True, overwrite=True)
    assert other.read_bytes() == bare


def test_shards_in_place(tmp_path):
    tensors = weights("a", "b", "c")
    write_files(tmp_path / "m.l2c", tensors, {"tied": "b"}, {}, max_shard_bytes=8000)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = l2fmt.index(tmp_path, interval=256)
    assert (done.bytes_before, done.points) == (sum(map(len, before.values())), 3 * 7)
    shards = sorted(tmp_path.glob("*.l2c"))
    assert len(shards) == 3 and [points_of(shard) for shard in shards] == [7, 7, 7]
    assert done.file_bytes == l2fmt.inspect(tmp_path).file_bytes
    assert l2fmt.verify(tmp_path).resume_points == 3 * 7
    with pytest.raises(InputError, match="without a target"):
        l2fmt.index(tmp_path, tmp_path / "one.l2c")
    l2fmt.index(tmp_path / "m.l2c.index.json", strip=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_changed_by_a_failure(bare, flipped, tmp_path):
    path = tmp_path / "model.l2c"
    with Reader(bare) as reader:
        damaged = flipped(bare, 8 * reader.index.groups[0].offset + 9)
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError, match="is damaged"):
        l2fmt.index(path, interval=256)
    path.write_bytes(bare)
    for interval in (0, -256, 7, 8.5):
        with pytest.raises(InputError, match="at least 8 symbols of a lane"):
            l2fmt.index(path, interval=interval)  # pyright: ignore[reportArgumentType]
    with pytest.raises(LimitExceededError):
        l2fmt.index(path, limits=l2fmt.Limits(max_decoded_bytes=1000))
    assert path.read_bytes() == bare and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["table-count", "class-set-not-dyadic"])
@pytest.mark.parametrize("strip", [False, True])
def test_a_file_with_wrong_tables_is_not_written_again(name, strip):
    data = (VECTORS.parent / "invalid" / f"{name}.l2c").read_bytes()
    with pytest.raises(CorruptFileError, match="table"):
        l2fmt.index(data, strip=strip)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_stays(bare, tmp_path, monkeypatch, call):
    def failing(*arguments: object) -> None:
        raise OSError(errno.EIO, "broken")

    path = tmp_path / "model.l2c"
    path.write_bytes(bare)
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(FileAccessError, match=r"cannot write .*model\.l2c: broken"):
        l2fmt.index(path, interval=256)
    assert path.read_bytes() == bare and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", sorted(VECTORS.iterdir()), ids=lambda path: path.stem)
def test_every_vector_decodes_to_the_same(path):
    data = path.read_bytes()
    done = l2fmt.index(data, interval=256)
    assert done.data is not None and l2fmt.verify(done.data).resume_points == done.points
    assert same(done.data, data)
    with Reader(data) as before, Reader(done.data) as after:
        assert [group.checksum for group in before.index.groups] == [group.checksum for group in after.index.groups]
        kept = [[s for s in reader.index.sections if s.kind != RESUME] for reader in (before, after)]
        assert [s.kind for s in kept[0]] == [s.kind for s in kept[1]]
