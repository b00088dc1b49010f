"""The test vectors of the specification (spec/README.md): files of every release decode to the same bits for ever."""

import hashlib
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import l2codec
from l2codec import ClassMap
from l2fmt.container import Reader
from l2fmt.container.entries import Group
from l2fmt.errors import FormatError
from l2fmt.pipeline import decode_tensor
from l2fmt.pipeline.decode import class_maps
from l2fmt.pipeline.fitting import offset_classes
from l2fmt.report import verify

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "spec" / "vectors"
MANIFEST: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
MOST_BYTES = 4096
CODERS = {number: name for name, number in l2codec.CODERS.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def by_file(entry: dict[str, Any]) -> str:
    return Path(entry["file"]).stem


@pytest.mark.parametrize("entry", MANIFEST["valid"] + MANIFEST["invalid"], ids=by_file)
def test_files_are_those_of_the_manifest(entry):
    data = (VECTORS / entry["file"]).read_bytes()
    assert (len(data), sha256(data)) == (entry["bytes"], entry["sha256"])
    assert len(data) <= MOST_BYTES


@pytest.mark.parametrize("entry", MANIFEST["valid"], ids=by_file)
def test_valid_files_decode_to_their_digests(entry):
    path = VECTORS / entry["file"]
    verify(path)
    with Reader(path) as reader:
        assert list(reader.tensors) == [tensor["name"] for tensor in entry["tensors"]]
        assert reader.aliases == entry["aliases"] and reader.metadata == entry["metadata"]
        assert reader.header.deflated == entry["deflated"]
        for expected in entry["tensors"]:
            found = decode_tensor(reader, expected["name"])
            tensor = reader.tensors[expected["name"]]
            assert (tensor.dtype.name, list(found.shape)) == (expected["dtype"], expected["shape"])
            assert found.dtype == tensor.dtype.numpy
            assert sha256(found.tobytes()) == expected["sha256"], expected["name"]


@pytest.mark.parametrize("entry", MANIFEST["valid"], ids=by_file)
def test_the_reference_decodes_the_same_symbols(entry):
    with Reader(VECTORS / entry["file"]) as reader:
        for number, group in enumerate(reader.index.groups):
            data = reader.read_group(number)
            check_class_vectors(reader, group, data.class_bytes)
            for stream, part, classes in zip(group.streams, data.streams, class_maps(reader, group, data), strict=True):
                arguments: dict[str, Any] = {"width": stream.width}
                if stream.coder != l2codec.CODERS["raw"]:
                    arguments = {"tables": reader.table_sets[stream.table_set], "classes": classes}
                    arguments |= {"lanes": 1 << stream.lane_bits, "block_bits": stream.block_bits}
                fast, slow = (
                    l2codec.decode(CODERS[stream.coder], part, group.symbols, backend=backend, **arguments)
                    for backend in ("numba", "reference")
                )
                assert fast.dtype == slow.dtype and np.array_equal(fast, slow), group.label


def check_class_vectors(reader: Reader, group: Group, data: bytes) -> None:
    """Check that the offsets of class vectors are the same decoded by the reference."""
    layout = group.layout
    sizes = (layout.rows, layout.columns, layout.positions)
    masks = [stream.class_mask for stream in group.streams]
    lengths = [(min(bit, 1), sizes[bit]) for mask in masks for bit in range(3) if mask >> bit & 1]
    if not lengths:
        return
    tables, classes = reader.class_tables, offset_classes(lengths)
    assert tables is not None and isinstance(classes, ClassMap)
    fast, slow = (
        l2codec.decode("huffman", data, classes.size, tables, classes, block_bits=30, backend=backend)
        for backend in ("numba", "reference")
    )
    assert np.array_equal(fast, slow), group.label


@pytest.mark.parametrize("entry", MANIFEST["invalid"], ids=by_file)
def test_invalid_files_are_refused_with_their_code(entry):
    with pytest.raises(FormatError) as caught:
        verify(VECTORS / entry["file"])
    assert caught.value.code == entry["code"], caught.value
    assert not getattr(caught.value, "__notes__", None), "one rule at a time"


def test_every_kind_of_thing_has_a_vector():
    dtypes, coders, transforms, scales, masks, lanes = (set() for _ in range(6))
    for entry in MANIFEST["valid"]:
        with Reader(VECTORS / entry["file"]) as reader:
            for group in reader.index.groups:
                dtypes.add(group.dtype.name)
                transforms.add(group.transform)
                scales |= {scale.name for scale in group.scales if scale}
                coders |= {stream.coder for stream in group.streams}
                masks |= {stream.class_mask for stream in group.streams}
                lanes |= {stream.lane_bits for stream in group.streams}
    from l2fmt import _registry

    assert dtypes == set(_registry.DTYPES)
    assert coders == set(_registry.CODERS.values())
    assert transforms == set(_registry.TRANSFORMS.values())
    assert scales == {"F32", "F16", "BF16", "F8_E8M0"}
    assert masks == set(range(8)) and lanes == set(range(_registry.MAX_LANE_BITS + 1))


def test_the_script_makes_these_files(tmp_path):
    """Deflated bytes are compared by what they inflate to: builds of zlib differ."""
    command = [sys.executable, str(ROOT / "tools" / "gen_vectors.py")]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run([*command, "--folder", str(tmp_path)], check=True, capture_output=True, timeout=120)
    (path,) = [tmp_path / entry["file"] for entry in MANIFEST["valid"] if entry["deflated"]]
    path.write_bytes(otherwise_deflated(path.read_bytes()))
    command += ["--check", "--folder", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    other = tmp_path / "valid" / "range.l2c"
    other.write_bytes(other.read_bytes()[:-1])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "valid/range.l2c is different\n")


def otherwise_deflated(data: bytes) -> bytes:
    """Return a file with its index deflated by other settings."""
    from dataclasses import replace

    with Reader(data) as reader:
        index, header = reader.index.to_bytes(), reader.header
    stored = zlib.compress(index, 1)
    assert stored != data[48 : header.payload_offset]
    payload = data[header.payload_offset :]
    changed = replace(
        header,
        index_length=len(stored),
        index_checksum=zlib.crc32(stored),
        file_length=48 + len(stored) + len(payload),
    )
    return changed.pack() + stored + payload
