"""Check a model as a whole: every checksum, every rule, every symbol. Needs no torch."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from l2fmt.container import Limits, Reader, Section, parse_resume
from l2fmt.container.opening import open_readers
from l2fmt.container.sections import RESUME
from l2fmt.container.writer import is_path
from l2fmt.errors import FormatError
from l2fmt.pipeline import check_resume, decode_group

_SCHEMA = 1


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and found sound.

    Attributes:
        decoded: whether every tensor was decoded, or only checksums and structure were looked at.
        sections: kinds of the optional sections.
        resume_points: resume points that were compared with the streams; 0 unless decoded.
    """

    path: str
    files: tuple[str, ...]
    tensors: int
    aliases: int
    groups: int
    sections: tuple[str, ...]
    resume_points: int
    file_bytes: int
    decoded_bytes: int
    decoded: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON: its attributes, "schema" and "ok", which is true."""
        return {"schema": _SCHEMA, "ok": True, **asdict(self)}


def verify(source: Any, *, structure_only: bool = False, limits: Limits | None = None) -> VerifyReport:
    """Check a `.l2c` file, a shard index, a folder with one of them, bytes or a binary file; return what was checked.

    Checks header, index, tables, all checksums and optional sections and, unless `structure_only`, decodes every
    tensor, one group at a time. Raises the FormatError of the first thing that is wrong; those of everything else are
    its notes (`__notes__`).
    """
    check = _Problems()
    points = 0
    with ExitStack() as stack:
        readers = [stack.enter_context(reader) for reader in open_readers(source, limits)]
        for reader in readers:
            check(lambda reader=reader: (reader.table_sets, reader.class_tables))
            for number in range(len(reader.index.groups)):
                if structure_only:
                    check(lambda reader=reader, number=number: reader.read_group(number))
                else:
                    check(lambda reader=reader, number=number: decode_group(reader, number))
            for section in reader.index.sections:
                points += check(lambda r=reader, s=section: _check_section(r, s, structure_only)) or 0
        decoded = sum(reader.index.nbytes for reader in readers)
        check.finish()
        return VerifyReport(
            path=os.fsdecode(source) if is_path(source) else readers[0].name,
            files=tuple(reader.name for reader in readers),
            tensors=sum(len(reader.tensors) for reader in readers),
            aliases=sum(len(reader.aliases) for reader in readers),
            groups=sum(len(reader.index.groups) for reader in readers),
            sections=tuple(dict.fromkeys(section.kind for reader in readers for section in reader.index.sections)),
            resume_points=points,
            file_bytes=sum(reader.header.file_length for reader in readers),
            decoded_bytes=decoded,
            decoded=not structure_only,
        )


class _Problems:
    """Calls checks and keeps what they raise, so that one damaged tensor does not hide another."""

    def __init__(self) -> None:
        self._errors: list[FormatError] = []

    def __call__(self, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except FormatError as error:
            if str(error) not in map(str, self._errors):
                self._errors.append(error)
            return None

    def finish(self) -> None:
        """Raise the first error with the others as notes, if there are any."""
        if not self._errors:
            return
        first, *others = self._errors
        for other in others:
            first.add_note(str(other))
        raise first


def _check_section(reader: Reader, section: Section, structure_only: bool) -> int:
    """Check an optional section; return how many resume points were compared with the streams."""
    data = reader.read_section(section)
    if section.kind != RESUME:
        return 0
    parse_resume(data, reader.index)
    return 0 if structure_only else check_resume(reader)
