"""What a result was measured with: commit, processor, versions."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, object]:
    """Return commit, processor, cores, and versions of what matters to speed.

    The commit is "?" where git does not know it, and has a "+" if the tree is changed.
    """
    return {
        "commit": (_git("rev-parse", "--short", "HEAD") or "?")
        + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("numpy", "numba", "torch", "constriction")},
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
