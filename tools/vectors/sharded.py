"""Sharded models, and indexes of shards that break one rule each (spec/container.md 10)."""

import json
from typing import Any

from l2fmt._registry import BITS
from l2fmt.container import Header
from l2fmt.container.header import HEADER_BYTES

from .building import FileBuilder

FIRST, SECOND = "shards-00001-of-00002.l2c", "shards-00002-of-00002.l2c"
TOTAL_SIZE = 10
SUFFIX = ".l2c.index.json"


def shards(with_section: bool = True) -> dict[str, FileBuilder]:
    """Return the builders of two files: tensors `a`, `b` and alias `tied` in the first, `c` in the second.

    The second has an optional section, or would have.
    """
    first, second = FileBuilder(35), FileBuilder(36)
    for builder, name, words in ((first, "a", [1, 2, 3]), (first, "b", [4]), (second, "c", [5, 6, 7, 8, 9, 10])):
        builder.group([(name, "U8", (len(words),))], BITS, [0, 8], [builder.raw(words, 8)])
        builder.words(name, "U8", (len(words),), words)
    first.writer.add_alias("tied", "b")
    if with_section:
        second.writer.add_section("unknown", b"anything")
    return {FIRST: first, SECOND: second}


# Of the indexes as they would be without sections; none is deflated.
CHECKSUMS = {
    name: Header.parse(builder.finish()[:HEADER_BYTES]).index_checksum
    for name, builder in shards(with_section=False).items()
}
PLACES = {"a": FIRST, "b": FIRST, "c": SECOND, "tied": FIRST}


def _index(places: dict[str, Any], metadata: Any = None, **other: Any) -> bytes:
    content = {"metadata": {"total_size": TOTAL_SIZE} if metadata is None else metadata, "weight_map": places, **other}
    return json.dumps(content).encode()


def _bound(checksums: Any) -> bytes:
    return _index(PLACES, {"total_size": TOTAL_SIZE, "checksums": checksums})


VALID = {
    "complete": ("a sharded model with an alias", _index(PLACES)),
    "checksums": ("shards that are known by their checksums", _bound(CHECKSUMS)),
    "other-keys": ("keys that mean nothing, no total size", _index(PLACES, {"made by": "nobody"}, version=[1, None])),
}
_PLAIN = _index(PLACES)
# A name of a file each, that is not one in the same folder on every system.
_ELSEWHERE = {
    "parent": "..",
    "separator": f"x/{FIRST}",
    "backslash": f"x\\{FIRST}",
    "drive": f"C:{FIRST}",
    "nameless": "",
}
INVALID = {
    "not-json": ("the index of shards is JSON", _PLAIN[:-1]),
    "not-utf8": ("the index of shards is UTF-8", _PLAIN.replace(b'"tied"', b'"ti\xff"')),
    "not-object": ("the index of shards is an object", b"[" + _PLAIN + b"]"),
    "no-weight-map": ("it has a weight map", b'{"metadata": {}}'),
    "no-metadata": ("it has metadata", b'{"weight_map": {}}'),
    "nan": ("JSON has no NaN", _index(PLACES, {"loss": float("nan")})),
    "map-key-twice": ("no key twice", _PLAIN.replace(b'"b": ', b'"a": "' + FIRST.encode() + b'", "b": ')),
    "total-size": ("the total size is that of the tensors", _index(PLACES, {"total_size": TOTAL_SIZE + 1})),
    "total-size-float": ("the total size is an integer", _index(PLACES, {"total_size": float(TOTAL_SIZE)})),
    "checksums-differ": (
        "a shard is the one whose checksum the index has",
        _bound({**CHECKSUMS, SECOND: CHECKSUMS[FIRST]}),
    ),
    "checksums-list": ("checksums are an object", _bound(list(CHECKSUMS.values()))),
    "checksums-missing": ("every shard has a checksum", _bound({FIRST: CHECKSUMS[FIRST]})),
    "checksums-more": ("no other file has a checksum", _bound({**CHECKSUMS, "more.l2c": 0})),
    "checksums-float": ("a checksum is an integer", _bound({**CHECKSUMS, FIRST: float(CHECKSUMS[FIRST])})),
    "name-absent": ("a shard holds what is placed there", _index({**PLACES, "d": SECOND})),
    "name-elsewhere": ("names are placed where they are", _index({**PLACES, "c": FIRST})),
    "name-not-placed": (
        "every tensor is placed",
        _index({name: where for name, where in PLACES.items() if name != "b"}, {"total_size": TOTAL_SIZE}),
    ),
    "alias-not-placed": ("every alias is placed", _index({k: v for k, v in PLACES.items() if k != "tied"})),
    "name-of-no-tensor": ("names in the map have the rules of names", _index({**PLACES, "\ud800": FIRST})),
    "file-number": ("the name of a file is a string", _index({**PLACES, "c": 2})),
} | {
    f"file-{name}": ("the name of a file is that of one in the same folder", _index({**PLACES, "c": where}))
    for name, where in _ELSEWHERE.items()
}
