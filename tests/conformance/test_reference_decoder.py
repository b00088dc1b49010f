"""The independent decoder (tools/reference_decoder.py): it and the packages read every file alike."""

import hashlib
import io
import json
import subprocess
import sys
import time
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from l2fmt.container import Reader
from l2fmt.dtypes import DTYPES
from l2fmt.errors import FormatError
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, decode_tensor, write_files
from l2fmt.report import verify
from l2fmt.transforms import Codebook, Geometric, Joint, Uniform

ROOT = Path(__file__).parents[2]
DECODER = ROOT / "tools" / "reference_decoder.py"
VECTORS = ROOT / "spec" / "vectors"
MANIFEST: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
VALID, INVALID = (MANIFEST[kind] + MANIFEST[f"{kind}_sharded"] for kind in ("valid", "invalid"))
CODERS = ("raw", "rans", "range", "huffman")


def load_decoder() -> ModuleType:
    spec = spec_from_file_location("reference_decoder", DECODER)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module


decoder = load_decoder()


def by_file(entry: dict[str, Any]) -> str:
    return Path(entry["file"]).stem


def described(model: Any) -> list[dict[str, Any]]:
    """Return the tensors of a decoded model as the manifest describes them."""
    return [
        {"name": name, "dtype": t.dtype, "shape": list(t.shape), "sha256": hashlib.sha256(t.data).hexdigest()}
        for name, t in model.tensors.items()
    ]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the decoder without site packages and without anything of this environment."""
    command = [sys.executable, "-S", "-I", str(DECODER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def assert_read_alike(data: bytes) -> None:
    """Check that both decoders give every tensor of a sound file the same bytes."""
    verify(data)
    model = decoder.decode(data)
    with Reader(data) as reader:
        assert list(model.tensors) == list(reader.tensors)
        assert (model.aliases, model.metadata) == (reader.aliases, reader.metadata)
        for name, tensor in model.tensors.items():
            entry = reader.tensors[name]
            assert (tensor.dtype, tensor.shape) == (entry.dtype.name, entry.shape)
            assert tensor.data == decode_tensor(reader, name).tobytes(), name


@pytest.mark.parametrize("entry", VALID, ids=by_file)
def test_valid_vectors(entry):
    path = VECTORS / entry["file"]
    if path.suffix == ".json":
        model = decoder.decode_shards(path)
    else:
        model = decoder.decode(path.read_bytes())
        assert model.metadata == entry["metadata"]
    assert described(model) == entry["tensors"]
    assert model.aliases == entry["aliases"]


@pytest.mark.parametrize("entry", INVALID, ids=by_file)
def test_invalid_vectors(entry):
    path = VECTORS / entry["file"]
    with pytest.raises(decoder.Refused) as caught:
        decoder.decode_shards(path) if path.suffix == ".json" else decoder.decode(path.read_bytes())
    assert caught.value.code == entry["code"], caught.value


def test_it_needs_no_packages_and_prints_a_line_a_tensor():
    entries = [entry for entry in VALID if by_file(entry) in ("names", "scales", "complete.l2c.index")]
    done = run(*(VECTORS / entry["file"] for entry in entries))
    lines = []
    for entry in entries:
        lines += [f"{json.dumps(t['name'])} {t['dtype']} {t['shape']} {t['sha256']}" for t in entry["tensors"]]
        lines += [f"{json.dumps(alias)} = {json.dumps(name)}" for alias, name in entry["aliases"].items()]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, lines, "")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("invalid/truncated.l2c", "corrupt: not so: the file is as long as its header says"),
        ("invalid/major-version.l2c", "unsupported: major version 1"),
        ("invalid/decoded-too-large.l2c", f"limit: {1 << 47} bytes of decoded tensors; the limit is {1 << 27}"),
        ("sharded/map-key-twice.l2c.index.json", "corrupt: not so: the keys of an object are distinct"),
        ("valid/absent.l2c", "[Errno 2] No such file or directory"),
    ],
)
def test_an_error_is_one_line(file, words):
    done = run(VECTORS / file)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{VECTORS / file}: {words}")


def test_without_a_file_it_says_how_it_is_called():
    done = run()
    assert done.returncode == 2 and "FILE..." in done.stderr


def random_tensors(seed: int) -> list[QuantizedTensor | PlainTensor]:
    """Return a few small tensors: quantized by each transform, and as they are, of all dtypes in turn."""
    rng = np.random.default_rng(seed)
    transforms = (
        Uniform(float(rng.uniform(1e-3, 1))),
        Joint(float(rng.uniform(1e-3, 1)), float(rng.uniform(1e-3, 1))),
        Geometric(float(rng.uniform(1e-3, 1)), float(rng.uniform(1.01, 1.5))),
        Codebook(rng.standard_normal(13).astype(np.float32)),
    )
    tensors: list[QuantizedTensor | PlainTensor] = []
    for i, transform in enumerate(transforms):
        shape = tuple(rng.integers(1, 9, rng.integers(1, 5)).tolist())
        codes = np.rint(rng.laplace(scale=2, size=shape)).clip(-6, 6).astype(np.int8)
        codes += 6 if isinstance(transform, Codebook) else 0
        scales = {}
        if len(shape) > 1 and rng.random() < 0.5:
            scales = {f"{axis}_scale": rng.uniform(0.1, 9, size).astype(np.float32) for axis, size in
                      zip(("row", "column"), shape, strict=False)}  # fmt: skip
        dtype = DTYPES[("F16", "BF16", "F32", "F64")[(seed + i) % 4]]
        tensors.append(QuantizedTensor(f"quantized.{i}", dtype, shape, codes, transform, **scales))
    for i in range(5):
        dtype = DTYPES[list(DTYPES)[(5 * seed + i) % len(DTYPES)]]
        shape = tuple(rng.integers(0, 40, rng.integers(0, 3)).tolist())
        data = rng.integers(0, 2 if dtype.name == "BOOL" else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
        array = data.view(dtype.numpy).reshape(shape)
        tensors.append(PlainTensor(f"plain.{i}", dtype, shape, lambda array=array: array))
    return tensors


@pytest.mark.parametrize("seed", range(12))
def test_files_of_the_writer(seed):
    buffer = io.BytesIO()
    encoding = Encoding(CODERS[seed % 4], tables=1 + seed % 5 * 4, resume_interval=256 if seed % 2 else None)
    write_files(buffer, random_tensors(seed), {"tied": "plain.0"}, {"seed": str(seed)}, encoding)
    assert_read_alike(buffer.getvalue())


def test_the_small_model(model):
    assert_read_alike(model)


def test_damage_that_checksums_do_not_show_is_refused_alike(model):
    """Bytes of the index and of the groups are changed at random, and the checksums above them made right."""
    rng = np.random.default_rng(5)
    with Reader(model) as reader:
        start, groups = reader.header.payload_offset, reader.index.groups
        index = reader.index.to_bytes()
    refused = 0
    for _ in range(100):
        changed, payload = bytearray(index), bytearray(model[start:])
        if rng.random() < 0.5:
            changed[rng.integers(len(changed))] = rng.integers(256)
        else:
            group = groups[rng.integers(len(groups))]
            span = slice(group.offset - start, group.offset - start + group.length)
            if group.length:
                payload[span.start + rng.integers(group.length)] ^= 1 << rng.integers(8)
            checksums = group.checksum, zlib.crc32(payload[span])
            old, new = (b"\xce" + checksum.to_bytes(4, "big") for checksum in checksums)
            changed = changed.replace(old, new)
        data = with_index(bytes(changed), bytes(payload))
        try:
            verify(data)
        except FormatError:
            refused += 1
            with pytest.raises(decoder.Refused):
                decoder.decode(data)
        else:
            assert_read_alike(data)
    assert 50 < refused < 100


def with_index(index: bytes, payload: bytes) -> bytes:
    """Return a file of a plain index and what follows it."""
    fields = (0, 1, 0, 0, len(index), len(index), zlib.crc32(index), 48 + len(index) + len(payload), 0)
    header = decoder.HEADER.pack(decoder.MAGIC, *fields, 0)[:44]
    return header + zlib.crc32(header).to_bytes(4, "little") + index + payload


def test_what_is_too_much_is_refused_at_once():
    names = ("index-too-large", "order-limit-length", "decoded-too-large", "tables-too-large", "too-many-tensors")
    start = time.perf_counter()
    for name in names:
        with pytest.raises(decoder.Refused) as caught:
            decoder.decode((VECTORS / "invalid" / f"{name}.l2c").read_bytes())
        assert caught.value.code == "limit"
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3.4028235677973366e38, "7f800000"),  # halfway beyond the greatest f32: a tie goes to infinity
        (3.4028235677973362e38, "7f7fffff"),
        (-1e300, "ff800000"),
        (2.0**-150, "00000000"),
        (1.5 * 2.0**-149, "00000002"),
        (1 + 2.0**-24, "3f800000"),
    ],
)
def test_rounding_to_binary32(value, expected):
    with np.errstate(all="ignore"):
        assert np.float32(value).tobytes()[::-1].hex() == expected
    assert decoder.PACK["F32"](decoder.f32(value))[::-1].hex() == expected
