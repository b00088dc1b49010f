"""Rows of results as text for people: phases spread out, columns aligned."""

import json
from collections.abc import Mapping, Sequence

from benchmarks.accuracy.rows import Row


def with_phases(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows with a column for each phase that any of them has, in seconds, and the names of these columns."""
    parsed = [json.loads(row["phases"] or "{}") for row in rows]
    names = list(dict.fromkeys(name for phases in parsed for name in phases))
    spread = [
        row | {name: str(phases.get(name, "")) for name in names} for row, phases in zip(rows, parsed, strict=True)
    ]
    return spread, names


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Return rows as text, columns of numbers aligned to the right."""
    cells = [columns, *([row[name] for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(_is_number(line[i]) for line in cells[1:]) for i in range(len(columns))]
    lines = []
    for line in cells:
        padded = zip(line, widths, numeric, strict=True)
        lines.append("  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in padded).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True
