"""`import l2fmt` must stay cheap: the heavy packages load when something needs them."""

import json
import subprocess
import sys

HEAVY = ("torch", "numba", "llvmlite", "cupy", "scipy", "sklearn", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    """Return the heavy packages found in sys.modules after a statement runs in a fresh interpreter."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_probe_sees_a_heavy_package() -> None:
    assert "torch" in loaded_after("import torch")


def test_importing_the_package_loads_no_heavy_package() -> None:
    assert loaded_after("import l2fmt") == set()


def test_looking_around_loads_no_heavy_package() -> None:
    assert loaded_after("import l2fmt\ndir(l2fmt), l2fmt.__version__, l2fmt.L2Error, l2fmt.__all__") == set()


def test_importing_the_codec_loads_no_heavy_package() -> None:
    assert loaded_after("import l2codec") == set()


def test_the_command_line_starts_without_heavy_packages() -> None:
    assert loaded_after("import l2fmt.cli") == set()
