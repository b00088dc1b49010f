"""The option --limit: what a command may spend on a file (`l2fmt.Limits`)."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import click

from l2fmt.cli._options import ByteSize
from l2fmt.container.limits import Limits
from l2fmt.errors import LimitExceededError

_ALL = "none"
_NAMES = tuple(field.name for field in fields(Limits))
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Limit(click.ParamType):
    """A limit by name: NAME=VALUE, bytes with an optional unit; or "none", which is None."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int] | None:
        if not isinstance(value, str):
            return value
        if value == _ALL:
            return None
        name, separator, text = value.partition("=")
        if not separator or name not in _NAMES:
            self.fail(f"{value!r} is no limit; give {_ALL}, or NAME=VALUE with one of {', '.join(_NAMES)}", param, ctx)
        kind = ByteSize() if name.endswith("_bytes") else click.IntRange(min=1)
        try:
            return name, kind(text, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{name}: {error.message}", param, ctx)


def _to_limits(ctx: click.Context, param: click.Parameter, values: tuple[tuple[str, int] | None, ...]) -> Limits:
    """Return the default limits, or none for "none", with those changed that were named."""
    changed: dict[str, int] = {}
    for name, value in filter(None, values):
        if name in changed:
            raise click.BadParameter(f"{name} is given twice", ctx, param)
        changed[name] = value
    return replace(Limits.none() if None in values else Limits(), **changed)


def _default(name: str) -> str:
    """Return the default of a limit as the help shows it."""
    value = getattr(Limits(), name)
    if value is None:
        return "the memory of the machine"
    return f"{value >> 20}MiB" if name.endswith("_bytes") else str(value)


def limit_option(command: _Command) -> _Command:
    """Add --limit to a command that reads a .l2c file; it gets `limits`, a `Limits`."""
    defaults = ", ".join(f"{name} ({_default(name)})" for name in _NAMES)
    option = click.option(
        "--limit",
        "limits",
        type=_Limit(),
        multiple=True,
        metavar="NAME=VALUE",
        callback=_to_limits,
        help=f"What a file may take, with an optional unit if bytes (may repeat): {defaults}; {_ALL} lifts them all.",
    )
    return option(command)


def way_out(error: LimitExceededError) -> str:
    """Say which option lets a command read the file that was refused."""
    named = f"--limit {error.limit}=VALUE allows more, and " if error.limit else ""
    return f"{named}--limit {_ALL} everything, for a file that you trust"
