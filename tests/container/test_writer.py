"""The writer refuses what the reader would, and what it accepts comes back as it was given."""

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l2fmt._registry import BITS, RANS, RAW, UNIFORM
from l2fmt.container import Index, Limits, Reader, Stream, TableSetEntry, Writer
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError, MissingTensorError

BYTE = (DTYPES["U8"], (3,))
TABLES = TableSetEntry(8, 2, 0, 1, bytes.fromhex("800001"))


def add(writer, name: Any = "a", dtype=BYTE[0], shape=BYTE[1], parameters=(0, 8), data=b"abc", **stream):
    return writer.add_group(
        [(name, dtype, shape)], BITS, parameters, (None, None), [(Stream(RAW, width=8, **stream), data)]
    )


def test_small_file_reads_back(small, writing):
    assert writing() == small
    with Reader(small) as reader:
        assert list(reader.tensors) == ["bias", "weight", "scalar", "z", "empty", "codes"]
        assert reader.names() == [*reader.tensors, "tied"]
        assert reader.aliases == {"tied": "weight"}
        assert reader.resolve("tied") is reader.resolve("weight") is reader.tensors["weight"]
        assert reader.metadata == {"author": "nobody", "": "empty key"}
        weight, vectors, z, codes = reader.index.groups
        assert [tensor.name for tensor in vectors.tensors] == ["bias", "scalar", "empty"]
        assert (weight.layout.rows, weight.layout.columns, weight.layout.positions) == (3, 2, 2)
        assert weight.vectors == [(0, 3), (1, 2), (1, 2)] and vectors.vectors == []
        assert weight.scale_counts == (3, 2) and weight.scale_bytes == (6, 8) and weight.length == 12 + 14 + 1
        assert vectors.layout.row_lengths == (5, 1, 0) and vectors.layout.size == vectors.symbols == 6
        assert (z.layout.rows, z.layout.columns, z.layout.positions, z.symbols, z.nbytes) == (2, 2, 1, 4, 16)
        assert (codes.layout.rows, codes.layout.columns) == (1, 9)
        data = reader.read_group(0)
        assert data.streams[0].tobytes() == b"0123456789"
        assert data.row_scales == np.ones(3, "<f2").tobytes() and data.column_scales == np.ones(2, "<f4").tobytes()
        assert data.class_bytes == b"\x12"
        assert reader.read_group(1).row_scales == b"" and reader.read_group(1).class_bytes == b""
        section = reader.section("note")
        assert section is not None and reader.read_section(section) == b"for nobody"
        assert reader.section("missing") is None
        with pytest.raises(MissingTensorError, match="no tensor 'wieght' in the data; did you mean 'weight'"):
            reader.resolve("wieght")


def test_smallest_file():
    with Writer() as writer:
        pass
    with Reader(writer.getvalue()) as reader:
        assert reader.index == Index((), (), (), None, {}, {}, ())
        assert reader.names() == [] and reader.table_sets == [] and reader.class_tables is None


def test_index_is_deflated_where_that_pays():
    for count, deflated in [(1, False), (100, True)]:
        with Writer() as writer:
            for number in range(count):
                add(writer, f"layer.{number}.weight")
        with Reader(writer.getvalue()) as reader:
            assert reader.header.deflated is deflated
            assert reader.header.index_length <= reader.header.inflated_index_length


def test_scalars_of_numpy_are_taken():
    table_set: Any = np.int64(0)
    block_bits: Any = np.uint8(9)
    size: Any = np.int64(4)
    with Writer() as writer:
        writer.add_table_set(TABLES)
        streams = [(Stream(RANS, table_set=table_set, block_bits=block_bits), np.arange(5, dtype=np.uint16))]
        writer.add_group(
            [("a", DTYPES["F32"], (size,))], UNIFORM, [np.int32(1), np.float32(0.1)], (None, None), streams
        )
    with Reader(writer.getvalue()) as reader:
        assert reader.index.groups[0].parameters == (1, float(np.float32(0.1)))
        assert reader.read_group(0).streams[0].view("<u2").tolist() == [0, 1, 2, 3, 4]


def test_writer_refuses():
    writer = Writer()
    for match, call in [
        ("0 bytes", lambda: add(writer, "")),
        ("control", lambda: add(writer, "a\n")),
        ("not valid Unicode", lambda: add(writer, "\ud800")),
        ("1025 bytes", lambda: add(writer, "x" * 1025)),
        ("must be a string", lambda: add(writer, 5)),
        ("dimension is -1", lambda: add(writer, shape=(-1,))),
        ("2\\^63 bytes", lambda: add(writer, shape=(1 << 40, 1 << 40))),
        ("33 dimensions", lambda: add(writer, shape=(1,) * 33)),
        ("take 3 bytes, not 2", lambda: add(writer, data=b"ab")),
        ("add up to 9", lambda: add(writer, parameters=(1, 8))),
        ("at least one tensor", lambda: writer.add_group([], BITS, [0, 8], (None, None), [])),
        ("row scales take 0 bytes, not 1", lambda: writer.add_group(
            [("a", *BYTE)], BITS, [0, 8], (None, None), [(Stream(RAW, width=8), b"abc")], b"1")),
        ("transform 9", lambda: writer.add_group([("a", *BYTE)], 9, [], (None, None), [])),
        *(("binary32", lambda value=value: writer.add_group(
            [("a", DTYPES["F32"], (8,))], UNIFORM, [0, value], (None, None), [(Stream(RAW, width=1), b"a")]))
            for value in (0.1, 1e300, 1e-300, 1, -0.0, float("nan"))),
        ("table set is 0", lambda: writer.add_group(
            [("a", *BYTE)], BITS, [0, 8], (None, None), [(Stream(RANS), b"abc")])),
        ("added before", lambda: writer.add_group(
            [("a", *BYTE), ("a", *BYTE)], BITS, [0, 8], (None, None), [(Stream(RAW, width=8), b"abcdef")])),
        ("alphabet is 0", lambda: writer.add_table_set(dataclasses.replace(TABLES, alphabet=0))),
        ("control", lambda: writer.add_alias("\n", "a")),
        ("0 bytes", lambda: writer.add_section("", b"")),
        ("not valid Unicode", lambda: writer.add_alias("c", "\ud800")),
        ("must be a string", lambda: Writer(metadata={"a": cast(str, 1)})),
        ("not valid Unicode", lambda: Writer(metadata={"\ud800": ""})),
        ("was not closed", writer.getvalue),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=match):
            call()
    add(writer)
    with pytest.raises(InputError, match="added before"):
        add(writer)
    writer.add_alias("b", "a")
    with pytest.raises(InputError, match="added before"):
        writer.add_alias("b", "a")
    writer.close()
    writer.close()
    for call in (
        lambda: add(writer, "c"),
        lambda: writer.add_alias("d", "a"),
        lambda: writer.add_section("e", b""),
        lambda: writer.add_table_set(TABLES),
    ):
        with pytest.raises(InputError, match="closed"):
            call()
    with Reader(writer.getvalue()) as reader:
        assert reader.names() == ["a", "b"]


def test_writer_refuses_when_closing():
    def order(*names):
        return lambda writer: writer.order(names)

    def alias(*names):
        return lambda writer: writer.add_alias(*names)

    for match, change in [
        ("differs in 'b'", order("a", "c", "d")),
        ("differs in 'e'", order("a", "b", "c", "d", "e")),
        ("repeated names", order("a", "a", "b", "c", "d")),
        ("moves 'd' within its group", order("a", "b", "d", "c")),
        ("no tensor", alias("x", "y")),
        ("also the name", alias("a", "b")),
        ("two sections", lambda writer: [writer.add_section("s", b""), writer.add_section("s", b"")]),
    ]:
        writer = Writer()
        add(writer, "a")
        add(writer, "b")
        streams = [(Stream(RAW, width=8), b"abcdef")]
        writer.add_group([("c", *BYTE), ("d", *BYTE)], BITS, [0, 8], (None, None), streams)
        change(writer)
        with pytest.raises(InputError, match=match):
            writer.close()


def test_a_failed_group_leaves_the_writer_usable(monkeypatch):
    writer = Writer()
    add(writer, "a")
    with monkeypatch.context() as patch:
        patch.setattr(writer._spool, "write", lambda data: (_ for _ in ()).throw(OSError(28, "full")), raising=False)
        with pytest.raises(OSError):
            add(writer, "b")
    add(writer, "c", data=b"xyz")
    writer.close()
    with Reader(writer.getvalue()) as reader:
        assert reader.names() == ["a", "c"] and reader.read_group(1).streams[0].tobytes() == b"xyz"


# Anything a caller might try: the writer refuses it, or the reader accepts it.
names = st.text(st.characters(exclude_categories=()), max_size=4) | st.sampled_from(["a", "b", "layer.0.weight"])
dtypes = st.sampled_from(sorted(DTYPES.values(), key=lambda dtype: dtype.id))
shapes = st.lists(st.integers(0, 4) | st.sampled_from([1 << 20, 1 << 48]), max_size=4).map(tuple)
numbers = st.integers(-1, 17)
floats = st.floats(width=32) | st.sampled_from([0.5, 0.1])
scales = st.sampled_from([None, None, None, *(DTYPES[name] for name in ("F32", "F16", "BF16", "F8_E8M0", "F64"))])


@st.composite
def groups(draw):
    dtype, transform = draw(dtypes), draw(st.integers(0, 5))
    tensors = draw(st.lists(st.tuples(names, st.just(dtype) | dtypes, shapes), max_size=3))
    if transform == BITS and draw(st.booleans()):
        first = min(16, dtype.word_bits // 2)
        widths = [first] * (dtype.word_bits // first)
        parameters = [0, *widths]
    else:
        parameters = draw(st.lists(numbers | floats | st.binary(max_size=12), max_size=3))
        widths = [8] * draw(st.integers(0, 2))
    symbols = min(sum(int(np.prod(shape, dtype=object)) for _, _, shape in tensors), 1000) * dtype.words
    streams = []
    for width in widths:
        if draw(st.booleans()):
            streams.append((Stream(RAW, width=width), bytes(-(-symbols * width // 8))))
        else:
            fields = [draw(st.integers(-1, 4)), 0, 0, *(draw(st.integers(-1, 4)) for _ in range(3)), 8, draw(numbers)]
            streams.append((Stream(*fields), draw(st.binary(max_size=9))))
    if transform == 1:
        parameters = [draw(numbers), draw(floats)]
    pair = (draw(scales), draw(scales))
    shape = (*tensors[0][2], 1, 1) if tensors else (1, 1)
    scale_bytes = [bytes(min(n, 9) * s.itemsize) if s else b"" for n, s in zip(shape, pair, strict=False)]
    return tensors, transform, parameters, pair, streams, *scale_bytes, draw(st.binary(max_size=2))


table_sets = st.builds(
    TableSetEntry, st.integers(7, 15), st.sampled_from([0, 1, 2, 300, 65536]), st.integers(-1, 1), st.integers(1, 3),
    st.binary(max_size=4),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(table_sets, st.booleans()), max_size=2),
    st.lists(groups(), max_size=4),
    st.lists(st.tuples(names, names), max_size=2),
    st.lists(st.tuples(names, st.binary(max_size=9)), max_size=2),
    st.dictionaries(names, names, max_size=2),
    st.booleans(),
)
@example([], [([("a", *BYTE)], BITS, [0, 8], (None, None), [(Stream(RAW, width=8), b"abc")])], [], [], {}, True)
def test_what_the_writer_accepts_the_reader_does(tables, given_groups, aliases, sections, metadata, backwards):
    def write():
        with Writer(metadata=metadata) as writer:
            accepted = []
            for entry, for_classes in tables:
                attempt(writer.add_table_set, entry, for_classes=for_classes)
            for group in given_groups:
                if attempt(writer.add_group, *group):
                    accepted.append(group)
            for alias, name in aliases:
                attempt(writer.add_alias, alias, name)
            for kind, data in sections:
                attempt(writer.add_section, kind, data)
            if backwards:
                writer.order(name for group in reversed(accepted) for name, _, _ in group[0])
        return writer.getvalue(), accepted

    try:
        data, accepted = write()
    except InputError:
        return
    with Reader(
        data, limits=dataclasses.replace(Limits(), max_tensor_bytes=1 << 63, max_decoded_bytes=1 << 63)
    ) as reader:
        reader.verify_checksums()
        assert reader.metadata == metadata
        for number, (tensors, transform, parameters, pair, streams, *_) in enumerate(accepted):
            group = reader.index.groups[number]
            assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in group.tensors] == tensors
            assert (group.transform, group.parameters, group.scales) == (transform, tuple(parameters), pair)
            found = reader.read_group(number)
            assert [stream.tobytes() for stream in found.streams] == [bytes(data) for _, data in streams]
    assert write()[0] == data


def attempt(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except InputError:
        return False
    return True


# Only what is right: every structure comes back.
@st.composite
def valid_groups(draw, number):
    dtype = draw(dtypes)
    tensors = [
        (f"{number}.{index}", dtype, draw(st.lists(st.integers(0, 4), max_size=4).map(tuple)))
        for index in range(draw(st.integers(1, 3)))
    ]
    symbols = sum(int(np.prod(shape, dtype=int)) for _, _, shape in tensors) * dtype.words
    drop = draw(st.integers(0, dtype.word_bits - 1))
    widths, left = [], dtype.word_bits - drop
    while left:
        widths.append(draw(st.integers(1, min(left, 16))))
        left -= widths[-1]
    streams = []
    for width in widths:
        if draw(st.booleans()):
            mask = draw(st.sampled_from([0, 1] if len(tensors) > 1 else range(8))) if symbols else 0
            stream = Stream(
                RANS, class_mask=mask, lane_bits=draw(st.integers(0, 5)), block_bits=draw(st.integers(8, 30))
            )
            streams.append((stream, draw(st.binary(max_size=9)) if symbols else b""))
        else:
            raw = draw(st.integers(0, width))
            size = -(-symbols * raw // 8)
            streams.append((Stream(RAW, width=raw), draw(st.binary(min_size=size, max_size=size))))
    has_vectors = any(stream.class_mask for stream, _ in streams)
    classes = draw(st.binary(max_size=3)) if has_vectors else b""
    return tensors, BITS, [drop, *widths], (None, None), streams, b"", b"", classes


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 4), st.randoms(use_true_random=False))
def test_valid_structures_round_trip(data, count, rng):
    accepted = [data.draw(valid_groups(number)) for number in range(count)]
    order = [name for group in accepted for name, _, _ in group[0]]
    keys = {name: rng.random() for name in {name.split(".")[0] for name in order}}
    order.sort(key=lambda name: keys[name.split(".")[0]])
    aliases = {f"alias of {name}": name for name in order[:2]}

    def write():
        with Writer(metadata={"b": "1", "a": "2"}) as writer:
            for group in accepted:
                if not writer._table_sets:
                    writer.add_table_set(TABLES)
                    writer.add_table_set(dataclasses.replace(TABLES, n_tables=2), for_classes=True)
                writer.add_group(*group)
            for item in aliases.items():
                writer.add_alias(*item)
            writer.order(order)
        return writer.getvalue()

    file = write()
    with Reader(file) as reader:
        assert list(reader.tensors) == order and reader.aliases == aliases
        for number, (tensors, _, parameters, _, streams, _, _, classes) in enumerate(accepted):
            group, found = reader.index.groups[number], reader.read_group(number)
            assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in group.tensors] == tensors
            assert group.parameters == tuple(parameters)
            assert group.streams == tuple(dataclasses.replace(stream, length=len(data)) for stream, data in streams)
            assert [stream.tobytes() for stream in found.streams] == [data for _, data in streams]
            assert found.class_bytes == classes
    assert write() == file
