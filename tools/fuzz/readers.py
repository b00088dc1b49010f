"""The targets that read files: the container, class vectors, everything, shards, and the commands."""

import json
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from l2codec import ClassMap, CodecError
from l2fmt.cli import main
from l2fmt.container import Limits, Reader, parse_resume
from l2fmt.container.header import HEADER_BYTES
from l2fmt.container.index import Index
from l2fmt.errors import FormatError
from l2fmt.pipeline.classes import read_vectors
from tools import reference_decoder
from tools.fuzz.files import index_of
from tools.fuzz.oracle import are_shards_read_alike, attempt, check

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
_EXIT_CODES = (0, 1, 3, 4)
_INTERVAL = 8  # symbols of a lane between resume points: the least
_SHARDS = sorted((VECTORS / "sharded").glob("*.l2c"))


def files() -> list[bytes]:
    """Return all vectors that are files, sound ones and others."""
    return [path.read_bytes() for kind in ("valid", "invalid") for path in sorted((VECTORS / kind).iterdir())]


def files_with_classes() -> list[bytes]:
    """Return the vectors that have class vectors."""
    found = []
    for data in files():
        with suppress(FormatError), Reader(data) as reader:
            found += [data] if reader.index.class_set is not None else []
    return found


def indexes() -> list[bytes]:
    """Return the inflated indexes of all vectors."""
    return [found[0] for data in files() if (found := index_of(data))]


def shard_indexes() -> list[bytes]:
    """Return the vectors that are indexes of shards."""
    return [path.read_bytes() for path in sorted((VECTORS / "sharded").glob("*.json"))]


def read_index(data: bytes) -> bool:
    """An index by itself is refused, or canonical."""
    found = attempt(lambda: Index.parse(data, Limits(), HEADER_BYTES + len(data)))
    if isinstance(found, Index):
        check(found.to_bytes() == data, "an index was accepted that is not canonical")
    return isinstance(found, Index)


def read_container(data: bytes) -> bool:
    """All that a reader offers without decoding."""

    def explore() -> None:
        with Reader(data) as reader:
            stored = data[HEADER_BYTES : reader.header.payload_offset]
            index = reader.header.index_bytes(stored)
            check(reader.index.to_bytes() == index, "an index was accepted that is not canonical")
            end = reader.header.payload_offset
            for group in reader.index.groups:
                check(group.layout.size == group.symbols, "a layout does not have as many symbols as its group")
                check(group.offset == end, "a group does not follow what is before it")
                end += group.length
            _ = reader.table_sets, reader.class_tables
            for name in reader.names():
                reader.read_group(reader.resolve(name).group)
            reader.verify_checksums()
            for section in reader.index.sections:
                with suppress(FormatError):
                    parse_resume(reader.read_section(section), reader.index)

    return attempt(explore) is None


def read_class_vectors(data: bytes) -> bool:
    """Both decoders find the same class vectors and octave scales."""

    def ours() -> list[Any]:
        with Reader(data) as reader:
            groups = enumerate(reader.index.groups)
            found = [read_vectors(reader, group, reader.read_group(number)) for number, group in groups]
        return [([_vectors(classes) for classes in of.maps], _lists(of.row_scale, of.column_scale)) for of in found]

    def theirs() -> list[Any]:
        tables = None if index.class_set is None else index.table_sets[index.class_set]
        with Reader(data) as reader:
            parts = [reader.read_group(number).class_bytes for number in range(len(index.groups))]
        found = [
            reference_decoder.read_class_vectors(group, part, tables)
            for group, part in zip(index.groups, parts, strict=True)
        ]
        return [
            ([{bit: list(vector) for bit, vector in of.items()} for of in vectors], _lists(*scales))
            for vectors, scales in found
        ]

    try:
        index = reference_decoder.read_index(reference_decoder.read_index_bytes(data)[0])
    except reference_decoder.Refused:
        return False  # perhaps for what our reader finds only when it decodes: for other targets to compare
    found = attempt(ours, (FormatError, CodecError))  # callers of `read_vectors` name the tensor
    if isinstance(found, FormatError) and found.code == "limit":
        return False
    expected = attempt(theirs, (reference_decoder.Refused, FormatError))
    if isinstance(found, Exception) or isinstance(expected, Exception):
        both = isinstance(found, Exception) and isinstance(expected, Exception)
        check(both, f"one decoder refuses the class vectors, the other does not: {found!r}; reference {expected!r}")
        return False
    check(found == expected, "the decoders differ in class vectors")
    return True


def _vectors(classes: ClassMap | int) -> dict[int, list[int]]:
    if isinstance(classes, int):
        return {}
    vectors = enumerate((classes.row, classes.column, classes.position))
    return {bit: vector.tolist() for bit, vector in vectors if vector is not None}


def _lists(*vectors: Iterable[int] | None) -> list[list[int] | None]:
    return [None if vector is None else list(vector) for vector in vectors]


def read_shards(data: bytes) -> bool:
    """An index of shards, beside the two shards of the vectors."""
    with tempfile.TemporaryDirectory(prefix="l2fmt-fuzz-") as folder:
        for path in _SHARDS:
            Path(folder, path.name).write_bytes(path.read_bytes())
        index = Path(folder, "model.l2c.index.json")
        index.write_bytes(data)
        return are_shards_read_alike(index)


def run_commands(data: bytes) -> bool:
    """The commands that read a file: one sentence or a result, and no output of a failure."""
    with tempfile.TemporaryDirectory(prefix="l2fmt-fuzz-") as name:
        folder = Path(name)
        source, target = folder / "model.l2c", folder / "model.safetensors"
        source.write_bytes(data)
        _run("inspect", source)
        _run("inspect", source, "--json")
        verified = _run("verify", source) == 0
        unpacked = _run("unpack", source, "-o", target, "--quiet") == 0
        left = {path.name for path in folder.iterdir()}
        check(left == ({source.name, target.name} if unpacked else {source.name}), f"unpack left {sorted(left)}")
        if unpacked and verified:
            _check_unpacked(target.read_bytes(), data)
        elif unpacked:
            with Reader(data) as reader:  # sections are no part of a model: only `verify` reads them
                check(bool(reader.index.sections), "unpack decodes what verify refuses")
        _check_indexing(source, data, verified)
        return verified


def _check_indexing(source: Path, data: bytes, verified: bool) -> None:
    """Check that a sound file gets resume points and is sound with them, and that a failure leaves what there was."""
    indexed = _run("index", source, "--interval", _INTERVAL, "--quiet") == 0
    if not indexed:
        check(not verified, "index refuses what verify accepts")
        check(source.read_bytes() == data, "index failed and changed the file")
    elif verified:
        check(_run("verify", source) == 0, "verify refuses what index writes")
        same = reference_decoder.decode(source.read_bytes()) == reference_decoder.decode(data)
        check(same, "index changes what a file decodes to")


def _run(*arguments: object) -> int:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    check(result.exit_code in _EXIT_CODES, f"{arguments[0]} exits with {result.exit_code}")
    said = result.stderr.splitlines()
    check("a bug in l2fmt" not in result.stderr, f"{arguments[0]} has an error that is not typed: {said}")
    check(bool(said) == bool(result.exit_code), f"{arguments[0]} exits with {result.exit_code} and says {said}")
    return result.exit_code


def _check_unpacked(unpacked: bytes, data: bytes) -> None:
    """Check the tensors of a safetensors file against the independent decoder."""
    model = reference_decoder.decode(data)
    start = 8 + int.from_bytes(unpacked[:8], "little")
    header = json.loads(unpacked[8:start])
    for name, tensor in model.tensors.items():
        begin, end = header[name]["data_offsets"]
        check(unpacked[start + begin : start + end] == tensor.data, f"unpack and the decoder differ in {name!r}")
