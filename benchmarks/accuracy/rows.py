"""The rows of a sweep: what one measures, and the CSV file that several processes may add to."""

import csv
import fcntl
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2fmt.errors import InputError

# What tells one row from another; a row that a file has is not measured again.
KEY = ("model", "method", "preset", "options", "tag", "target", "seed", "calibration_count")
FIELDS = (
    *("model", "method", "preset", "options", "tag", "target", "ratio", "weights_ratio", "file_bytes"),
    *("estimated_bytes", "metric", "value", "full_precision", "drop", "seconds", "phases", "seed"),
    *("calibration_count", "commit", "machine", "threads", "note"),
)

_AVERAGED = {"ratio": ".3f", "value": ".2f", "drop": ".2f", "seconds": ".1f"}  # over seeds

Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One row to measure: a model packed by a method to a ratio of the whole file.

    Args:
        preset: of the method's settings; empty for the method's own default.
        options: other settings of the method, by name.
        tag: a name for these settings in plots and tables.
        seed, calibration_count: None for a method that needs no module, and so neither draws nor calibrates.
    """

    model: str
    method: str
    ratio: float
    preset: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    tag: str = ""
    seed: int | None = None
    calibration_count: int | None = None

    @property
    def key(self) -> Row:
        """The columns of `KEY`."""
        numbers = ("" if n is None else str(n) for n in (self.seed, self.calibration_count))
        options = json.dumps(dict(self.options), sort_keys=True, separators=(",", ":")) if self.options else ""
        texts = (self.model, self.method, self.preset, options, self.tag, f"{self.ratio:g}", *numbers)
        return dict(zip(KEY, texts, strict=True))

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the method that are not its defaults."""
        named = {"preset": self.preset or None, "seed": self.seed}
        return {name: value for name, value in named.items() if value is not None} | dict(self.options)

    @property
    def file_name(self) -> str:
        """A name for the packed file: readable, and one for each key."""
        parts = [self.model, self.method, self.preset, self.tag, f"{self.ratio:g}x"]
        parts += [] if self.seed is None else [f"seed{self.seed}"]
        readable = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts if part)
        return f"{readable}-{digest(self.key)}.l2c"

    def command(self, output: Path, keep: Path | None = None, threads: int | None = None) -> str:
        """The shell command that measures this row and no other."""
        words = ["python", "-m", "benchmarks.accuracy.sweep", "--models", self.model, "--methods", self.method]
        words += ["--ratios", f"{self.ratio:g}"]
        words += ["--preset", self.preset] if self.preset else []
        settings = [f"{name}={setting_text(value)}" for name, value in sorted(self.options.items())]
        words += ["--set", *settings] if settings else []
        words += [] if self.seed is None else ["--seeds", str(self.seed)]
        words += [] if self.calibration_count is None else ["--calibration-count", str(self.calibration_count)]
        words += ["--tag", self.tag] if self.tag else []
        words += [] if threads is None else ["--threads", str(threads)]
        words += [] if keep is None else ["--keep", str(keep)]
        return shlex.join([*words, "-o", str(output)])


def read_setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value as JSON where it is that, else as text; raise ValueError for anything else."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def setting_text(value: Any) -> str:
    """Return the VALUE that `read_setting` reads as this value."""
    plain = isinstance(value, str) and read_setting(f"key={value}")[1] == value
    return value if plain else json.dumps(value)


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return what tells a row, or the key of a run, from others."""
    return tuple(row[name] for name in KEY)


def digest(key: Mapping[str, str], *more: str) -> str:
    """Return a short name for a key."""
    return hashlib.sha256("\n".join([*more, *key_of(key)]).encode()).hexdigest()[:12]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, none if there is no file; raise InputError if it has other columns."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise InputError(f"{path} is no result of a sweep: it has other columns than {', '.join(FIELDS)}")
        return list(reader)


def write_rows(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV file whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", newline="", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
    ) as file:
        try:
            writer: csv.DictWriter[str] = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def append(path: Path, row: Row) -> None:
    """Add a row to a file that other processes add to as well; a row with the same key is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The folder carries the lock, because the file is a new one after each row.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        others = [other for other in read_rows(path) if key_of(other) != key_of(row)]
        write_rows(path, FIELDS, [*others, row])
    finally:
        os.close(folder)


@contextmanager
def claim(path: Path, run: Run) -> Iterator[bool]:
    """Take a row for this process; yields whether it was free. It is free again when the process ends, however it does.

    Equal commands that run at once share the rows out in this way.
    """
    name = f"l2fmt-sweep-{os.getuid()}-{digest(run.key, str(path.resolve()))}"
    marker = Path(tempfile.gettempdir(), name)
    with marker.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            marker.unlink(missing_ok=True)


def means(rows: Sequence[Row]) -> list[Row]:
    """Return one row for all seeds of the same settings: means, "seeds" that have a value, and their "spread".

    The spread is the highest value less the lowest, empty for fewer than two.
    """
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[name] for name in KEY if name != "seed"), []).append(row)
    result = []
    for members in grouped.values():
        measured = [row for row in members if row["value"]]
        mean = dict(members[0])
        for name, form in _AVERAGED.items():
            numbers = [float(row[name]) for row in measured]
            mean[name] = format(sum(numbers) / len(numbers), form) if numbers else ""
        values = [float(row["value"]) for row in measured]
        mean["seeds"] = str(len(measured))
        mean["spread"] = f"{max(values) - min(values):.2f}" if len(values) > 1 else ""
        mean["note"] = "; ".join(dict.fromkeys(row["note"] for row in members if row["note"]))
        result.append(mean)
    return result
