"""The worked examples of the specification are executed."""

import doctest
from pathlib import Path

import pytest

SPEC = sorted((Path(__file__).parents[1] / "spec").glob("*.md"))


@pytest.mark.parametrize("path", SPEC, ids=[path.stem for path in SPEC])
def test_examples(path):
    test = doctest.DocTestParser().get_doctest(path.read_text("utf-8"), {}, path.name, str(path), 0)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.failed == 0, "".join(report)
