"""The targets of the codec: table sets, and streams of each coder, against decoders in plain Python.

Their inputs are MessagePack: what the codec takes as arguments.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

import l2codec
from l2codec import ClassMap, CodecError, TableSet, Values
from l2fmt.container import Reader
from l2fmt.container._msgpack import pack
from l2fmt.errors import FormatError
from l2fmt.pipeline.classes import read_vectors
from tools import reference_decoder
from tools.fuzz.mutation import Mutate, mutate_bytes, mutate_packed, packed, unpacked
from tools.fuzz.oracle import attempt, check
from tools.fuzz.readers import files

_MOST_SYMBOLS = 1 << 10
_CODERS = {number: name for name, number in l2codec.CODERS.items()}


def table_sets() -> list[bytes]:
    """Return the table sets of all vectors, as their indexes hold them."""
    found = []
    for data in files():
        with suppress(FormatError), Reader(data) as reader:
            found += [pack(entry.to_list()) for entry in reader.index.table_sets]
    return sorted(set(found))


def read_table_set(data: bytes) -> bool:
    """A table set is refused by both decoders, or canonical and read alike."""
    fields = unpacked(data)
    try:
        ours = attempt(lambda: _table_set(fields), (CodecError,))
    except TypeError:
        return False  # not the fields of a table set
    source = reference_decoder.MessagePack(pack([fields]))
    theirs = attempt(lambda: reference_decoder.read_table_sets(source), (reference_decoder.Refused,))
    if isinstance(theirs, reference_decoder.Refused) and theirs.code == "limit":
        return False
    check(isinstance(ours, CodecError) == isinstance(theirs, Exception), f"{ours!r}, but the reference: {theirs!r}")
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        return False
    check(ours.to_bytes() == fields[4], "a table set was accepted that is not canonical")
    counts = [table.counts.tolist() for table in ours.tables]
    check(counts == [table.counts for table in theirs[0].tables], "the decoders differ in counts")
    return True


def _table_set(fields: Any) -> TableSet:
    if not isinstance(fields, list) or [type(field) for field in fields] != [int, int, int, int, bytes]:
        raise TypeError("these are not the fields of a table set")
    bits, alphabet, origin, n_tables, data = fields
    return TableSet.from_bytes(data, n_tables, alphabet, bits, origin)


def streams(coder: str) -> Callable[[], list[bytes]]:
    """Return a function that returns the streams of a coder that the vectors hold."""

    def found() -> list[bytes]:
        return [pack(arguments) for name, arguments in _streams() if name == coder]

    return found


def _streams() -> list[tuple[str, list[Any]]]:
    found = []
    for data in files():
        with suppress(FormatError, CodecError), Reader(data) as reader:
            for number, group in enumerate(reader.index.groups):
                parts = reader.read_group(number)
                maps = read_vectors(reader, group, parts).maps
                for stream, part, classes in zip(group.streams, parts.streams, maps, strict=True):
                    tables = None
                    if _CODERS[stream.coder] != "raw":
                        tables = reader.index.table_sets[stream.table_set].to_list()
                    layout = [1 << stream.lane_bits, stream.block_bits, stream.width]
                    arguments = [group.symbols, tables, _packed_classes(classes), *layout, part.tobytes()]
                    found.append((_CODERS[stream.coder], arguments))
    return found


def _packed_classes(classes: ClassMap | int) -> Any:
    if isinstance(classes, int):
        return classes
    vectors = (classes.row, classes.column, classes.position, classes.row_lengths)
    return [list(classes.shape), classes.base, *(None if v is None else v.tolist() for v in vectors)]


def mutate_stream(coder: str) -> Callable[[list[bytes]], Mutate]:
    """Return a function of seeds: their mutation changes arguments or the stream, or encodes new symbols."""

    def of_seeds(seeds: list[bytes]) -> Mutate:
        mutate_any = mutate_packed([unpacked(seed) for seed in seeds])

        def mutate(data: bytes, rng: random.Random) -> bytes:
            kind = rng.random()
            try:
                _, stream, arguments = _arguments(coder, data)
            except (TypeError, ValueError, OverflowError):
                return mutate_any(data, rng)
            *fields, _ = unpacked(data)
            if kind < 0.2:
                with suppress(CodecError):
                    fields[0], stream = _encoded(coder, fields[0], arguments, rng)
                    return packed([*fields, stream])
            return packed([*fields, mutate_bytes(stream, rng)]) if kind < 0.7 else mutate_any(data, rng)

        return mutate

    return of_seeds


def _encoded(coder: str, count: int, arguments: dict[str, Any], rng: random.Random) -> tuple[int, bytes]:
    """Return a number of symbols and a stream of them, all of the alphabet and with a count in some table."""
    if isinstance(arguments.get("classes", 0), int):
        count = rng.randrange(_MOST_SYMBOLS // 2)
    used = np.flatnonzero(arguments["tables"].used) if coder != "raw" else np.arange(1 << arguments["width"] % 17)
    symbols = np.random.default_rng(rng.randrange(1 << 32)).choice(used, count).astype(np.uint16)
    return count, l2codec.encode(coder, symbols, **arguments)


def read_stream(coder: str) -> Callable[[bytes], bool]:
    """Return a target: kernels and plain Python decode a stream of a coder alike, to symbols and to their values."""

    def run(data: bytes) -> bool:
        try:
            count, stream, arguments = _arguments(coder, data)
        except (TypeError, ValueError, OverflowError):
            return False  # not the arguments of a decoder, or of one that asks for much
        kernels, plain = (
            attempt(
                lambda backend=backend: l2codec.decode(coder, stream, count, backend=backend, **arguments),
                (CodecError,),
            )
            for backend in ("numba", "reference")
        )
        values = attempt(lambda: _values(coder, stream, count, arguments), (CodecError,))
        if isinstance(plain, Exception):
            check(type(kernels) is type(plain), f"kernels: {kernels!r}; plain Python: {plain!r}")
            check(type(values) is type(plain), f"values: {values!r}; plain Python: {plain!r}")
            return False
        check(isinstance(kernels, np.ndarray) and np.array_equal(kernels, plain), f"symbols differ: {kernels!r}")
        check(isinstance(values, np.ndarray) and np.array_equal(values, plain), f"values differ: {values!r}")
        return True

    return run


def _arguments(coder: str, data: bytes) -> tuple[int, bytes, dict[str, Any]]:
    """Return the number of symbols, the stream and the other arguments of a decoder."""
    count, tables, classes, lanes, block_bits, width, stream = unpacked(data) or []
    if [type(value) for value in (count, lanes, block_bits, width, stream)] != [int, int, int, int, bytes]:
        raise TypeError("these are not the arguments of a decoder")
    if not 0 <= count <= _MOST_SYMBOLS:
        raise ValueError("too many symbols to be decoded often")
    arguments: dict[str, Any] = {"lanes": lanes, "block_bits": block_bits, "width": width}
    if coder != "raw":
        arguments["tables"] = _table_set(tables)
        arguments["classes"] = _class_map(classes, len(arguments["tables"]))
    return count, stream, arguments


def _values(coder: str, stream: bytes, count: int, arguments: dict[str, Any]) -> np.ndarray:
    return l2codec.decode_values(coder, stream, Values(np.empty(count, np.uint32), 0), **arguments)


def _class_map(fields: Any, n_tables: int) -> ClassMap | int:
    if isinstance(fields, int):
        return fields
    shape, base, *vectors, lengths = fields
    row, column, position = (None if vector is None else np.array(vector, np.int8) for vector in vectors)
    ragged = None if lengths is None else np.array(lengths, np.int64)
    return ClassMap(tuple(shape), n_tables, base, row, column, position, ragged)
