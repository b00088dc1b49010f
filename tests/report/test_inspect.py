"""`inspect` counts every byte once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from l2fmt.errors import CorruptFileError
from l2fmt.report import Inspection, inspect
from l2fmt.report.inspection import PARTS
from l2fmt.torch import load, save, save_file


def sums_up(found: Inspection) -> bool:
    groups = sum(found.parts[part] for part in ("class_vectors", "scales", "weights", "vectors", "lossless"))
    return sum(row.bytes for row in found.tensors) == groups and tuple(found.parts) == PARTS


def test_all_bytes_are_counted_once(model):
    found = inspect(model)
    assert found.file_bytes == len(model)
    assert sums_up(found)
    assert found.parts["header"] == 48
    assert all(found.parts[part] > 0 for part in PARTS if part != "shard_index")
    assert found.parts["scales"] == 4 * (10 + 16)


def test_rows(model):
    found = inspect(model)
    rows = {row.name: row for row in found.tensors}
    tensors = load(model)
    assert list(rows) == [name for name in tensors if name not in found.aliases]
    for name, row in rows.items():
        assert row.shape == tuple(tensors[name].shape)
        if tensors[name].is_floating_point() and tensors[name].numel():
            zeros = (tensors[name] == 0).double().mean().item()
            assert row.sparsity == pytest.approx(zeros)
        else:
            assert row.sparsity is None
    kinds = {name: (row.kind, row.transform) for name, row in rows.items()}
    assert kinds["conv.weight"] == ("weights", "uniform")
    assert kinds["head.weight"] == ("weights", "joint")
    assert kinds["table"] == ("weights", "codebook")
    assert kinds["norm.weight"] == ("vectors", "bits")
    assert kinds["exact"] == kinds["mask"] == ("lossless", "bits")
    assert rows["conv.weight"].coder == "rans"
    assert rows["conv.weight"].bits_per_weight == pytest.approx(8 * rows["conv.weight"].bytes / 1152)
    assert rows["empty"].bits_per_weight is None
    assert found.aliases == {"tied.weight": "head.weight"}


def test_zeros_are_counted_by_the_meaning_of_each_dtype():
    patterns = torch.tensor([0x00, 0x80, 0x01, 0x3C], dtype=torch.uint8)
    names = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    tensors = {name: patterns.view(getattr(torch, name)) for name in names}
    tensors |= {"neg": torch.tensor([0.0, -0.0, 1.0, -1e-45]), "z": torch.tensor([0j, 1j, 1 + 0j, complex(-0.0, 0.0)])}
    found = {row.name: row.sparsity for row in inspect(save(tensors)).tensors}
    assert found == {
        "float8_e4m3fn": 0.5,
        "float8_e5m2": 0.5,
        "float8_e4m3fnuz": 0.25,
        "float8_e5m2fnuz": 0.25,
        "float8_e8m0fnu": 0.0,
        "neg": 0.5,
        "z": 0.5,
    }


def test_without_sparsity_nothing_is_decoded(model, monkeypatch):
    monkeypatch.delattr("l2fmt.report.inspection.decode_group")
    assert all(row.sparsity is None for row in inspect(model, sparsity=False).tensors)


def test_ratio_is_of_the_bytes_as_given(tmp_path):
    tensors = {"a": torch.randn(100, 10), "b": torch.zeros(3)}
    found = inspect(save(tensors))
    assert found.original_bytes == found.decoded_bytes == 4012
    assert found.ratio == 4012 / found.file_bytes


@pytest.mark.parametrize(("text", "expected"), [("9000", 9000), ("-1", 4), ("much", 4), ("9" * 30, 4), ("٣", 4)])
def test_the_file_says_what_was_given_if_it_is_a_number(text, expected):
    from l2fmt.container import Writer
    from l2fmt.dtypes import DTYPES
    from l2fmt.pipeline import PlainTensor, write_model

    with Writer(metadata={"l2fmt.original_bytes": text}) as writer:
        write_model(writer, [PlainTensor("a", DTYPES["F32"], (1,), lambda: np.ones(1, np.float32))])
    assert inspect(writer.getvalue()).original_bytes == expected


def test_shards(tmp_path):
    save_file({f"w{i}": torch.randn(50, 20) for i in range(4)}, tmp_path / "m.l2c", max_shard_bytes=5000)
    found = inspect(tmp_path)
    assert found.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sums_up(found) and len(found.files) == 4 and found.parts["shard_index"] > 0
    assert [Path(file).name for file in found.files] == sorted(Path(file).name for file in found.files)


def test_json_has_the_documented_keys(model):
    value = json.loads(json.dumps(inspect(model).to_dict(), allow_nan=False))
    assert set(value) == {
        *("schema", "path", "files", "file_bytes", "original_bytes", "decoded_bytes"),
        *("ratio", "parts", "metadata", "aliases", "tensors"),
    }
    assert set(value["tensors"][0]) == {
        *("name", "shape", "dtype", "kind", "transform", "coder", "bytes", "bits_per_weight", "sparsity", "share"),
    }
    assert sum(value["parts"].values()) == value["file_bytes"]


def test_a_file_of_nothing():
    found = inspect(save({}))
    assert found.tensors == () and found.ratio == 0


def test_damage_is_an_error(model, flipped):
    with pytest.raises(CorruptFileError):
        inspect(flipped(model, 500))
