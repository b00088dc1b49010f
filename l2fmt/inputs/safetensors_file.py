"""Safetensors files, memory-mapped by the safetensors library."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from l2fmt.errors import InputError
from l2fmt.inputs._json import parse_object
from l2fmt.inputs.base import ModelSource

LENGTH_BYTES = 8  # little-endian length of the JSON header that follows


class SafetensorsFile(ModelSource):
    """The tensors of one safetensors file, in the order of their bytes; raises InputError for a damaged file."""

    def __init__(self, path: Path, origin: str) -> None:
        super().__init__(origin)
        try:
            self._file = self.resources.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise InputError(f"{origin}: not a valid safetensors file ({_reason(error)})") from error
        # The library checked the header, except for duplicate keys, and does not tell the sizes in it.
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            header = parse_object(stream.read(length), origin)
        self._metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        spans = {name: entry["data_offsets"] for name, entry in header.items()}
        self._nbytes = {name: end - begin for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1])}
        if not self._nbytes:
            self.close()
            raise InputError(f"{origin}: holds no tensors")

    def names(self) -> list[str]:
        return list(self._nbytes)

    def get(self, name: str) -> Tensor:
        if name not in self._nbytes:
            raise self.missing(name)
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"{self.origin}: tensor {name!r} cannot be read ({_reason(error)})") from error

    def tensor_nbytes(self, name: str) -> int:
        if name not in self._nbytes:
            raise self.missing(name)
        return self._nbytes[name]

    def metadata(self) -> dict[str, str]:
        return dict(self._metadata)


def _reason(error: SafetensorError) -> str:
    return str(error).removeprefix("Error while deserializing header: ").rstrip(".")
