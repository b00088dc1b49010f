"""Weights to integer codes and back (spec/transforms.md). NumPy only; knows no files and no entropy coding."""

from l2fmt.transforms.convert import from_float32, to_float32
from l2fmt.transforms.octaves import PER_OCTAVE, exact_octaves, nearest_octaves, octave_scales
from l2fmt.transforms.quantizers import (
    Codebook,
    Geometric,
    Joint,
    Transform,
    Uniform,
    exponential,
    from_parameters,
    logarithmic,
)
from l2fmt.transforms.words import field_widths, join_field, round_mantissa, split_field

__all__ = [
    "PER_OCTAVE",
    "Codebook",
    "Geometric",
    "Joint",
    "Transform",
    "Uniform",
    "exact_octaves",
    "exponential",
    "field_widths",
    "from_float32",
    "from_parameters",
    "join_field",
    "logarithmic",
    "nearest_octaves",
    "octave_scales",
    "round_mantissa",
    "split_field",
    "to_float32",
]
