"""What commands share: the target of a command, values with units, and settings by name."""

import json
from pathlib import Path
from typing import Any

import click

from l2fmt.cli import _output
from l2fmt.container.atomic import check_target

STREAM = "-"
_UNITS = {"": 1, "B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("IB", 1024))
}


class ByteSize(click.ParamType):
    """A number of bytes with an optional unit: 5GB, 500MiB, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = str(value).strip().rstrip("BbIiKkMmGgTt ")
        unit = str(value).strip()[len(number) :].strip().upper()
        try:
            size = int(float(number) * _UNITS[unit])
        except (ValueError, KeyError, OverflowError):
            self.fail(f"{value!r} is not a size; examples: 5GB, 500MiB, 1000000", param, ctx)
        if size <= 0:
            self.fail("a size must be positive", param, ctx)
        return size


class Setting(click.ParamType):
    """A setting by name: KEY=VALUE, the value as JSON if it is that, as text otherwise."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator or not key.isidentifier():
            self.fail(f"{value!r} is no setting; examples: rounds=3, transform=joint", param, ctx)
        try:
            return key, json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            return key, text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def open_target(source: str, output: str | None, suffix: str, *, force: bool) -> Any:
    """Return where to write: the path given, by default beside the source, or the binary stdout for "-".

    Raises TargetExistsError and FileAccessError before any work is done.
    """
    if output == STREAM or (output is None and source == STREAM):
        return _output.binary_stdout()
    path = Path(output) if output is not None else beside(source, suffix)
    check_target(path, overwrite=force)
    return path


def beside(source: str, suffix: str) -> Path:
    """Return the default target of a source: its name with another suffix, `model` in a folder."""
    path = Path(source)
    if path.is_dir():
        return path / f"model{suffix}"
    for ending in (".l2c.index.json", ".safetensors.index.json", ".bin.index.json"):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + suffix)
    return path.with_suffix(suffix)
