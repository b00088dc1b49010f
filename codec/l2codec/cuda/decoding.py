"""Decoding of many streams together on a device: one copy to it, few launches, one look at what became of them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from l2codec import cuda
from l2codec.cuda import Form, Status
from l2codec.cuda.device import WARP, Device, Launch, spread
from l2codec.cuda.staging import Staging, relocate
from l2codec.errors import KernelError
from l2codec.model import ClassMap
from l2codec.streams import Stream
from l2codec.tables import TableSet
from l2codec.values import Values

_LARGE = 1 << 24  # symbols of a stream of one table that are worth a launch of their own
_NOT_WRITTEN = 0xFFFFFFFF  # the status of a segment that no kernel has come to
_FORMS = {"range": Form.INTERVALS, "huffman": Form.PREFIXES}
SEQUENCE_PLACES = ("codebook", "row_scale", "column_scale", "row", "column", "position", "ends")


@dataclass(frozen=True)
class Points:
    """Resume points of a stream of `rans` as `l2codec.resume_points` returns them, uint32[points, 1 + lanes]."""

    interval: int
    points: np.ndarray


@dataclass(frozen=True)
class Failure:
    """A corrupt stream: its number in the order in which streams were added, where in it, in symbols, and why."""

    stream: int
    symbol: int
    status: Status


class DeviceStream(Stream):
    """A stream that a device decodes; arguments and errors are those of `Stream`."""

    def describe(self, staging: Staging, points: Points | None) -> "tuple[_Kind, np.ndarray]":
        """Return the kind of work that the stream is, and its segments of sequence 0, at places of `staging`."""
        data = staging.add(self._data)
        if self._name == "raw":
            return _Kind("raw"), cuda.raw_segments(self.count, self._width, data)
        tables, classes = self._tables, self._classes
        block_bits = self._block_size.bit_length() - 1
        segments = cuda.block_segments(self._bounds, self.count, block_bits, self._lanes, data)
        if points is not None and points.points.size:
            segments = cuda.split_segments(segments, points.interval, self._lanes, staging.add(points.points))
        table = self._only_table
        form = _FORMS.get(self._name, Form.of_rans(tables, len(tables) if table is None else 1))
        return _Kind(self._name, isinstance(classes, ClassMap), id(tables), form, table), segments

    @property
    def _only_table(self) -> int | None:
        """The table of a stream whose launch needs no other, as it is alone with its likes; None if it is not.

        Streams of one table each go together with those of others: every launch takes as long as its longest segment.
        """
        if self._name != "rans" or isinstance(self._classes, ClassMap):
            return None
        return self._classes if len(self._tables) == 1 or self.count > _LARGE else None

    def sequence(self, staging: Staging, values: Values, address: int) -> np.ndarray:
        """Return the SEQUENCE[1] of values at an address of the device; raises CodecError for those that do not fit."""
        result = np.zeros(1, cuda.SEQUENCE)
        classes = 0
        if self._name == "raw":
            values.check(np.empty(0, self.dtype), self.alphabet)
        else:
            values.check_alphabet(self.alphabet)
            classes = self._classes
        for name, number in cuda.layout_fields(classes, values).items():
            result[name] = number
        result["words"] = address
        arrays = {"row_scale": values.row_scale, "column_scale": values.column_scale}
        arrays["codebook"] = values.codebook if isinstance(values.codebook, np.ndarray) else None
        if self._name != "raw" and not isinstance(classes, ClassMap):
            result["base"] = 0 if self._only_table is not None else classes
            result["top"] = len(self._tables) - 1
        for name, array in (arrays | class_arrays(classes)).items():
            result[name] = staging.add(array)
        return result

    @property
    def tables(self) -> TableSet | None:
        """The tables; None for coder `raw`."""
        return None if self._name == "raw" else self._tables

    def _is_decoded_in_pairs(self) -> bool:
        return False  # what decides it are caches of the CPU, and tables that a device has no use for


class _Kind(NamedTuple):
    """What the segments of a launch have in common, besides sink and phase; `tables` is the id of a table set.

    `table` is the only one of them that the launch needs.
    """

    coder: str
    classes: bool = False
    tables: int = 0
    form: Form = Form.INTERVALS
    table: int | None = None


class Decoding:
    """Streams to be decoded together: `add` all of them, then call `prepare`, `launch` and `failures`.

    The device does what the first two of them ask for while the caller does something else.
    """

    def __init__(self, device: Device):
        self._device = device
        self._staging = Staging()
        self._sequences: list[np.ndarray] = []
        self._work: dict[tuple[int, str, _Kind], list[np.ndarray]] = {}
        self._tables: dict[int, TableSet] = {}
        self._segments = np.zeros(0, cuda.SEGMENT)
        self._status = 0  # an address
        self._launches: list[Launch] = []
        self._kept: list[object] = []  # memory that the device works with

    def add(
        self, stream: DeviceStream, values: Values, address: int, *, phase: int = 0, points: Points | None = None
    ) -> None:
        """Add a stream whose values go to an address of the device, as they would go to `values.out`.

        `values.out` is not touched. Phases follow each other: streams that write to the same words need different
        ones. Raises CodecError for values that do not fit the stream.
        """
        sequence = stream.sequence(self._staging, values, address)
        kind, segments = stream.describe(self._staging, points)
        if stream.tables is not None:
            self._tables[kind.tables] = stream.tables
        segments["sequence"] = len(self._sequences)
        self._sequences.append(sequence)
        if segments.size:
            self._work.setdefault((phase, cuda.sink(values), kind), []).append(segments)

    def prepare(self) -> None:
        """Take memory of the device and copy to it what it needs to know; raises MemoryError."""
        if not self._work:
            return
        device, staging = self._device, self._staging
        # By phase; in a launch the longest first, as what is left at the end should be short.
        ordered = sorted(self._work.items(), key=lambda item: item[0][0])
        work = [(sink, kind, _longest_first(kind, np.concatenate(parts))) for (_, sink, kind), parts in ordered]
        self._segments = np.concatenate([segments for *_, segments in work])
        sequences = np.concatenate(self._sequences)
        # The kernel for `raw` writes nothing where nothing is wrong.
        before = [np.full(segments.size, 0 if kind.coder == "raw" else _NOT_WRITTEN) for _, kind, segments in work]
        status = np.concatenate(before).astype(np.uint32)
        places = [staging.add(array) for array in (sequences, self._segments, status)]
        counts = {i: staging.add(np.stack([t.counts for t in s.tables])) for i, s in self._tables.items()}
        forms = dict.fromkeys((kind.tables, kind.form) for _, kind, _ in work if kind.tables)
        sizes = [4 * len(self._tables[i]) * form.table_size(self._tables[i]) for i, form in forms]

        memory, scratch = device.allocate(staging.size), device.allocate(sum(sizes))
        relocate(sequences, SEQUENCE_PLACES, memory.address)
        relocate(self._segments, ("data", "begin", "end"), memory.address)
        sequences_at, segments_at, self._status = (memory.address + place for place in places)
        ends = np.cumsum([0, *sizes]).tolist()
        lookups = {key: scratch.address + start for key, start in zip(forms, ends, strict=False)}
        for (i, form), lookup in lookups.items():
            self._launches.append(fill_tables(self._tables[i], form, memory.address + counts[i], lookup, device))
        first = 0
        for sink, kind, segments in work:
            where = sequences_at, segments_at + first * segments.itemsize, self._status + 4 * first
            lookup = lookups.get((kind.tables, kind.form), 0)
            self._launches.append(self._decode(kind, sink, segments.size, where, lookup))
            first += segments.size
        self._kept = [memory, scratch, staging.upload(device, memory)]

    def launch(self) -> None:
        """Launch all kernels."""
        for launch in self._launches:
            self._device.launch(launch)

    def failures(self) -> list[Failure]:
        """Wait for the kernels, let go of the memory, and return what they found wrong, in the order of streams."""
        status = np.zeros(self._segments.size, np.uint32)
        if status.size:
            self._device.download(self._status, status)
        self._device.wait()
        self.release()
        if (status == _NOT_WRITTEN).any():
            raise KernelError("a kernel of the GPU has left a part of its work undone")
        bad = zip(self._segments[status != 0], status[status != 0].tolist(), strict=True)
        found = [Failure(int(one["sequence"]), int(one["first"]), Status(code)) for one, code in bad]
        return sorted(found, key=lambda failure: (failure.stream, failure.symbol))

    def release(self) -> None:
        """Let go of the memory, with which the device must have finished."""
        self._kept.clear()

    def _decode(self, kind: _Kind, sink: str, n: int, where: tuple[int, int, int], lookup: int) -> Launch:
        """Return the launch for `n` segments of a kind; sequences, segments, status and lookup are at addresses."""
        sequences, segments, status = map(np.uint64, where)
        descriptors, device = [sequences, segments, np.uint32(n)], self._device
        if kind.coder == "raw":
            name = f"raw_decode<{sink}>"
            return Launch("raw", name, *spread(n, device.threads, device, "raw", name), [*descriptors, status])
        tables = self._tables[kind.tables]
        size, classes = 4 * kind.form.table_size(tables), str(kind.classes).lower()
        numbers = [np.uint32(tables.probability_bits), np.uint32(tables.alphabet)]
        first, n_tables = (0, len(tables)) if kind.table is None else (kind.table, 1)
        here = np.uint64(lookup + first * size)
        if kind.coder != "rans":
            numbers = numbers[: 1 if kind.coder == "huffman" else 2]
            name = f"{kind.coder}_decode<{classes}, {sink}>"
            shape = spread(n, 1, device, kind.coder, name)
            return Launch(kind.coder, name, *shape, [*descriptors, here, *numbers, status])
        shared = n_tables * size if n_tables * size <= device.shared_bytes else 0
        name = f"rans_decode<{kind.form.kernel_type}, {str(shared > 0).lower()}, {classes}, {sink}>"
        arguments = [*descriptors, here, np.uint32(n_tables), *numbers, status]
        shape = spread(n, WARP, device, "rans_decode", name, shared)
        return Launch("rans_decode", name, *shape, arguments, shared)


def fill_tables(tables: TableSet, form: Form, counts: int, lookup: int, device: Device) -> Launch:
    """Return the launch that lays tables out at an address, from their counts, uint16[tables, alphabet], at another."""
    numbers = map(np.uint32, (tables.alphabet, tables.probability_bits, form))
    arguments = [np.uint64(counts), *numbers, np.uint64(lookup)]
    return Launch("tables", "fill_tables", len(tables), device.threads, arguments, 4 * (2 * device.threads + WARP))


def class_arrays(classes: ClassMap | int) -> dict[str, np.ndarray | None]:
    """Return the arrays that a SEQUENCE with these classes refers to."""
    if not isinstance(classes, ClassMap):
        return {}
    ends = None if classes.row_lengths is None else np.cumsum(classes.row_lengths).astype(np.uint64)
    return {"row": classes.row, "column": classes.column, "position": classes.position, "ends": ends}


def _longest_first(kind: _Kind, segments: np.ndarray) -> np.ndarray:
    """Return segments in the order in which they are best begun: a lane takes as long as its symbols are many."""
    lanes = segments["lanes"] if kind.coder == "rans" else 1
    return segments[np.argsort(-(segments["count"].astype(np.int64) // lanes), kind="stable")]
