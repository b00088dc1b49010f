"""Weights to integer codes and back (spec/transforms.md). NumPy only; knows no files and no entropy coding."""

from l2fmt.transforms.convert import from_float32, to_float32
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
    "Codebook",
    "Geometric",
    "Joint",
    "Transform",
    "Uniform",
    "exponential",
    "field_widths",
    "from_float32",
    "from_parameters",
    "join_field",
    "logarithmic",
    "round_mantissa",
    "split_field",
    "to_float32",
]
