"""Whole files on the simulated device: what the CPU makes of them, bit for bit and error for error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2codec.cuda.device import Device, Memory
from l2fmt._registry import RANS
from l2fmt.container import Reader, parse_resume
from l2fmt.container.opening import open_readers
from l2fmt.container.sections import RESUME
from l2fmt.errors import L2Error
from l2fmt.pipeline import decode_group
from l2fmt.pipeline.on_device import Target, decode_groups
from tests.cuda.device import Recorder, ShimDevice

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
MANIFEST: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
VALID = [entry["file"] for entry in MANIFEST["valid"] + MANIFEST["valid_sharded"]]
INVALID = [entry["file"] for entry in MANIFEST["invalid"] + MANIFEST["invalid_sharded"]]


def decode(source: Any, device: Device, threads: int = 1) -> list[bytes]:
    """Return the words of each group of a model, decoded by a device."""
    targets, memory = [], []
    with opened(source) as readers:
        for reader in readers:
            for number, group in enumerate(reader.index.groups):
                memory.append(device.allocate(group.nbytes))
                targets.append(Target(reader, number, memory[-1].address))
        decode_groups(targets, device, threads)
    return [downloaded(device, one, target.group.nbytes) for one, target in zip(memory, targets, strict=True)]


def downloaded(device: Device, memory: Memory, nbytes: int) -> bytes:
    found = np.empty(nbytes, np.uint8)
    device.download(memory.address, found)
    device.wait()
    return found.tobytes()


def decode_on_the_cpu(source: Any) -> list[bytes]:
    with opened(source) as readers:
        return [
            b"".join(array.tobytes() for array in decode_group(reader, number).values())
            for reader in readers
            for number in range(len(reader.index.groups))
        ]


@contextmanager
def opened(source: Any) -> Iterator[list[Reader]]:
    readers = open_readers(source)
    try:
        yield readers
    finally:
        for reader in readers:
            reader.close()


def error_of(function, *arguments: Any) -> tuple[type[L2Error], str] | None:
    try:
        function(*arguments)
    except L2Error as error:
        return type(error), str(error)
    return None


@pytest.fixture(scope="module")
def device(model) -> ShimDevice:
    recorder = Recorder()
    for source in [*(VECTORS / name for name in VALID + INVALID), model]:
        error_of(decode, source, recorder)
    device = ShimDevice()
    device.prepare(recorder.kernels)
    return device


def test_every_valid_vector(device, streams):
    for number, name in enumerate(VALID):
        device.schedule = number % 4
        assert decode(VECTORS / name, device) == decode_on_the_cpu(VECTORS / name), name
        with opened(VECTORS / name) as readers:
            streams["of whole files"] += sum(len(group.streams) for r in readers for group in r.index.groups)
    assert not getattr(device, "live", [])


def test_every_invalid_vector_is_refused_with_the_same_words(device):
    unnoticed = []
    for entry in MANIFEST["invalid"] + MANIFEST["invalid_sharded"]:
        expected = error_of(decode_on_the_cpu, VECTORS / entry["file"])
        found = error_of(decode, VECTORS / entry["file"], device)
        if "/resume" in entry["file"]:  # which a reader on the CPU does not use
            assert expected is None and found is not None and found[0].code == entry["code"] and "resume" in found[1]
        else:
            assert found == expected, entry["file"]
            unnoticed += [entry["file"]] if found is None else []
    assert len(unnoticed) <= 3, unnoticed  # what only verifying a whole file finds


def test_all_streams_of_a_kind_are_one_launch(device):
    name = VECTORS / "valid/rans-lanes.l2c"
    decode(name, device)
    device.log.clear()
    decode(name, device)
    kernels = [launch.kernel for launch in device.log]
    assert len(kernels) == len(set(kernels)) and len(kernels) <= 3


def test_resume_points_cut_blocks_into_segments(device):
    name = VECTORS / "valid/resume.l2c"
    with opened(name) as (reader,):
        section = reader.section(RESUME)
        assert section is not None
        points = sum(len(record.positions) for record in parse_resume(reader.read_section(section), reader.index))
        blocks = [-(-g.symbols >> s.block_bits) for g in reader.index.groups for s in g.streams if s.coder == RANS]
    device.log.clear()
    decode(name, device)
    segments = [int(launch.arguments[2]) for launch in device.log if launch.module == "rans_decode"]
    assert points > 0 and sum(segments) == points + sum(blocks)
