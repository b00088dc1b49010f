"""Sharded models: each rule of spec/container.md 10."""

import json

import pytest

from l2fmt._registry import BITS, RAW
from l2fmt.container import (
    Limits,
    Stream,
    Writer,
    plan_shards,
    read_shard_index,
    shard_names,
    write_shard_index,
)
from l2fmt.dtypes import DTYPES
from l2fmt.errors import (
    CorruptFileError,
    FormatError,
    InputError,
    LimitExceededError,
    MissingFileError,
    TargetExistsError,
)


def write_shard(path, *names, aliases=(), data=b"abc", overwrite=False):
    with Writer(path, overwrite=overwrite) as writer:
        for name in names:
            streams = [(Stream(RAW, width=8), data)]
            writer.add_group([(name, DTYPES["U8"], (3,))], BITS, [0, 8], (None, None), streams)
        for alias, name in aliases:
            writer.add_alias(alias, name)


@pytest.fixture
def model(tmp_path):
    """A model of tensors a, b, c in two shards, with alias d of c."""
    first, second = shard_names("model", 2)
    write_shard(tmp_path / first, "a", "b")
    write_shard(tmp_path / second, "c", aliases=[("d", "c")])
    path = tmp_path / "model.l2c.index.json"
    write_shard_index(path, {"d": second, "a": first, "b": first, "c": second}, 9, metadata={"by": "nobody"})
    return path


def test_round_trip(model):
    index = read_shard_index(model)
    assert index.files == ["model-00001-of-00002.l2c", "model-00002-of-00002.l2c"]
    assert index.folder == model.parent and index.metadata == {"by": "nobody", "total_size": 9}
    assert list(index.weight_map) == ["a", "b", "c", "d"]
    readers = index.open()
    for file, reader in readers.items():
        assert [index.weight_map[name] for name in reader.names()] == [file] * len(reader.names())
        reader.close()
    text = model.read_bytes()
    write_shard_index(model, index.weight_map, 9, metadata={"by": "nobody"}, overwrite=True)
    assert model.read_bytes() == text
    with pytest.raises(TargetExistsError):
        write_shard_index(model, {}, 0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a": "model-00002-of-00002.l2c"}, "'model-00001-of-00002.l2c' holds tensor 'a'"),
        ({"a": None}, "'model-00001-of-00002.l2c' holds tensor 'a'"),
        ({"d": None}, "holds tensor 'd'"),
        ({"d": "model-00001-of-00002.l2c"}, "does not hold tensor 'd'"),
        ({"e": "model-00002-of-00002.l2c"}, "does not hold tensor 'e'"),
    ],
)
def test_shards_hold_what_the_map_says(model, change, match):
    value = json.loads(model.read_text())
    value["weight_map"] = {name: file for name, file in (value["weight_map"] | change).items() if file}
    model.write_text(json.dumps(value))
    with pytest.raises(CorruptFileError, match=match):
        read_shard_index(model).open()


def bind(model):
    """Write the index anew, with the checksums of its shards."""
    index = read_shard_index(model)
    readers = index.open()
    checksums = {file: reader.index.content_checksum for file, reader in readers.items()}
    for reader in readers.values():
        reader.close()
    write_shard_index(model, index.weight_map, 9, checksums, overwrite=True)


def test_shards_of_other_models_are_refused(model):
    first, second = (model.parent / name for name in shard_names("model", 2))
    kept = second.read_bytes()
    write_shard(second, "c", aliases=[("d", "c")], data=b"xyz", overwrite=True)
    for reader in read_shard_index(model).open().values():  # nothing binds them
        reader.close()
    second.write_bytes(kept)
    bind(model)
    for reader in read_shard_index(model).open().values():
        reader.close()
    write_shard(second, "c", aliases=[("d", "c")], data=b"xyz", overwrite=True)
    with pytest.raises(CorruptFileError, match=r"'model-00002-of-00002\.l2c' is not the one"):
        read_shard_index(model).open()
    second.write_bytes(kept)
    write_shard(first, "b", "a", overwrite=True)  # the same bytes under exchanged names
    with pytest.raises(CorruptFileError, match=r"'model-00001-of-00002\.l2c' is not the one"):
        read_shard_index(model).open()


@pytest.mark.parametrize(
    "checksums",
    [None, [], {}, {"x.l2c": 1, "y.l2c": 1}, {"y.l2c": 1}, *({"x.l2c": n} for n in (-1, 1 << 32, 1.0, "1", True))],
)
def test_checksums_that_are_refused(tmp_path, checksums):
    path = tmp_path / "model.l2c.index.json"
    value = {"metadata": {"checksums": checksums}, "weight_map": {"a": "x.l2c"}}
    path.write_text(json.dumps(value))
    with pytest.raises(CorruptFileError, match="checksum"):
        read_shard_index(path)
    if isinstance(checksums, dict):
        with pytest.raises(InputError, match="checksum"):
            write_shard_index(path, value["weight_map"], 1, checksums, overwrite=True)


def test_shards_must_exist_and_be_whole(model):
    second = model.parent / "model-00002-of-00002.l2c"
    data = second.read_bytes()
    second.write_bytes(data[:-1])
    with pytest.raises(CorruptFileError, match="truncated"):
        read_shard_index(model).open()
    second.unlink()
    with pytest.raises(MissingFileError, match="00002"):
        read_shard_index(model).open()


def test_limits(model):
    for limits in (Limits(max_index_bytes=10), Limits(max_tensors=3)):
        with pytest.raises(LimitExceededError):
            read_shard_index(model, limits)
    with pytest.raises(LimitExceededError, match="all shards"):
        read_shard_index(model).open(Limits(max_decoded_bytes=8))


GOOD = {"metadata": {"total_size": 1}, "weight_map": {"a": "a.l2c"}}
TEXTS = [
    ("", "not valid JSON"),
    ("{", "not valid JSON"),
    ("[]", "must be an object"),
    ("null", "must be an object"),
    ("{}", "must be an object"),
    ("[" * 100_000, "not valid JSON"),
    ('{"a":' * 100_000, "not valid JSON"),
    ('{"weight_map": {}}', "must be an object"),
    ('{"metadata": {}}', "must be an object"),
    ('{"metadata": [], "weight_map": {}}', "must be an object"),
    ('{"metadata": {}, "weight_map": []}', "must be an object"),
    ('{"metadata": {}, "weight_map": {"a": "x.l2c", "a": "y.l2c"}}', "repeats the key 'a'"),
    ('{"metadata": {}, "weight_map": {}, "weight_map": {}}', "repeats the key 'weight_map'"),
    ('{"metadata": {"b": 1, "b": 1}, "weight_map": {}}', "repeats the key 'b'"),
    ('{"metadata": {"b": NaN}, "weight_map": {}}', "NaN"),
    ('{"metadata": {"b": -Infinity}, "weight_map": {}}', "Infinity"),
    ('{"metadata": {"b": ' + "9" * 10_000 + '}, "weight_map": {}}', "not valid JSON"),
    ('{"metadata": {}, "weight_map": {}} x', "not valid JSON"),
    (b"\xff\xfe{", "not valid JSON"),
    (b'{"metadata": {}, "weight_map": {"\xff": "a.l2c"}}', "not valid JSON"),
    ('{"metadata": {}, "weight_map": {"\\ud800": "a.l2c"}}', "not valid Unicode"),
    ('{"metadata": {}, "weight_map": {"": "a.l2c"}}', "0 bytes"),
    ('{"metadata": {}, "weight_map": {"a\\n": "a.l2c"}}', "control"),
    *((json.dumps({"metadata": {"total_size": size}, "weight_map": {}}), "total_size") for size in (
        -1, 1.5, "1", None, 1 << 63,
    )),
    *((json.dumps({"metadata": {}, "weight_map": {"a": name}}), "shard name") for name in (
        "", ".", "..", "../a.l2c", "/etc/passwd", "b/a.l2c", "./a.l2c", "a.l2c/", "b\\a.l2c", "\\\\host\\share", 
        "C:a.l2c", "C:\\a.l2c", "a.l2c:stream", "a\0.l2c", "a\n", None, 5, ["a.l2c"], "x" * 1025,
    )),
]  # fmt: skip


@pytest.mark.parametrize(("text", "match"), TEXTS)
def test_rule(tmp_path, text, match):
    path = tmp_path / "model.l2c.index.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=match) as caught:
        read_shard_index(path)
    assert type(caught.value) is CorruptFileError


def test_good_ones_are_accepted(tmp_path):
    path = tmp_path / "model.l2c.index.json"
    for value in (GOOD, GOOD | {"more": 1}, {"metadata": {}, "weight_map": {}}):
        path.write_text(json.dumps(value))
        assert read_shard_index(path).weight_map == value["weight_map"]
    with pytest.raises(MissingFileError):
        read_shard_index(tmp_path / "missing.json")


def test_writer_refuses_what_the_reader_would(tmp_path):
    for weight_map, size, match in [
        ({"a": "../b.l2c"}, 1, "plain"),
        ({"": "b.l2c"}, 1, "0 bytes"),
        ({"a": "b.l2c"}, -1, "total_size"),
    ]:
        with pytest.raises(InputError, match=match):
            write_shard_index(tmp_path / "x.json", weight_map, size)
    assert not list(tmp_path.iterdir())


def test_planning():
    sizes = {"a": 4, "b": 4, "c": 3, "d": 20, "e": 0, "f": 1, "g": 10}
    assert plan_shards(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e", "f"], ["g"]]
    assert plan_shards(sizes, 100) == [list(sizes)]
    assert plan_shards({}, 10) == []
    with pytest.raises(InputError):
        plan_shards(sizes, 0)
    assert shard_names("m", 3)[2] == "m-00003-of-00003.l2c"
