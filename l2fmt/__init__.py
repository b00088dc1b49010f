"""Store and load compressed neural networks in `.l2c` files.

Importing this package loads neither torch, numba nor cupy: each is imported by the call that needs it.
"""

from typing import TYPE_CHECKING, Any

from l2fmt.container.limits import Limits
from l2fmt.errors import (
    CorruptFileError,
    FileAccessError,
    FormatError,
    InputError,
    L2Error,
    LimitExceededError,
    MissingDependencyError,
    MissingFileError,
    MissingTensorError,
    TargetError,
    TargetExistsError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from l2fmt.api import PackResult, compress, pack
    from l2fmt.indexing import IndexResult, index
    from l2fmt.report import diff, inspect, plot_layers, verify
    from l2fmt.torch import load, load_file, load_model, safe_open, save, save_file, save_model
    from l2fmt.unpacking import unpack

__version__ = "0.1.0"

# Public name -> the module that is imported when the name is first used.
_LAZY = {
    "pack": "l2fmt.api",
    "compress": "l2fmt.api",
    "unpack": "l2fmt.unpacking",
    "PackResult": "l2fmt.api",
    "index": "l2fmt.indexing",
    "IndexResult": "l2fmt.indexing",
    "inspect": "l2fmt.report",
    "verify": "l2fmt.report",
    "diff": "l2fmt.report",
    "plot_layers": "l2fmt.report",
    "load": "l2fmt.torch",
    "load_file": "l2fmt.torch",
    "load_model": "l2fmt.torch",
    "safe_open": "l2fmt.torch",
    "save": "l2fmt.torch",
    "save_file": "l2fmt.torch",
    "save_model": "l2fmt.torch",
}

__all__ = [
    "CorruptFileError",
    "FileAccessError",
    "FormatError",
    "IndexResult",
    "InputError",
    "L2Error",
    "LimitExceededError",
    "Limits",
    "MissingDependencyError",
    "MissingFileError",
    "MissingTensorError",
    "PackResult",
    "TargetError",
    "TargetExistsError",
    "UnsupportedError",
    "__version__",
    "compress",
    "diff",
    "index",
    "inspect",
    "load",
    "load_file",
    "load_model",
    "pack",
    "plot_layers",
    "safe_open",
    "save",
    "save_file",
    "save_model",
    "unpack",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
