"""Decode groups on a GPU, to memory of the caller there: batch after batch, each with few copies and launches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from l2codec import CodecError, KernelError, Values
from l2codec.cuda import UnsupportedStreamError
from l2codec.cuda.decoding import Decoding, DeviceStream, Points
from l2codec.cuda.device import Device
from l2codec.threads import results
from l2fmt.container import Reader, parse_resume
from l2fmt.container.entries import Group
from l2fmt.container.sections import RESUME
from l2fmt.errors import CorruptFileError, L2Error, UnsupportedError
from l2fmt.pipeline.decode import check_limits, coded_parts, decode_group

_BATCH_BYTES = 60 << 20  # of groups as they are stored; all that goes to the device with them is then below 64 MiB


@dataclass(frozen=True)
class Target:
    """A group of a file, and the address of memory on the device for its words: `group.symbols` of `dtype.word`."""

    reader: Reader
    number: int
    address: int

    @property
    def group(self) -> Group:
        return self.reader.index.groups[self.number]


_Coded = tuple[DeviceStream, Values, Points | None]
PointsOfFiles = dict[Reader, dict[tuple[int, int], Points]]


@dataclass
class _Opened:
    """A group that has been read and checked, or what is wrong with it."""

    target: Target
    streams: list[_Coded] = field(default_factory=list)
    error: Exception | None = None


def decode_groups(targets: Sequence[Target], device: Device, threads: int = 1) -> None:
    """Decode groups on a device; threads share the reading. It returns when the words are there.

    Resume points that a file has are used. Raises what `decode_group` raises, for the first group for which it would;
    and UnsupportedError for a tensor that kernels cannot count, CorruptFileError for wrong resume points. What the
    memory then holds means nothing. One thing is decoded by the CPU and copied: a stream of coder `raw` that may hold
    symbols for which its transform has no finite value.
    """
    points = read_points(targets)
    under_way: Batch | None = None
    try:
        for part in _batches(targets):
            batch = Batch.of(part, points, device, threads)
            if under_way is not None:  # while the device worked on it, the next one has been read
                under_way.finish()
            under_way = batch
            batch.start()
        if under_way is not None:
            under_way.finish()
    except BaseException:
        device.wait()
        if under_way is not None:
            under_way.decoding.release()  # now, although the error that is raised may be kept, and with it all of this
        raise


def _batches(targets: Iterable[Target]) -> Iterator[list[Target]]:
    """Cut groups into batches that are stored in a bounded number of bytes, unless one group alone is longer."""
    batch: list[Target] = []
    stored = 0
    for target in targets:
        if batch and stored + target.group.length > _BATCH_BYTES:
            yield batch
            batch, stored = [], 0
        batch.append(target)
        stored += target.group.length
    if batch:
        yield batch


def read_points(targets: Iterable[Target]) -> PointsOfFiles:
    """Return the resume points of each file by group and stream."""
    result: PointsOfFiles = {}
    for reader in dict.fromkeys(target.reader for target in targets):
        section = reader.section(RESUME)
        records = [] if section is None else parse_resume(reader.read_section(section), reader.index)
        result[reader] = {
            (record.group, record.stream): Points(record.interval, np.column_stack([record.positions, record.states]))
            for record in records
        }
    return result


def _open(target: Target, points: PointsOfFiles) -> _Opened:
    """Read and check a group; an error is part of what is returned, as others may come before it."""
    reader, group, opened = target.reader, target.group, _Opened(target)
    try:
        check_limits(reader, group)
        data = reader.read_group(target.number)
        # Memory that is only touched if the CPU has to decode: till then it is but an address range.
        words = np.empty(group.symbols, group.dtype.word)
        streams = [
            (stream, values, points[reader].get((target.number, place)))
            for place, (stream, values) in enumerate(coded_parts(reader, group, data, DeviceStream, words))
        ]
        opened.streams = _in_turn(streams) if len(streams) > 1 else streams
    except L2Error as error:
        opened.error = error
    except CodecError as error:
        opened.error = CorruptFileError(f"{group.label}: {error}")
    return opened


def _in_turn(streams: Sequence[_Coded]) -> list[_Coded]:
    """Return the streams of the fields of words in the order in which they are best decoded: coder `raw` comes last.

    Each but the first adds to what is there. A kernel of `raw` may well wait for it, as many others run meanwhile; that
    of an entropy coder would wait at every symbol.
    """
    ordered = sorted(streams, key=lambda coded: coded[0].tables is None)
    return [(stream, replace(values, join=i > 0), points) for i, (stream, values, points) in enumerate(ordered)]


class Batch:
    """Groups that are decoded together, up to the first that is corrupt: the device works from `start` to `finish`."""

    def __init__(self, opened: Iterable[_Opened], device: Device):
        self._device, self.decoding = device, Decoding(device)
        self._uploaded: list[np.ndarray] = []
        self._owners: list[tuple[_Opened, Points | None]] = []  # of the streams
        self._error: Exception | None = None
        for group in opened:
            self._error = group.error or self._add(group)
            if self._error is not None:
                break

    @classmethod
    def of(cls, targets: Sequence[Target], points: PointsOfFiles, device: Device, threads: int = 1) -> "Batch":
        """Read groups, by several threads; `points` are those of `read_points`."""
        return cls(results(lambda target: _open(target, points), targets, threads), device)

    def start(self) -> None:
        """Copy what the device needs and launch what it is to do."""
        self.decoding.prepare()
        self.decoding.launch()

    def _add(self, opened: _Opened) -> Exception | None:
        """Add the streams of a group; return what is wrong with it, if anything is."""
        label = opened.target.group.label
        try:
            for phase, (stream, values, points) in enumerate(opened.streams):
                if values.valid is not None and not values.valid.all():
                    for number in stream.parts:
                        stream.decode_values(number, values)
                    self._device.upload(opened.target.address, values.out)
                    self._uploaded.append(values.out)
                else:
                    self.decoding.add(stream, values, opened.target.address, phase=phase, points=points)
                    self._owners.append((opened, points))
        except UnsupportedStreamError as error:
            return UnsupportedError(f"{label}: {error}; load with device='cpu'")
        except CodecError as error:
            return CorruptFileError(f"{label}: {error}")
        return None

    def finish(self) -> None:
        """Wait for the device and raise the first error."""
        failures = self.decoding.failures()
        for failure in failures:
            opened, points = self._owners[failure.stream]
            target = opened.target
            decode_group(target.reader, target.number)  # raises what a reader on the CPU raises
            if points is None:
                raise KernelError(f"{target.group.label}: the GPU finds {failure.status.name}, the CPU nothing wrong")
            where = f"section {RESUME!r}, {target.group.label}, from symbol {failure.symbol} on"
            raise CorruptFileError(f"{where}: a resume point is not where the stream passes")
        if self._error is not None:
            raise self._error
