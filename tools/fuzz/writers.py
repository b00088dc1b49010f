"""The targets that write: whatever the writer accepts, both decoders read back.

Their inputs are MessagePack: settings, and what random tensors are to be like.
"""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from l2fmt._registry import CODERS, TRANSFORMS
from l2fmt.container import Reader, Stream, TableSetEntry, Writer
from l2fmt.container._msgpack import pack
from l2fmt.container.entries import OCTAVES
from l2fmt.container.opening import open_readers
from l2fmt.container.shards import INDEX_SUFFIX
from l2fmt.dtypes import DTYPES, dtype_by_id
from l2fmt.errors import LimitExceededError
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, decode_tensor, write_files
from l2fmt.report import verify
from l2fmt.transforms import Codebook, Geometric, Joint, Transform, Uniform, octave_scales
from tools.fuzz.mutation import unpacked
from tools.fuzz.oracle import MEMORY, are_shards_read_alike, check, is_read_alike, typed

Tensor = QuantizedTensor | PlainTensor

_MOST_ELEMENTS = 1 << 10
_FLOATS = (0.1, 1.0, 1e-30, 1e-45, 3e38, 0.0, -1.0, float("inf"), float("nan"))
_NAMES = list(DTYPES)


def settings() -> list[bytes]:
    """Return settings that together have every coder, dtype and transform."""
    found = []
    for i in range(2 * len(_NAMES)):
        shape = [[5], [3, 4], [2, 3, 2, 2], [], [40, 8], [0, 3]][i % 6]
        scales = [1 - i % 2 or None, i % 2 or None]
        # name, dtype, shape, seed, spread of the codes, bits kept, transform, two floats of it, row and column scale
        tensors = [
            ["plain", i, shape, i, 1, None, None, 0, 0, None, None],
            ["rounded", i, [33], i, 3, 1 + i % 9, None, 0, 0, None, None],
            ["quantized", i, [6, 5, i % 9], i, 2 + i, None, i % 4, 0, 1, *scales],
            ["long", i, [40, 20], i, i, None, i % 3, 0, 1, None, None],
        ]
        # coder, tables, resume interval, bytes of a shard, aliases, metadata
        options = [i % 4, 1 + i % 32, 256 if i % 3 else None, 300 if i % 5 == 4 else None, {"tied": "plain"}, {"": "x"}]
        found.append(pack([*options, tensors]))
    return found


def write_and_read(data: bytes) -> bool:
    """Random tensors: refused with a sentence, or read back by both decoders, plain ones to the bit."""
    try:
        encoding, shard_bytes, aliases, metadata, tensors = _asked(unpacked(data))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False  # not what a caller can ask for, or refused
    with tempfile.TemporaryDirectory(prefix="l2fmt-fuzz-") as name:
        path = Path(name, "model.l2c")
        size = typed(lambda: write_files(path, tensors, aliases, metadata, encoding, max_shard_bytes=shard_bytes))
        written = sorted(Path(name).iterdir())
        if isinstance(size, Exception):
            check(not written, f"a writer that failed left {written}")
            return False
        total = sum(file.stat().st_size for file in written)
        check(size.file_bytes == total, f"the writer says {size.file_bytes} bytes and writes {total}")
        verify(path)  # its error is a find
        index = path.with_name(path.stem + INDEX_SUFFIX)
        alike = are_shards_read_alike(index) if index in written else is_read_alike(path.read_bytes())
        check(alike, "the writer writes what is not read back")
        _check_content(open_readers(path), tensors)
    return True


def _asked(fields: Any) -> tuple[Encoding, int | None, dict[Any, Any], dict[Any, Any], list[Tensor]]:
    """Return what the fields ask the writer for; raises InputError, which is a ValueError, for what is refused."""
    coder, tables, interval, shard_bytes, aliases, metadata, described = fields
    tensors = [_tensor(*each) for each in described]
    numbers = all(type(value) in (int, type(None)) for value in (tables, interval, shard_bytes))  # no booleans
    if not numbers or not isinstance(metadata, dict) or not all(isinstance(name, str) for name in aliases.values()):
        raise TypeError("these are not the arguments of a writer")
    if 8 * sum(tensor.size for tensor in tensors) > MEMORY:
        raise ValueError("more than a small machine reads")
    return Encoding(_of(list(CODERS), coder), tables, interval), shard_bytes, aliases, metadata, tensors


def _check_content(readers: list[Reader], tensors: Sequence[Tensor]) -> None:
    names = [name for reader in readers for name in reader.tensors]
    check(names == [tensor.name for tensor in tensors], "the tensors are not in their order")
    home = {name: reader for reader in readers for name in reader.tensors}
    for tensor in tensors:
        if isinstance(tensor, PlainTensor):
            found = decode_tensor(home[tensor.name], tensor.name)
            check(found.tobytes() == tensor.words().tobytes(), f"{tensor.name!r} comes back different")
    for reader in readers:
        reader.close()


def _of(choices: Sequence[Any], number: int) -> Any:
    return choices[number % len(choices)]


def _tensor(
    name: str,
    dtype: int,
    shape: Sequence[int],
    seed: int,
    spread: int,
    kept: int | None,
    transform: int | None,
    first: int,
    second: int,
    row: int | None,
    column: int | None,
) -> Tensor:
    if not isinstance(name, str) or type(kept) not in (int, type(None)):
        raise TypeError("these are not what a tensor has")  # the calls of a user are checked before they get here
    shape = tuple(shape)
    if not 0 <= prod(size or 1 for size in shape) <= _MOST_ELEMENTS:
        raise ValueError("too large to be written often")
    rng = np.random.default_rng(abs(seed))
    if transform is None:
        chosen = DTYPES[_of(_NAMES, dtype)]
        content = rng.integers(0, 256, prod(shape) * chosen.itemsize, np.uint8) % (1 + abs(spread) % 256)
        array = content.astype(np.uint8).view(chosen.numpy).reshape(shape)
        return PlainTensor(name, chosen, shape, lambda: array, kept)
    codes = np.rint(rng.laplace(size=shape) * (abs(spread) % 1000)).clip(-3000, 3000).astype(np.int16)
    scales = [
        None
        if scale is None
        else octave_scales(rng.integers(-9, 9, size))
        if scale % 3 == 2
        else (rng.uniform(0.5, 2, size) * _of(_FLOATS, scale)).astype(np.float32)
        for scale, size in zip((row, column), (*shape, 0, 0), strict=False)
    ]
    quantizer = _transform(transform, _of(_FLOATS, first), _of(_FLOATS, second), codes)
    return QuantizedTensor(name, DTYPES[_of(("F16", "BF16", "F32", "F64"), dtype)], shape, codes, quantizer, *scales)


def _transform(number: int, first: float, second: float, codes: np.ndarray) -> Transform:
    match number % len(TRANSFORMS):
        case 0:
            return Uniform(first)
        case 1:
            return Joint(first, second)
        case 2:
            return Geometric(first, second)
        case _:
            low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
            return Codebook(np.linspace(-first, first, high - low + 1, dtype=np.float32), low)


def write_index(data: bytes) -> bool:
    """What an index describes, given to the writer entry by entry: refused, or opened by the reader."""
    tree = unpacked(data)
    try:
        written = typed(lambda: _written(tree))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
        return False  # no index, or types that a caller must not give
    if isinstance(written, Exception):
        return False
    with suppress(LimitExceededError), Reader(written) as reader:
        reader.verify_checksums()
    return True


def _written(tree: Any) -> bytes:
    with Writer(None, metadata=tree["metadata"]) as writer:
        for number, fields in enumerate(tree["table_sets"]):
            writer.add_table_set(TableSetEntry(*fields), for_classes=number == tree["class_set"])
        for number, (transform, parameters, scales, streams, class_bytes, _) in enumerate(tree["groups"]):
            members = [
                (name, dtype_by_id(dtype), shape) for name, dtype, shape, group in tree["tensors"] if group == number
            ]
            dtypes = [
                None if scale is None else OCTAVES if scale == OCTAVES.id else dtype_by_id(scale) for scale in scales
            ]
            sizes = [
                0 if dtype is None else size * dtype.itemsize
                for dtype, size in zip(dtypes, (*members[0][2], 0, 0), strict=False)
            ]
            coded = [
                (Stream(0, 0, *fields) if coder == 0 else Stream(coder, 0, 0, *fields), _zeros(length))
                for coder, length, *fields in streams
            ]
            parts = [*map(_zeros, sizes), _zeros(class_bytes)]
            writer.add_group(members, transform, parameters, (dtypes[0], dtypes[1]), coded, *parts)
        for alias, name in tree["aliases"].items():
            writer.add_alias(alias, name)
        for kind, length, _ in tree["sections"]:
            writer.add_section(kind, _zeros(length))
    return writer.getvalue()


def _zeros(length: int) -> bytes:
    if length > 1 << 16:
        raise ValueError("too long to be written often")
    return bytes(length)
