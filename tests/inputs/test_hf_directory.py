"""Folders of Hugging Face: single files, shards, and indexes that lie."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from l2fmt.errors import InputError, MissingFileError
from l2fmt.inputs import open_source
from l2fmt.inputs.hf_directory import ShardedCheckpoint

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = {"layer.0": torch.arange(4.0), "layer.1": torch.ones(2, 3), "layer.10": torch.zeros(3), "head": torch.ones(1)}
WEIGHT_MAP = {"head": SECOND, "layer.0": FIRST, "layer.1": FIRST, "layer.10": SECOND}


def write_index(folder: Path, weight_map: Any, name: str = "model.safetensors.index.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for shard in (FIRST, SECOND):
        inside = {name: tensor for name, tensor in TENSORS.items() if WEIGHT_MAP[name] == shard}
        save_file(inside, tmp_path / shard, metadata={"format": "pt", "shard": shard})
    write_index(tmp_path, WEIGHT_MAP)
    return tmp_path


def test_a_sharded_folder_reads_as_one_model(sharded: Path) -> None:
    for path in (sharded, str(sharded), sharded / "model.safetensors.index.json"):
        with open_source(path) as source:
            assert sorted(source.names()) == sorted(TENSORS)
            assert source.nbytes == sum(t.nbytes for t in TENSORS.values())
            assert source.metadata() == {"format": "pt", "shard": FIRST}
            for name in (*TENSORS, *reversed(TENSORS)):
                assert torch.equal(source.get(name), TENSORS[name])


def test_names_come_shard_after_shard(sharded: Path) -> None:
    names = open_source(sharded).names()
    assert [WEIGHT_MAP[name] for name in names] == sorted(WEIGHT_MAP[name] for name in names)


def test_one_shard_is_open_at_a_time(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = ShardedCheckpoint._close_shard
    source = open_source(sharded)
    monkeypatch.setattr(ShardedCheckpoint, "_close_shard", lambda self: (opened.append("closed"), original(self))[1])
    for name in source.names():
        source.get(name)
    # The survey ended in the second shard: one change back to the first, one forward.
    assert opened == ["closed", "closed"]


def test_tensors_the_index_leaves_out_are_skipped(sharded: Path) -> None:
    write_index(sharded, {"layer.0": FIRST})
    source = open_source(sharded)
    assert source.names() == ["layer.0"]
    assert source.skipped == [f"layer.1 (in {FIRST}, not in the index)"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_a_single_file(tmp_path: Path, name: str) -> None:
    if name.endswith("safetensors"):
        save_file(TENSORS, tmp_path / name)
    else:
        torch.save(TENSORS, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert sorted(open_source(tmp_path).names()) == sorted(TENSORS)


def test_pickled_shards_keep_their_tied_weights(tmp_path: Path) -> None:
    table = torch.rand(3, 2)
    torch.save({"hidden": table, "embedding": table, "head": table}, tmp_path / "a.bin")
    torch.save({"bias": torch.ones(2)}, tmp_path / "b.bin")
    index = write_index(
        tmp_path, {"embedding": "a.bin", "head": "a.bin", "bias": "b.bin"}, "pytorch_model.bin.index.json"
    )
    for path in (tmp_path, index):
        source = open_source(path)
        # `hidden` owns the memory but is not in the index.
        assert source.aliases() == {"head": "embedding"}
        assert source.nbytes == 24 + 8
        assert torch.equal(source.get("head"), table)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"without a model.*model\.safetensors\.index\.json"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../a.safetensors",
        "/tmp/a",
        "sub/a",
        "sub\\a",
        "C:a",
        "C:\\a",
        "\\\\host\\a",
        "",
        ".",
        "..",
        "a/",
        "a\0b",
        3,
        None,
    ],
)
def test_shard_names_may_not_leave_the_folder(tmp_path: Path, shard: Any) -> None:
    write_index(tmp_path, {"t": shard})
    with pytest.raises(InputError, match="tensor 't' is in shard"):
        open_source(tmp_path)


def test_a_tensor_that_is_not_in_its_shard(sharded: Path) -> None:
    write_index(sharded, WEIGHT_MAP | {"layer.1": SECOND})
    with pytest.raises(InputError, match=rf"'layer\.1' is not in its shard {SECOND}"):
        open_source(sharded)


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    with pytest.raises(MissingFileError, match=SECOND):
        open_source(sharded)


def test_a_truncated_shard(sharded: Path) -> None:
    path = sharded / FIRST
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=FIRST):
        open_source(sharded)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[1]", "JSON list"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' appears twice"),
        (b"\xff\xfe{", "not valid JSON"),
    ],
)
def test_malformed_indexes(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=reason):
        open_source(path)
