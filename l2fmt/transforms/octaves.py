"""Scales in eighths of an octave, 2^(offset / 8), exactly as spec/transforms.md 7 says."""

import numpy as np

OFFSETS = range(-128, 128)
PER_OCTAVE = 8

# 2^(k / 8) rounded to binary32.
_FRACTIONS = np.array(
    [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.uint32
).view(np.float32)
_SCALES = np.array([np.ldexp(_FRACTIONS[o % PER_OCTAVE], o // PER_OCTAVE) for o in OFFSETS], np.float32)


def octave_scales(offsets: np.ndarray) -> np.ndarray:
    """Return the scales, float32, of offsets in [-128, 127], any integer dtype."""
    return _SCALES[offsets.astype(np.int64) - OFFSETS.start]


def nearest_octaves(scales: np.ndarray, per_octave: int = PER_OCTAVE) -> np.ndarray:
    """Return the nearest offsets, int64, to positive finite scales, as ratios go; 1, 2, 4 or 8 of them an octave."""
    spacing = PER_OCTAVE // per_octave
    offsets = np.rint(np.log2(np.asarray(scales, np.float64)) * per_octave).astype(np.int64) * spacing
    return np.clip(offsets, OFFSETS.start, OFFSETS.stop - spacing)


def exact_octaves(scales: np.ndarray) -> np.ndarray | None:
    """Return the offsets, int64, that stand for exactly these positive finite float32 scales; None if not all do."""
    offsets = nearest_octaves(scales)
    return offsets if np.array_equal(octave_scales(offsets), scales) else None
