"""What `l2fmt --version -v` says, for bug reports."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from l2codec import machine_code, processor
from l2codec.errors import KernelError
from l2fmt import __version__

_PACKAGES = ("numpy", "torch", "numba", "llvmlite")


def lines(*, verbose: bool) -> Iterator[str]:
    """Yield the version, and if `verbose` those of what it runs on, its kernels, and where they are kept."""
    yield f"l2fmt, version {__version__}"
    if verbose:
        yield f"python {platform.python_version()} on {platform.platform()}"
        yield from (f"{name} {_installed(name)}" for name in _PACKAGES)
        yield f"kernel: {_kernel()}"
        yield f"cache: {machine_code.cache_folder()}"


def _installed(name: str) -> str:
    """Return the version of a package without importing it, which takes seconds."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _kernel() -> str:
    try:
        return f"{processor.chosen_kernel()} ({processor.why()})"
    except KernelError as error:
        return f"none: {error}"
