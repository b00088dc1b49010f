"""A short run of every target, and the inputs that once showed a defect; `python -m tools.fuzz` is the long run."""

import random
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2fmt.container import Reader, limits
from l2fmt.errors import FormatError
from l2fmt.report import verification

ROOT = Path(__file__).parents[2]
FINDS = Path(__file__).parent / "finds"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT))
    engine, files, mutation, oracle, readers, targets = (
        import_module(f"tools.fuzz.{name}") for name in ("engine", "files", "mutation", "oracle", "readers", "targets")
    )
TARGETS: dict[str, Any] = targets.TARGETS

COUNTS = {"index": 1000, "container": 1000, "tables": 500, "commands": 40, "writer": 60}  # others: 200


@pytest.fixture(autouse=True)
def small_machine() -> Iterator[None]:
    with oracle.small_machine():
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_promises_hold_for_changed_inputs(name):
    target = TARGETS[name]
    inputs = target.inputs(COUNTS.get(name, 200), seed=5)
    assert inputs == target.inputs(len(inputs), seed=5)
    accepted = sum(target.run(data) for data in inputs)
    assert 0 < accepted < len(inputs) * 0.7


@pytest.mark.parametrize("path", sorted(FINDS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_finds_stay_mended(path):
    TARGETS[path.parent.name].run(path.read_bytes())


def test_what_is_changed_gets_past_the_checksums():
    sound = [path.read_bytes() for path in sorted((readers.VECTORS / "valid").iterdir())]
    mutate, rng = files.mutate_file(sound), random.Random(0)
    outcomes = {"opened": 0, "checksum": 0, "other": 0}
    for data in sound * 10:
        changed = mutate(data, rng)
        try:
            with Reader(changed) as reader:
                reader.verify_checksums()
            outcomes["opened"] += changed != data
        except FormatError as error:
            outcomes["checksum" if "checksum" in str(error) else "other"] += 1
    assert outcomes["opened"] > 100 and outcomes["other"] > 100
    assert outcomes["checksum"] < 0.1 * sum(outcomes.values())


def test_numbers_that_messagepack_lacks_are_cut():
    assert mutation.unpacked(mutation.packed([1.5, 2**64 + 5, {"a": -(2**70)}])) == [1.5, 5, {"a": 0}]


def vector(name: str) -> bytes:
    return (readers.VECTORS / "valid" / f"{name}.l2c").read_bytes()


def test_an_error_that_is_not_typed_is_a_find(monkeypatch):
    def broken(*arguments: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(verification, "decode_group", broken)
    with pytest.raises(KeyError):
        TARGETS["model"].run(vector("range"))
    with pytest.raises(oracle.BrokenPromiseError, match="verify has an error that is not typed"):
        TARGETS["commands"].run(vector("range"))


def test_an_error_that_says_nothing_is_a_find():
    def refuse() -> None:
        raise FormatError

    with pytest.raises(oracle.BrokenPromiseError, match="FormatError says nothing"):
        oracle.attempt(refuse)


@pytest.mark.parametrize("change", [lambda array: array.clip(0.5), lambda array: np.append(array, 0)])
def test_decoders_that_differ_are_a_find(monkeypatch, change):
    decode = oracle.decode_tensor
    monkeypatch.setattr(oracle, "decode_tensor", lambda reader, name: change(decode(reader, name)))
    with pytest.raises(oracle.BrokenPromiseError, match="the decoders differ in tensor"):
        TARGETS["model"].run(vector("range"))


def test_a_decoder_that_accepts_too_much_is_a_find(monkeypatch):
    data = (readers.VECTORS / "invalid" / "rans-word-left.l2c").read_bytes()
    assert not TARGETS["model"].run(data)
    monkeypatch.setattr(oracle, "verify", lambda source: None)
    monkeypatch.setattr(oracle, "_tensor", lambda reader, name: None)
    with pytest.raises(oracle.BrokenPromiseError, match="one decoder refuses, the other does not: accepts; reference"):
        TARGETS["model"].run(data)


def test_output_of_a_failure_is_a_find(monkeypatch):
    def run(*arguments: Any) -> int:
        if arguments[0] == "unpack":
            arguments[3].write_bytes(b"half")
        return 1

    monkeypatch.setattr(readers, "_run", run)
    with pytest.raises(oracle.BrokenPromiseError, match="unpack left"):
        TARGETS["commands"].run(vector("range"))


def test_an_index_that_changes_the_model_is_a_find(monkeypatch):
    run = readers._run

    def broken(*arguments: Any) -> int:
        if arguments[0] == "index":
            arguments[1].write_bytes(vector("huffman"))
            return 0
        return run(*arguments)

    monkeypatch.setattr(readers, "_run", broken)
    with pytest.raises(oracle.BrokenPromiseError, match="index changes what a file decodes to"):
        TARGETS["commands"].run(vector("range"))


def test_the_machine_is_small_while_it_is_asked_for():
    assert limits.Limits().allowed("max_decoded_bytes") == oracle.MEMORY
    assert limits.physical_memory() == oracle.MEMORY


def test_the_journal_outlives_whoever_wrote_it(tmp_path):
    journal = engine.Journal(tmp_path / "journal")
    for data, accepted in ((b"first", True), (b"second", False)):
        journal.begin(data)
        journal.end(accepted)
    journal.begin(b"last")
    assert engine.Journal(tmp_path / "journal").read() == (3, 1, b"last")


def test_one_input_is_kept_of_each_kind_of_error(tmp_path):
    for number in range(3):
        for value in (b"ab", "xy"):
            try:
                struct.unpack("<I", value)  # pyright: ignore[reportArgumentType]
            except Exception as error:
                engine.keep(tmp_path, "target", bytes([number]), error)
    kept = sorted((tmp_path / "finds" / "target").glob("*"))
    assert [path.suffix for path in kept] == ["", ".txt"] * 2
    assert kept[0].read_bytes() == b"\0" and "Traceback" in kept[1].read_text()
