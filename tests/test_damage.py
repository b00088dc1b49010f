"""Every bit of a file counts: whatever single bit is turned, and wherever the file is cut, it is refused by name."""

import re
from dataclasses import replace

import numpy as np
import pytest

import l2fmt.numpy
from l2fmt.container import Reader, Writer, build_resume, parse_resume
from l2fmt.errors import CorruptFileError, FormatError
from l2fmt.report import verify

PLACE = re.compile(r"header|index|tensor '|section '|\.l2c file|truncated|bytes were appended|format version")


def refusal(data: bytes) -> str:
    """Read a file without decoding symbols and return the sentence with which it is refused."""
    with pytest.raises(FormatError) as caught:
        verify(data, structure_only=True)
    return str(caught.value)


def test_the_small_model_is_small_sound_and_has_everything(model):
    report = verify(model)
    assert len(model) < 6000
    assert report.sections == ("resume",) and report.resume_points > 0 and report.aliases == 1
    with Reader(model) as reader:
        assert {stream.coder for group in reader.index.groups for stream in group.streams} == {0, 1}
        assert any(group.class_bytes for group in reader.index.groups)
        assert any(len(group.tensors) > 1 for group in reader.index.groups)


def test_every_flipped_bit_is_refused_and_its_place_named(model, flipped):
    with Reader(model) as reader:
        groups = [(group.offset, group.offset + group.length, group.label) for group in reader.index.groups]
        sections = [(s.offset, s.offset + s.length, f"section {s.kind!r}") for s in reader.index.sections]
        owners = {byte: label for start, end, label in groups + sections for byte in range(start, end)}
    for bit in range(8 * len(model)):
        found = refusal(flipped(model, bit))
        assert owners.get(bit // 8, "") in found, (bit, found)
        assert PLACE.search(found), (bit, found)


def test_every_truncation_is_refused(model):
    for length in range(len(model)):
        found = refusal(model[:length])
        assert PLACE.search(found), (length, found)


def test_appended_bytes_are_refused(model):
    assert "appended" in refusal(model + b"\0")


def test_loading_refuses_what_verifying_refuses(model, flipped):
    step = 97
    with Reader(model) as reader:
        end = reader.index.sections[0].offset  # sections are not needed for loading
    for bit in range(step // 2, 8 * end, step):
        with pytest.raises(FormatError):
            l2fmt.numpy.load(flipped(model, bit))
        with pytest.raises(FormatError):
            l2fmt.numpy.load(model[: bit // 8])


def rewritten(model: bytes, change_stream=None, sections=()) -> bytes:
    """Copy a file, all checksums right, with the first stream changed in place and with other sections."""
    with Reader(model) as reader, Writer() as writer:
        for number, entry in enumerate(reader.index.table_sets):
            writer.add_table_set(entry, for_classes=number == reader.index.class_set)
        for number, group in enumerate(reader.index.groups):
            data = reader.read_group(number)
            if number == 0 and change_stream:
                change_stream(data.streams[0])
            writer.add_group(
                [(t.name, t.dtype, t.shape) for t in group.tensors],
                group.transform,
                group.parameters,
                group.scales,
                list(zip(group.streams, data.streams, strict=True)),
                data.row_scales,
                data.column_scales,
                data.class_bytes,
            )
        for kind, content in sections:
            writer.add_section(kind, content)
    return writer.getvalue()


@pytest.mark.parametrize("byte", [0, 7, 100])
def test_damage_that_no_checksum_sees_is_found_by_decoding(model, byte):
    """A writer's mistake: the stream of a tensor is wrong, its checksum right."""

    def turn(stream: np.ndarray) -> None:
        stream[byte] ^= 0x55

    data = rewritten(model, turn)
    verify(data, structure_only=True)
    with pytest.raises(CorruptFileError, match=re.escape("tensor 'conv.weight'")):
        verify(data)


def test_resume_points_must_fit_the_stream(model):
    with Reader(model) as reader:
        first, *others = parse_resume(reader.read_section(reader.index.sections[0]), reader.index)
    assert verify(rewritten(model, sections=[("resume", build_resume([first, *others]))])).resume_points
    wrong = replace(first, positions=first.positions + np.uint32(1))
    data = rewritten(model, sections=[("resume", build_resume([wrong, *others]))])
    verify(data, structure_only=True)
    with pytest.raises(CorruptFileError, match=r"resume.*conv.weight"):
        verify(data)


def test_all_damaged_tensors_are_named(model, flipped):
    with Reader(model) as reader:
        groups = reader.index.groups
        data = flipped(flipped(model, 8 * groups[0].offset), 8 * groups[1].offset)
    with pytest.raises(CorruptFileError) as caught:
        verify(data)
    assert groups[0].label in str(caught.value)
    assert any(groups[1].label in note for note in caught.value.__notes__)
