"""Dependencies point one way: cli -> inputs, optimize, torch -> pipeline -> container, transforms -> l2codec.

Every import is read from the source, those inside functions included.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "l2fmt").rglob("*.py"), *(ROOT / "codec" / "l2codec").rglob("*.py")])

# A unit is the codec, or what stands directly under l2fmt/. It may import units of lower layers and itself; the units
# of the lowest layer may import each other. A new unit gets a place here.
LAYERS = [
    {"l2codec", "errors", "dtypes", "_registry"},
    {"container", "transforms"},
    {"pipeline"},
    {"store", "inputs", "demo"},
    {"optimize"},
    {"numpy"},
    {"memory"},
    {"cuda"},
    {"torch"},
    {"report", "unpacking", "indexing"},
    {"plan"},
    {"api"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}
# `l2fmt/__init__.py` offers names of every layer, lazily (tests/test_imports.py); layers use no more of it.
FACADE, FACADE_NAMES = "__init__", {"__version__"}

OPTIMIZE_USERS = {"optimize", "plan", "api", "cli", FACADE}
HEAVY_USERS = {
    "torch": {"torch", "memory", "cuda", "inputs", "optimize", "report", "unpacking", "demo", "plan", "api", "cli"},
    "numba": {"l2codec", "optimize"},
    "cupy": {"l2codec"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "sklearn": {"demo"},
    "matplotlib": {"report", "cli"},
    "pickle": {"inputs"},
}
NEVER = {"tools", "tests", "benchmarks", "spec"}


def unit_of(path: Path) -> str:
    """Return the unit that a source file belongs to."""
    package, *inside = path.relative_to(ROOT).parts
    return "l2codec" if package == "codec" else inside[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a file imports; `from a import b` gives a.b."""
    root = ROOT / "codec" if unit_of(path) == "l2codec" else ROOT
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def objection(unit: str, target: str) -> str | None:
    """Say what is wrong with a unit importing a dotted name, or None."""
    top, _, rest = target.partition(".")
    if top in NEVER:
        return "packages import no scripts, tests or benchmarks"
    if top in HEAVY_USERS and unit != FACADE and unit not in HEAVY_USERS[top]:
        return f"only {', '.join(sorted(HEAVY_USERS[top]))} may import {top}"
    if top not in ("l2fmt", "l2codec"):
        return None
    imported = "l2codec" if top == "l2codec" else rest.partition(".")[0]
    if unit == "l2codec":
        return None if imported == unit else "the codec stands alone"
    if unit == FACADE or imported in FACADE_NAMES:
        return None
    if imported == "optimize" and unit not in OPTIMIZE_USERS:
        return "only the command line and users import the optimizer"
    if imported not in LAYER_OF:
        return f"{imported or 'l2fmt'} has no layer; import from the module that defines the name"
    below = LAYER_OF[imported] < LAYER_OF[unit] or (LAYER_OF[imported] == LAYER_OF[unit] == 0)
    return None if below or imported == unit else f"{unit} is not above {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    unit = unit_of(path)
    assert unit == FACADE or unit in LAYER_OF, f"give {unit} a place in LAYERS"
    found = [(line, target, reason) for line, target in imports(path) if (reason := objection(unit, target))]
    assert not found, "\n".join(f"{path.name}:{line}: {target}: {reason}" for line, target, reason in found)


@pytest.mark.parametrize(
    ("unit", "target", "allowed"),
    [
        ("l2codec", "numpy", True),
        ("l2codec", "l2codec.tables.FrequencyTable", True),
        ("l2codec", "torch.nn", False),
        ("l2codec", "l2fmt.errors", False),
        ("container", "l2fmt.errors.FormatError", True),
        ("container", "l2fmt.transforms", False),
        ("container", "torch", False),
        ("container", "numba", False),
        ("pipeline", "l2fmt.container", True),
        ("pipeline", "l2codec.encode", True),
        ("pipeline", "l2fmt.torch", False),
        ("errors", "l2fmt.container", False),
        ("inputs", "l2fmt.inputs.base", True),
        ("inputs", "l2fmt.optimize", False),
        ("torch", "l2fmt.optimize.rd", False),
        ("torch", "l2fmt.load_file", False),
        ("torch", "l2fmt.__version__", True),
        ("cli", "l2fmt.optimize.rd", True),
        ("cli", "tests.helpers", False),
        ("optimize", "click", False),
    ],
)
def test_the_rule_itself(unit: str, target: str, allowed: bool) -> None:
    assert (objection(unit, target) is None) == allowed


def test_relative_imports_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "l2fmt" / "container" / "reader.py"
    path.parent.mkdir(parents=True)
    path.write_text("from . import header\nfrom .index import read\nfrom ..optimize import rd\nimport numpy as np\n")
    assert [name for _, name in imports(path)] == [
        "l2fmt.container.header",
        "l2fmt.container.index.read",
        "l2fmt.optimize.rd",
        "numpy",
    ]
