"""The test vectors of the specification (spec/README.md): files of every release decode to the same bits for ever."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import l2codec
import l2fmt.numpy
from l2codec import CodecError, processor
from l2fmt import _registry
from l2fmt.container import Reader
from l2fmt.container.entries import Group
from l2fmt.container.opening import open_readers
from l2fmt.errors import FormatError
from l2fmt.pipeline import decode_tensor
from l2fmt.pipeline.classes import read_vectors
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


@pytest.mark.parametrize("entry", [entry for entries in MANIFEST.values() for entry in entries], ids=by_file)
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
    compare_with_reference(VECTORS / entry["file"])


# Files with streams that are cut or tampered with; most others are refused before a symbol is decoded.
TAMPERED = re.compile(r"/(rans|range|huffman|block|raw-padding|resume)")


@pytest.mark.parametrize("entry", [e for e in MANIFEST["invalid"] if TAMPERED.search(e["file"])], ids=by_file)
def test_the_reference_refuses_the_same_symbols(entry):
    with suppress(FormatError):  # of the index or the tables
        compare_with_reference(VECTORS / entry["file"])


def compare_with_reference(path: Path) -> None:
    """Check that the codec's reference, in plain Python, gives the same symbols, or the same kind of error."""
    with Reader(path) as reader:
        for number, group in enumerate(reader.index.groups):
            data = reader.read_group(number)
            check_class_vectors(reader, group, data.class_bytes)
            maps = read_vectors(reader, group, data).maps
            for stream, part, classes in zip(group.streams, data.streams, maps, strict=True):
                arguments: dict[str, Any] = {"width": stream.width}
                if stream.coder != l2codec.CODERS["raw"]:
                    arguments = {"tables": reader.table_sets[stream.table_set], "classes": classes}
                    arguments |= {"lanes": 1 << stream.lane_bits, "block_bits": stream.block_bits}
                outcomes = []
                for backend in ("numba", "reference"):
                    try:
                        found = l2codec.decode(CODERS[stream.coder], part, group.symbols, backend=backend, **arguments)
                        outcomes.append((found.dtype, found.tolist()))
                    except CodecError as error:
                        outcomes.append(type(error))
                assert outcomes[0] == outcomes[1], group.label


def check_class_vectors(reader: Reader, group: Group, data: bytes) -> None:
    """Check that the offsets of class vectors are the same decoded by the reference."""
    if not group.vectors:
        return
    tables = reader.class_tables
    assert tables is not None
    classes = offset_classes(group.vectors, len(tables))
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


@pytest.mark.parametrize("entry", MANIFEST["invalid"], ids=by_file)
def test_loading_refuses_the_same_files_but_for_the_content_of_sections(entry):
    if re.search("resume-|section-checksum", entry["file"]):
        assert l2fmt.numpy.load_file(VECTORS / entry["file"])  # what is optional is read by those who use it
        return
    with pytest.raises(FormatError) as caught:
        l2fmt.numpy.load_file(VECTORS / entry["file"])
    assert caught.value.code == entry["code"], caught.value


@pytest.mark.parametrize("entry", MANIFEST["valid_sharded"], ids=by_file)
def test_valid_sharded_models_decode_to_their_digests(entry):
    path = VECTORS / entry["file"]
    verify(path)
    found, aliases = {}, {}
    for reader in open_readers(path, None):
        with reader:
            aliases |= reader.aliases
            found |= {name: sha256(decode_tensor(reader, name).tobytes()) for name in reader.tensors}
    assert found == {tensor["name"]: tensor["sha256"] for tensor in entry["tensors"]}
    assert aliases == entry["aliases"]


@pytest.mark.parametrize("entry", MANIFEST["invalid_sharded"], ids=by_file)
def test_invalid_sharded_models_are_refused_with_their_code(entry):
    with pytest.raises(FormatError) as caught:
        verify(VECTORS / entry["file"])
    assert caught.value.code == entry["code"], caught.value


@pytest.mark.slow
@pytest.mark.parametrize("form", processor.FORMS)
def test_every_form_of_the_kernels_reads_the_vectors_alike(form):
    """A form is chosen when the kernels are first used: another process has another one."""
    if os.environ.get(processor.VARIABLE):
        pytest.skip("this is the process that checks")
    if missing := processor.missing(form):
        pytest.skip(f"{form} needs {', '.join(missing)}")
    tests = ["-k", "digests or code", __file__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=os.environ | {processor.VARIABLE: form},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_of_thing_has_a_vector():
    dtypes, coders, transforms, scales, masks, lanes, blocks, bits = (set() for _ in range(8))
    for entry in MANIFEST["valid"]:
        with Reader(VECTORS / entry["file"]) as reader:
            bits |= {entry.probability_bits for entry in reader.index.table_sets}
            for group in reader.index.groups:
                dtypes.add(group.dtype.name)
                transforms.add(group.transform)
                scales |= {scale.name for scale in group.scales if scale}
                coders |= {stream.coder for stream in group.streams}
                masks |= {stream.class_mask for stream in group.streams}
                lanes |= {stream.lane_bits for stream in group.streams}
                blocks |= {stream.block_bits for stream in group.streams if stream.coder != _registry.RAW}
    assert dtypes == set(_registry.DTYPES)
    assert coders == set(_registry.CODERS.values())
    assert transforms == set(_registry.TRANSFORMS.values())
    assert scales == {"F32", "F16", "BF16", "F8_E8M0", *_registry.SCALES}
    assert masks == set(range(8)) and lanes == set(range(_registry.MAX_LANE_BITS + 1))
    assert blocks == within(_registry.BLOCK_BITS) and bits == within(_registry.PROBABILITY_BITS)


def within(bounds: tuple[int, int]) -> set[int]:
    return set(range(bounds[0], bounds[1] + 1))


def test_the_script_makes_these_files(tmp_path, monkeypatch, capsys):
    """Deflated bytes are compared by what they inflate to: builds of zlib differ."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    script = import_module("gen_vectors")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gen_vectors.py", *arguments])
        return script.main()

    assert run("--check") == 0, capsys.readouterr().out
    assert run("--folder", str(tmp_path)) == 0
    (path,) = [tmp_path / entry["file"] for entry in MANIFEST["valid"] if entry["deflated"]]
    path.write_bytes(otherwise_deflated(path.read_bytes()))
    assert run("--check", "--folder", str(tmp_path)) == 0
    other = tmp_path / "valid" / "range.l2c"
    other.write_bytes(other.read_bytes()[:-1])
    (tmp_path / "sharded" / "more.l2c.index.json").write_bytes(b"{}")
    capsys.readouterr()
    assert run("--check", "--folder", str(tmp_path)) == 1
    found = capsys.readouterr().out
    assert found == "valid/range.l2c is different\nsharded/more.l2c.index.json is made by nothing\n"


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
