"""Encoding on a device: the same bytes as on the CPU."""

import numpy as np

from l2codec import blocks, cuda, raw
from l2codec._arguments import check_arguments, check_symbols
from l2codec.cuda import Form, Status, UnsupportedStreamError
from l2codec.cuda.decoding import SEQUENCE_PLACES, class_arrays, fill_tables
from l2codec.cuda.device import WARP, Device, Launch, spread
from l2codec.cuda.staging import Staging, relocate
from l2codec.errors import KernelError
from l2codec.model import ClassMap, simplified
from l2codec.registry import coder_name
from l2codec.streams import BLOCK_CODERS
from l2codec.tables import TableSet

_WORD = 4  # blocks begin at multiples of it
_MOST_ROOM = (1 << 32) - _WORD  # for a block


def encode(
    device: Device,
    coder: str | int,
    symbols: np.ndarray,
    tables: TableSet | None = None,
    classes: ClassMap | int = 0,
    *,
    lanes: int = 1,
    block_bits: int = 19,
    width: int | None = None,
) -> bytes:
    """Return the stream of a 1-D integer array of symbols, byte for byte that of `l2codec.encode`.

    Arguments and errors are those of `l2codec.encode`, and MemoryError: it takes up to six times the bytes of the
    symbols on the device. Coder `raw`, which only moves bits, packs them on the CPU.
    """
    name = coder_name(coder)
    symbols = check_symbols(symbols)
    check_arguments(name, tables, classes, symbols.size, lanes, block_bits, width)
    if name == "raw" or tables is None:
        return raw.encode(symbols, width or 0)
    if not symbols.size:
        return b""
    try:
        encoding = Encoding(device, name, symbols, tables, simplified(classes), lanes, block_bits)
        encoding.launch()
        return encoding.result()
    except BaseException:
        device.wait()  # before the memory that it works with is let go
        raise


class Encoding:
    """A stream of at least one symbol to be encoded; arguments are those of `encode`, and have been checked.

    `launch` may be called several times, which gives the same; `result` waits and lets go of the memory.
    """

    def __init__(
        self,
        device: Device,
        coder: str,
        symbols: np.ndarray,
        tables: TableSet,
        classes: ClassMap | int,
        lanes: int,
        block_bits: int,
    ):
        self._device, self._coder, self._symbols, self._tables = device, coder, symbols, tables
        self._classes, self._lanes, self._block_bits = classes, lanes, block_bits
        counts = np.minimum(symbols.size - np.arange(0, symbols.size, 1 << block_bits), 1 << block_bits)
        room = self._room(counts)
        if int(room.max()) > _MOST_ROOM:
            raise UnsupportedStreamError(
                f"on a GPU, blocks of coder {coder} have at most 2**29 symbols, not {counts.max()}"
            )
        bounds = np.concatenate([[0], np.cumsum(-(-room // _WORD) * _WORD)])
        self._segments = cuda.block_segments(bounds, symbols.size, block_bits, lanes, 0)
        self._segments["bytes"] = room
        self._prepare(int(bounds[-1]))

    def _room(self, counts: np.ndarray) -> np.ndarray:
        """Return the most bytes that blocks of so many symbols take up, as their kernel says."""
        if self._coder == "huffman":
            return (counts * self._tables.probability_bits + 7) // 8
        return 4 * self._lanes + 2 * counts if self._coder == "rans" else 4 * (counts + 1)

    def _prepare(self, room: int) -> None:
        """Take memory of the device and copy to it what it needs to know; the blocks get `room` bytes."""
        staging, device, tables, classes = Staging(), self._device, self._tables, self._classes
        sequences, n_segments = np.zeros(1, cuda.SEQUENCE), self._segments.size
        for field, number in cuda.layout_fields(classes).items():
            sequences[field] = number
        if not isinstance(classes, ClassMap):
            sequences["base"], sequences["top"] = classes, len(tables) - 1
        for field, array in ({"words": self._symbols} | class_arrays(classes)).items():
            sequences[field] = staging.add(array)
        has_codes = self._coder == "huffman"  # which the host makes of the counts
        known = tables.codes if has_codes else np.stack([table.counts for table in tables.tables])
        found = np.full((2, n_segments), Status.NO_VALUE, np.uint32)  # sizes and status
        places = [staging.add(array) for array in (sequences, self._segments, known, found)]

        memory, scratch = device.allocate(staging.size), device.allocate(room)
        lookup = device.allocate(4 * len(tables) * tables.alphabet)
        relocate(sequences, ("words", *SEQUENCE_PLACES), memory.address)
        self._segments["data"] += np.uint64(scratch.address)
        sequences_at, segments_at, known_at, self._found = (memory.address + place for place in places)
        numbers = [tables.alphabet] if has_codes else [tables.probability_bits, tables.alphabet]
        table = known_at if has_codes else lookup.address
        arguments = [
            *map(np.uint64, (sequences_at, segments_at)),
            np.uint32(n_segments),
            np.uint64(table),
            *map(np.uint32, numbers),
            *map(np.uint64, (self._found, self._found + 4 * n_segments)),
        ]
        module, unit = ("rans_encode", WARP) if self._coder == "rans" else (self._coder, 1)
        with_map = str(isinstance(classes, ClassMap)).lower()
        kernel = f"{self._coder}_encode<{with_map}, u{8 * self._symbols.itemsize}>"
        self._launches = [Launch(module, kernel, *spread(n_segments, unit, device, module, kernel), arguments)]
        if not has_codes:
            self._launches.insert(0, fill_tables(tables, Form.INTERVALS, known_at, lookup.address, device))
        self._kept = [memory, scratch, lookup, staging.upload(device, memory)]

    def launch(self) -> None:
        """Launch all kernels."""
        for launch in self._launches:
            self._device.launch(launch)

    def result(self) -> bytes:
        """Wait for the kernels and return the stream; raise ImpossibleSymbolError as the CPU does."""
        device, count = self._device, self._segments.size
        found = np.empty((2, count), np.uint32)
        device.download(self._found, found)
        device.wait()
        sizes, status = found
        if status.any():
            self._kept.clear()
            self._encode_on_the_cpu(int(np.flatnonzero(status)[0]))
        table = sizes.astype("<u4").tobytes() if count > 1 else b""
        stream = device.staging(len(table) + int(sizes.sum(dtype=np.int64)))
        stream[: len(table)] = np.frombuffer(table, np.uint8)
        end = len(table)
        for segment, size in zip(self._segments, sizes.tolist(), strict=True):
            # Coder `rans` writes backwards, from the end of the memory.
            before = int(segment["bytes"]) - size if self._coder == "rans" else 0
            device.download(int(segment["data"]) + before, stream[end : end + size])
            end += size
        device.wait()
        self._kept.clear()
        return stream.tobytes()

    def _encode_on_the_cpu(self, number: int) -> None:
        """Find out what is wrong with a block that a kernel has refused."""
        start = number << self._block_bits
        part = self._symbols[start : start + (1 << self._block_bits)]
        classes: blocks.Classes | ClassMap = self._classes
        if isinstance(classes, ClassMap):
            classes = classes.slice(start, start + part.size)
        BLOCK_CODERS[self._coder].encode_block(part, self._tables, classes, self._lanes)
        raise KernelError(f"the GPU cannot encode block {number}, which the CPU can")
