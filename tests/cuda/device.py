"""What a host does to decode and encode streams with the kernels of l2codec.cuda, on the simulated device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2codec import ClassMap, TableSet, Values, blocks, cuda
from l2codec._arguments import check_data
from l2codec.cuda import Form, Status
from l2codec.model import simplified
from tests.cuda import shim

SHARED_BYTES = 227 << 10  # of the largest GPUs
NOTHING = np.zeros(1, np.uint32)
FILL = "fill_tables"
FILL_THREADS, THREADS = 64, 64  # of a block: two warps


@dataclass
class Launch:
    """A kernel and its arguments; `keep` are the arrays whose addresses are in the descriptors."""

    module: str
    kernel: str
    sequences: np.ndarray
    segments: np.ndarray
    status: np.ndarray
    tables: TableSet | None = None
    form: Form = Form.INTERVALS
    n_tables: int = 0
    first_table: int = 0
    shared: bool = False
    sizes: np.ndarray | None = None
    keep: list[Any] = field(default_factory=list)


class Device:
    """Compiles what launches need, once, and runs them.

    `flags` are for the compiler; `patch`, a text and what replaces it, changes the source of a module.
    """

    def __init__(self, flags: Sequence[str] = (), patch: tuple[str, str] = ("", "")):
        self._flags, self._patch = flags, patch
        self._libraries: dict[str, shim.Library] = {}
        self.lookups: dict[tuple[int, Form], np.ndarray] = {}
        self._tables: list[TableSet] = []  # kept, as they are known by their addresses

    def prepare(self, launches: Iterable[Launch]) -> None:
        """Compile the kernels of all these launches."""
        kernels: dict[str, set[str]] = {"tables": {FILL}}
        for launch in launches:
            kernels.setdefault(launch.module, set()).add(launch.kernel)
        for module, names in kernels.items():
            source = cuda.read_source(module)
            if self._patch[0] and self._patch[0] in source:
                source = source.replace(*self._patch)
            self._libraries[module] = shim.build(source, sorted(names), self._flags)

    def run(self, launch: Launch, schedule: int = 0) -> list[Status]:
        """Run a launch and return what became of its segments."""
        arguments: list[Any] = [launch.sequences, launch.segments, np.uint32(launch.segments.size)]
        shared = 0
        if launch.tables is not None:
            size = launch.form.table_size(launch.tables)
            lookup = self.lookup(launch.tables, launch.form, schedule)[launch.first_table * size :]
            arguments.append(lookup)
            if launch.module == "rans_decode":
                arguments.append(np.uint32(launch.n_tables))
                shared = 4 * launch.n_tables * size if launch.shared else 0
            arguments.append(np.uint32(launch.tables.probability_bits))
            if launch.module != "huffman":
                arguments.append(np.uint32(launch.tables.alphabet))
        if launch.sizes is not None:
            arguments.append(launch.sizes)
        arguments.append(launch.status)
        # Fewer blocks than there is work for: some take several segments.
        n_blocks = max(1, min(3, launch.segments.size // 2))
        library = self._libraries[launch.module]
        library.launch(launch.kernel, n_blocks, THREADS, arguments, shared, schedule)
        return [Status(code) for code in launch.status.tolist()]

    def lookup(self, tables: TableSet, form: Form, schedule: int = 0) -> np.ndarray:
        """Return tables as kernels look symbols up, made by `fill_tables`."""
        key = id(tables), form
        if key not in self.lookups:
            lookup = np.zeros(len(tables) * form.table_size(tables), np.uint32)
            counts = np.concatenate([table.counts for table in tables.tables])
            arguments = [counts, *map(np.uint32, (tables.alphabet, tables.probability_bits, form)), lookup]
            shared = 4 * (2 * FILL_THREADS + 32)
            self._libraries["tables"].launch(FILL, len(tables), FILL_THREADS, arguments, shared, schedule)
            self.lookups[key] = lookup
            self._tables.append(tables)
        return self.lookups[key]


def decoding(
    coder: str,
    data: bytes | np.ndarray,
    values: Values,
    tables: TableSet | None,
    classes: ClassMap | int,
    layout: dict[str, int],
    *,
    interval: int = 0,
    points: np.ndarray = NOTHING,
    shared: bool = True,
    form: Form | None = None,
) -> Launch:
    """Return the launch that decodes a stream of at least one symbol to values; raises CodecError.

    `layout` has lanes and block_bits, or width. `interval` and `points` are those of resume points, if there are any.
    """
    count, classes = values.out.size, simplified(classes)
    stream = check_data(data).copy()  # memory of its own, of exactly this size
    sequences, keep = _sequence(classes, values)
    keep += [stream, points]
    kind = cuda.sink(values)
    if tables is None:
        segments = _raw_segments(stream, count, layout["width"])
        return Launch("raw", f"raw_decode<{kind}>", sequences, segments, _status(segments, Status.GOOD), keep=keep)
    lanes, block_bits = layout["lanes"], layout["block_bits"]
    bounds = blocks.boundaries(stream, count, block_bits)
    segments = cuda.block_segments(bounds, count, block_bits, lanes, stream.ctypes.data)
    if interval:
        segments = cuda.split_segments(segments, interval, lanes, points.ctypes.data)
    several = "true" if isinstance(classes, ClassMap) else "false"
    n_tables, first = (len(tables), 0) if isinstance(classes, ClassMap) else (1, classes)
    if coder == "rans":
        form = Form.of_rans(tables, n_tables) if form is None else form
        shared = shared and 4 * n_tables * form.table_size(tables) <= SHARED_BYTES
        kernel = f"rans_decode<{form.kernel_type}, {'true' if shared else 'false'}, {several}, {kind}>"
        module = "rans_decode"
    else:
        form = Form.INTERVALS if coder == "range" else Form.PREFIXES
        kernel, module, shared = f"{coder}_decode<{several}, {kind}>", coder, False
    status = _status(segments, Status.IMPOSSIBLE_SYMBOL)
    return Launch(module, kernel, sequences, segments, status, tables, form, n_tables, first, shared, keep=keep)


def encoding(
    coder: str, symbols: np.ndarray, tables: TableSet, classes: ClassMap | int, layout: dict[str, int]
) -> Launch:
    """Return the launch that encodes symbols, uint8 or uint16."""
    classes, lanes, block_bits = simplified(classes), layout["lanes"], layout["block_bits"]
    sequences, keep = _sequence(classes, Values(np.empty(symbols.size, symbols.dtype), 0))
    symbols = symbols.copy()
    sequences["words"] = symbols.ctypes.data
    sizes = np.minimum(symbols.size - np.arange(0, symbols.size, 1 << block_bits), 1 << block_bits)
    room = 4 * lanes + 2 * sizes if coder == "rans" else 4 * (sizes + 1)
    # Blocks of the range coder must begin at multiples of 4.
    bounds = np.concatenate([[0], np.cumsum(room + -room % 4)])
    memory = np.zeros(int(bounds[-1]), np.uint8)
    segments = cuda.block_segments(bounds, symbols.size, block_bits, lanes, memory.ctypes.data)
    segments["bytes"] = room
    several = "true" if isinstance(classes, ClassMap) else "false"
    module = "rans_encode" if coder == "rans" else "range"
    kernel = f"{coder}_encode<{several}, {cuda.symbol_type(tables.alphabet)}>"
    first = 0 if isinstance(classes, ClassMap) else classes
    status, found = _status(segments, Status.NO_VALUE), np.zeros(segments.size, np.uint32)
    keep += [symbols, memory]
    return Launch(
        module, kernel, sequences, segments, status, tables, first_table=first, sizes=found, keep=[memory, *keep]
    )


def encoded(launch: Launch) -> bytes:
    """Return the stream that an encoding launch has written."""
    memory: np.ndarray = launch.keep[0]
    assert launch.sizes is not None
    parts = []
    for segment, size in zip(launch.segments, launch.sizes, strict=True):
        first = int(segment["data"]) - memory.ctypes.data
        if launch.module == "rans_encode":
            first += int(segment["bytes"]) - int(size)
        parts.append(memory[first : first + int(size)].tobytes())
    lengths = np.array([len(part) for part in parts], "<u4").tobytes() if len(parts) > 1 else b""
    return lengths + b"".join(parts)


def _sequence(classes: ClassMap | int, values: Values) -> tuple[np.ndarray, list[Any]]:
    """Return the descriptor of a sequence, SEQUENCE[1], and the arrays it refers to."""
    sequences, keep = np.zeros(1, cuda.SEQUENCE), []

    def refer(name: str, array: np.ndarray | None) -> None:
        if array is not None:
            own = np.array(array)
            keep.append(own)
            sequences[name] = own.ctypes.data

    for name, number in cuda.layout_fields(classes, values).items():
        sequences[name] = number
    sequences["words"] = values.out.ctypes.data
    keep.append(values.out)
    if isinstance(values.codebook, np.ndarray):
        refer("codebook", values.codebook)
    refer("row_scale", values.row_scale)
    refer("column_scale", values.column_scale)
    if isinstance(classes, ClassMap):
        for name in ("row", "column", "position"):
            refer(name, getattr(classes, name))
        if classes.row_lengths is not None:
            refer("ends", np.cumsum(classes.row_lengths).astype(np.uint64))
    return sequences, keep


def _raw_segments(stream: np.ndarray, count: int, width: int, step: int = 1 << 10) -> np.ndarray:
    """Return the segments of a stream of coder `raw`, cut where a byte ends; the last one gets what is left."""
    starts = np.arange(0, count, step)
    segments = np.zeros(starts.size, cuda.SEGMENT)
    segments["data"] = stream.ctypes.data + starts * width // 8
    segments["bytes"] = step * width // 8
    segments["bytes"][-1] = max(stream.size - int(starts[-1]) * width // 8, 0)
    segments["first"], segments["count"] = starts, np.minimum(count - starts, step)
    segments["lanes"] = width
    return segments


def _status(segments: np.ndarray, before: Status) -> np.ndarray:
    """Return memory for status words; kernels must overwrite what is in it."""
    return np.full(segments.size, before, np.uint32)
