"""Tell a single file's format by its first bytes, whatever its name says."""

from pathlib import Path

from l2fmt.container.header import MAGIC
from l2fmt.errors import InputError
from l2fmt.inputs.base import ModelSource
from l2fmt.inputs.safetensors_file import SafetensorsFile
from l2fmt.inputs.torch_pickle import open_legacy_checkpoint, open_zip_checkpoint

ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch before 1.6
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
GIT_LFS = b"version https://git-lfs"
HEAD_BYTES = 32
READABLE = "safetensors, or a state dict written by torch.save"


def open_file(path: Path, origin: str, key: str | None = None) -> ModelSource:
    """Open one file as the source its first bytes ask for.

    Raises InputError for a format that `pack` does not read, OSError as the system gives it.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(ZIP):
        return open_zip_checkpoint(path, origin, key)
    if head.startswith(TORCH_LEGACY):
        return open_legacy_checkpoint(path, origin, key)
    if head[8:9] == b"{":  # after the header's length
        if key is not None:
            raise InputError(f"{origin}: key={key!r} chooses inside a checkpoint dict; a safetensors file has none")
        return SafetensorsFile(path, origin)
    raise InputError(f"{origin}: {_describe(head)}; allowed are {READABLE}")


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(GIT_LFS):
        return "a Git LFS pointer in place of the file; fetch it with git lfs pull"
    if head.startswith(MAGIC):
        return "a .l2c file already, which unpack turns into safetensors"
    if head.startswith(PICKLES):
        return "a plain pickle, which only code can read"
    return f"an unknown format that starts with the bytes {head[:8].hex(' ')}"
