"""Every MUST of the specification cites test vectors, or says why there are none (spec/README.md)."""

import json
import re
from pathlib import Path

import pytest

SPEC = Path(__file__).parents[2] / "spec"
DOCUMENTS = sorted(SPEC.glob("*.md"))
MANIFEST = json.loads((SPEC / "vectors" / "manifest.json").read_text(encoding="utf-8"))
CITATION = re.compile("⟨([^⟨⟩]*)⟩")
ITEM = re.compile(r"\* |\d+\. |\| ")  # what begins a list item or a row of a table
LIST_OF_RULES = re.compile(r"MUST( check)?:\s*$")


def vector_names() -> list[str]:
    kinds = ("valid", "invalid", "valid_sharded", "invalid_sharded")
    return [Path(entry["file"]).name.split(".")[0] for kind in kinds for entry in MANIFEST[kind]]


def rules(text: str) -> list[str]:
    """Return the text of every rule: from a MUST to the next one or to the end of its paragraph, item or row.

    A paragraph that ends with "MUST:" or "MUST check:" makes rules of the items that follow it.
    """
    text = re.sub(r"(?s)```.*?```", "", text)
    found: list[str] = []
    items_are_rules = False
    for paragraph in text.split("\n\n"):
        for part in re.split(rf"\n(?={ITEM.pattern})", paragraph):
            musts = re.split(r"(?=\bMUST\b)", part)[1:]
            if not ITEM.match(part):
                items_are_rules = bool(LIST_OF_RULES.search(part))
                found += musts[: -1 if items_are_rules else None]
            else:
                found += musts or [part] * items_are_rules
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_rule_cites_vectors(path):
    uncited = [rule for rule in rules(path.read_text(encoding="utf-8")) if not CITATION.search(rule)]
    assert not uncited


def test_there_are_rules():
    counts = {path.stem: len(rules(path.read_text(encoding="utf-8"))) for path in DOCUMENTS}
    assert sum(counts.values()) >= 75 and counts["container"] >= 30


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_what_is_cited_exists(path):
    known = {*vector_names(), "writers"}
    for citation in CITATION.findall(path.read_text(encoding="utf-8")):
        if citation.startswith("none: ") or (path.stem == "README" and citation in ("magic, truncated", "none: ...")):
            continue
        names = re.split(r",\s+", citation)
        assert not set(names) - known, citation


def test_every_invalid_vector_is_cited():
    cited = {
        name for path in DOCUMENTS for c in CITATION.findall(path.read_text("utf-8")) for name in re.split(r",\s+", c)
    }
    entries = MANIFEST["invalid"] + MANIFEST["invalid_sharded"]
    assert {Path(entry["file"]).name.split(".")[0] for entry in entries} <= cited


def test_names_of_vectors_are_unique():
    names = vector_names()
    assert len(set(names)) == len(names)


def test_a_rule_without_a_citation_is_found():
    text = (
        "A reader MUST a ⟨x⟩ and MUST b.\n\n* It MUST c;\n* or d ⟨y⟩.\n\nWhat a reader MUST check:\n\n1. e ⟨z⟩\n2. f\n"
    )
    assert [rule for rule in rules(text) if not CITATION.search(rule)] == ["MUST b.", "MUST c;", "2. f\n"]
