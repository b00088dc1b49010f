"""Whole-file sizes do not move unnoticed: `benchmarks/sizes.csv`, which `python -m benchmarks.sizes` writes."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from benchmarks import sizes
from benchmarks.accuracy.data import DataNotFoundError

SIZES = sizes.read()


def test_the_table_has_every_setting_of_each_model():
    assert {ratio for _, ratio in SIZES} == set(sizes.RATIOS)
    assert len(SIZES) == len({model for model, _ in SIZES}) * len(sizes.RATIOS)


QUICK = [key for key in SIZES if key[0] == sizes.DIGITS or key in (("resnet20", ""), ("resnet20", "10"))]


@pytest.mark.parametrize(("model", "ratio"), QUICK)
def test_a_file_has_the_size_it_had(model, ratio):
    try:
        found = sizes.packed(model, ratio)
    except DataNotFoundError as error:
        pytest.skip(str(error))
    assert len(found) == SIZES[model, ratio]
