"""The user's own code, named as `package.module:name`: the network to compress, or what loads its calibration data."""

import os
import sys
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

from l2fmt.errors import InputError, L2Error

T = TypeVar("T")


def build_module(spec: str) -> nn.Module:
    """Return the module that a function or class without arguments makes, named as `package.module:factory`.

    This imports and runs the user's own code, which is what naming it asks for; nothing else in l2fmt runs code that
    comes with a model. Raises InputError if there is no such thing, if it raises, or if it makes no `nn.Module`.
    """
    factory = import_object(spec)
    if not callable(factory):
        raise InputError(f"{spec} is a {type(factory).__name__}; expected a function or class that makes an nn.Module")
    made = factory if isinstance(factory, nn.Module) else run_user_code(factory, f"{spec}()")
    if not isinstance(made, nn.Module):
        raise InputError(f"{spec}() gave a {type(made).__name__}; expected an nn.Module")
    return made


def import_object(spec: str) -> Any:
    """Return what `package.module:name` names, from the current directory or what is installed, in this order.

    The current directory stays in front of `sys.path`, as it is with `python -m`, because code may import more when it
    runs. Raises InputError.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise InputError(f"{spec!r} names no code; expected package.module:name, such as mynet.model:build")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = run_user_code(lambda: import_module(module_name), f"importing {module_name}")
    except InputError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module_name}.".startswith(f"{cause.name}."):
            raise InputError(
                f"{spec}: there is no module {cause.name}, neither installed nor in this folder"
            ) from cause
        raise
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise InputError(f"{spec}: the module {module_name} has no {name}") from error


def run_user_code(function: Callable[[], T], what: str) -> T:
    """Call a function that runs code of the user, and raise InputError with the cause if it fails or exits."""
    try:
        return function()
    except (L2Error, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what} failed with {type(error).__name__}: {error}".removesuffix(": ")) from error
