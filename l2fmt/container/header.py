"""The fixed header of a file (spec/container.md 2)."""

import struct
import zlib
from dataclasses import dataclass

from l2fmt import _registry
from l2fmt.errors import CorruptFileError, UnsupportedError

MAGIC = b"\x89L2C\r\n\x1a\n"
_FIELDS = struct.Struct("<8sHHIIIIIQI")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size

_DEFLATED_INDEX = 1 << _registry.REQUIRED_FEATURES["deflated_index"]
_KNOWN_FEATURES = sum(1 << bit for bit in _registry.REQUIRED_FEATURES.values())


@dataclass(frozen=True)
class Header:
    """The header's fields; lengths are in bytes, `required` and `optional` are bit sets of features."""

    index_length: int
    inflated_index_length: int
    index_checksum: int
    file_length: int
    required: int = 0
    optional: int = 0
    major: int = _registry.FORMAT_MAJOR
    minor: int = _registry.FORMAT_MINOR

    @property
    def deflated(self) -> bool:
        """Whether the index is a zlib stream."""
        return bool(self.required & _DEFLATED_INDEX)

    @property
    def payload_offset(self) -> int:
        """The first byte after the index."""
        return HEADER_BYTES + self.index_length

    @classmethod
    def build(cls, index: bytes, payload_length: int) -> tuple["Header", bytes]:
        """Return the header of a file and its index as stored, deflated where that is shorter."""
        deflated = zlib.compress(index, 9)
        stored = min(index, deflated, key=len)
        return cls(
            index_length=len(stored),
            inflated_index_length=len(index),
            index_checksum=zlib.crc32(stored),
            file_length=HEADER_BYTES + len(stored) + payload_length,
            required=_DEFLATED_INDEX if stored is deflated else 0,
        ), stored

    def pack(self) -> bytes:
        """Return the 48 bytes of the header."""
        fields = _FIELDS.pack(
            MAGIC,
            self.major,
            self.minor,
            self.required,
            self.optional,
            self.index_length,
            self.inflated_index_length,
            self.index_checksum,
            self.file_length,
            0,
        )
        return fields + _CHECKSUM.pack(zlib.crc32(fields))

    @classmethod
    def parse(cls, data: bytes) -> "Header":
        """Parse the first bytes of a file, in the order of checks that the specification sets.

        Raises CorruptFileError or UnsupportedError. Limits, the length of the file and the index are for the caller.
        """
        if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
            raise CorruptFileError("not an .l2c file: the first 8 bytes are " + (data[:8].hex(" ") or "missing"))
        if len(data) < HEADER_BYTES:
            raise CorruptFileError(f"the file is truncated: {len(data)} bytes, and the header alone has {HEADER_BYTES}")
        fields = data[: _FIELDS.size]
        (checksum,) = _CHECKSUM.unpack(data[_FIELDS.size : HEADER_BYTES])
        if zlib.crc32(fields) != checksum:
            raise CorruptFileError("the header is damaged: its checksum does not match")
        _, major, minor, required, optional, index, inflated, index_checksum, length, reserved = _FIELDS.unpack(fields)
        if major != _registry.FORMAT_MAJOR:
            raise UnsupportedError(
                f"format version {major}.{minor} is not supported; this reader knows {_registry.FORMAT_MAJOR}.x"
            )
        if unknown := required & ~_KNOWN_FEATURES:
            bits = ", ".join(str(bit) for bit in range(32) if unknown >> bit & 1)
            raise UnsupportedError(f"the file requires features this reader does not know: bit {bits}")
        if reserved:
            raise CorruptFileError(f"the reserved header field is {reserved}; it must be 0")
        header = cls(index, inflated, index_checksum, length, required, optional, major, minor)
        if not header.deflated and index != inflated:
            raise CorruptFileError(f"the index is not deflated, but its lengths differ: {index} and {inflated} bytes")
        return header

    def index_bytes(self, stored: bytes) -> bytes:
        """Check the index as stored and return it inflated; limits have been checked."""
        if zlib.crc32(stored) != self.index_checksum:
            raise CorruptFileError("the index is damaged: its checksum does not match")
        if not self.deflated:
            return stored
        inflater = zlib.decompressobj()
        try:
            # One byte more than allowed: zlib reports the end of a stream only when it may go on.
            data = inflater.decompress(stored, self.inflated_index_length + 1)
        except zlib.error as error:
            raise CorruptFileError(f"the index does not inflate: {error}") from error
        if not inflater.eof or inflater.unused_data or len(data) != self.inflated_index_length:
            raise CorruptFileError(f"the index does not inflate to {self.inflated_index_length} bytes exactly")
        return data
