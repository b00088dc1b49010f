"""MessagePack as the index uses it (spec/container.md 3).

Containers that a file may make long are read entry by entry, so that nothing is allocated for a length that is only
claimed; the msgpack package parses one entry at a time, within tight bounds. What is parsed is canonical if packing it
again gives the same bytes: the caller compares.
"""

from collections.abc import Iterator

import msgpack

from l2fmt.container.rules import show
from l2fmt.errors import CorruptFileError

# The longest array within an entry is the parameters of `bits`: a drop and at most 64 fields.
_MAX_ENTRY_ARRAY = 128
_ARRAY, _MAP = (
    (0x90, 0xDC),
    (0x80, 0xDE),
)  # first byte of the short form, of the 16-bit form; the 32-bit form follows it


_MALFORMED = (msgpack.UnpackException, ValueError, RecursionError)


def _corrupt(error: Exception) -> CorruptFileError:
    return CorruptFileError(f"the index is not valid: {str(error) or 'it ends too early'}")


def pack(value: object) -> bytes:
    """Return the canonical form of a value whose maps are sorted by key; floats must be exact in binary32."""
    return msgpack.Packer(use_bin_type=True, use_single_float=True).pack(value)


class Unpacker:
    """Reads MessagePack from a bounded buffer; anything malformed is a CorruptFileError."""

    def __init__(self, data: bytes | memoryview):
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            max_buffer_size=max(len(data), 1),
            max_array_len=_MAX_ENTRY_ARRAY,
            max_map_len=0,
            max_ext_len=0,
        )
        self._unpacker.feed(data)

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._unpacker.tell()

    def value(self) -> object:
        """Read one value: nil, a bool, number, string, byte string, or arrays of these."""
        try:
            return self._unpacker.unpack()
        except _MALFORMED as error:
            raise _corrupt(error) from error

    def skip(self) -> None:
        """Pass over one value without making it."""
        try:
            self._unpacker.skip()
        except _MALFORMED as error:
            raise _corrupt(error) from error

    def array(self) -> int:
        """Read the head of an array and return the length it claims."""
        return self._head("an array", *_ARRAY)

    def map(self) -> int:
        """Read the head of a map and return the number of pairs it claims."""
        return self._head("a map", *_MAP)

    def pairs(self, count: int) -> Iterator[tuple[str, str]]:
        """Read `count` pairs of strings, keys strictly ascending."""
        before = None
        for _ in range(count):
            key, value = self.value(), self.value()
            if not isinstance(key, str) or not isinstance(value, str):
                raise CorruptFileError(f"the index maps {show(key)} to {show(value)}; both must be strings")
            # Code points order as their UTF-8 bytes do.
            if before is not None and key <= before:
                raise CorruptFileError(f"the index is not canonical: key {show(key)} repeats or is out of order")
            before = key
            yield key, value

    def _head(self, kind: str, short: int, wide: int) -> int:
        first = self._unpacker.read_bytes(1)
        if first and short <= first[0] <= short + 15:
            return first[0] - short
        if first and wide <= first[0] <= wide + 1:
            size = 2 << (first[0] - wide)
            if len(head := self._unpacker.read_bytes(size)) == size:
                return int.from_bytes(head, "big")
        raise CorruptFileError(f"the index is not valid: {kind} expected, found {first.hex() or 'its end'}")
