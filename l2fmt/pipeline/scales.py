"""How scales of rows and columns are stored, and read (spec/transforms.md 7)."""

from dataclasses import dataclass

import numpy as np

from l2fmt.container.entries import OCTAVES
from l2fmt.dtypes import DTYPES, DType
from l2fmt.errors import CorruptFileError
from l2fmt.transforms import exact_octaves, octave_scales, to_float32


@dataclass(frozen=True)
class StoredScale:
    """A scale as a file has it: its bytes, or its offsets (int64) if it is of kind `OCTAVES`; nothing if `kind` is
    None.
    """

    kind: DType | None = None
    data: bytes = b""
    offsets: np.ndarray | None = None


def stored_scale(scale: np.ndarray | None) -> StoredScale:
    """Return a scale, float32[n], finite and positive, as octaves if these keep it, else in the shortest dtype."""
    if scale is None:
        return StoredScale()
    if (offsets := exact_octaves(scale)) is not None:
        return StoredScale(OCTAVES, offsets=offsets)
    words = np.ascontiguousarray(scale, "<f4").view("<u4")
    if not (words & 0x7FFFFF).any():  # powers of two; none is subnormal
        return StoredScale(DTYPES["F8_E8M0"], (words >> 23).astype("u1").tobytes())
    if not (words & 0xFFFF).any():
        return StoredScale(DTYPES["BF16"], (words >> 16).astype("<u2").tobytes())
    return StoredScale(DTYPES["F32"], words.tobytes())


def scale_values(stored: StoredScale, label: str) -> np.ndarray | None:
    """Return a scale, float32, or None if there is none; raises CorruptFileError for one that is not allowed."""
    if stored.kind is None:
        return None
    if stored.offsets is not None:
        return octave_scales(stored.offsets)
    values = to_float32(np.frombuffer(stored.data, stored.kind.numpy), stored.kind)
    if not (np.isfinite(values) & (values > 0)).all():
        raise CorruptFileError(f"{label}: a scale is not finite and positive")
    return values
