"""Rows of results as text for people: seeds averaged, phases spread out, columns aligned."""

import json
from collections.abc import Mapping, Sequence

from benchmarks.accuracy.rows import KEY, Row

_AVERAGED = {"ratio": ".3f", "value": ".2f", "drop": ".2f", "seconds": ".1f"}


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
