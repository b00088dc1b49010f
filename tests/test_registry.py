"""The code's ids and limits are those of the registry, and so are the codec's."""

import tomllib
from pathlib import Path

import pytest

from l2fmt import _registry as registry
from l2fmt.container import Limits
from l2fmt.dtypes import DTYPES

SPEC = Path(__file__).parents[1] / "spec"


@pytest.fixture(scope="module")
def toml():
    return tomllib.loads((SPEC / "registry.toml").read_text())


def test_constants_equal_the_registry(toml):
    found = {
        "format": {"major": registry.FORMAT_MAJOR, "minor": registry.FORMAT_MINOR},
        "required_features": registry.REQUIRED_FEATURES,
        "optional_features": registry.OPTIONAL_FEATURES,
        "dtypes": {
            name: dict(zip(("id", "bits", "kind"), fields, strict=True)) for name, fields in registry.DTYPES.items()
        },
        "scales": registry.SCALES,
        "transforms": registry.TRANSFORMS,
        "coders": registry.CODERS,
        "entropy": {
            "probability_bits": list(registry.PROBABILITY_BITS),
            "max_alphabet": registry.MAX_ALPHABET,
            "max_tables": registry.MAX_TABLES,
            "max_lane_bits": registry.MAX_LANE_BITS,
            "block_bits": list(registry.BLOCK_BITS),
            "max_raw_width": registry.MAX_RAW_WIDTH,
        },
        "structure": {
            "max_name_bytes": registry.MAX_NAME_BYTES,
            "max_rank": registry.MAX_RANK,
            "max_dimension_bits": registry.MAX_DIMENSION_BITS,
            "max_index_depth": registry.MAX_INDEX_DEPTH,
        },
        "limits": {
            "max_index_bytes": registry.MAX_INDEX_BYTES,
            "max_inflated_index_bytes": registry.MAX_INFLATED_INDEX_BYTES,
            "max_tensors": registry.MAX_TENSORS,
            "max_table_bytes": registry.MAX_TABLE_BYTES,
        },
    }
    assert found == toml


def test_default_limits_are_the_registry_s(toml):
    limits = Limits()
    assert {name: getattr(limits, name) for name in toml["limits"]} == toml["limits"]


def test_named_constants_are_their_table_s():
    for table, names in (
        (registry.TRANSFORMS, "BITS UNIFORM JOINT GEOMETRIC CODEBOOK"),
        (registry.CODERS, "RAW RANS RANGE HUFFMAN"),
    ):
        for name in names.split():
            assert getattr(registry, name) == table[name.lower()]


def test_dtypes_are_the_registry_s(toml):
    assert {name: (dtype.id, dtype.bits, dtype.kind) for name, dtype in DTYPES.items()} == {
        name: (entry["id"], entry["bits"], entry["kind"]) for name, entry in toml["dtypes"].items()
    }


def test_ids_are_distinct(toml):
    for table in ("required_features", "optional_features", "transforms", "coders"):
        assert len(set(toml[table].values())) == len(toml[table])
    ids = [entry["id"] for entry in toml["dtypes"].values()]
    assert len(set(ids)) == len(ids)
