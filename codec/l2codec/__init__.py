"""Entropy coding of integer symbols: numpy in, bytes out (spec/entropy-coding.md). Knows no tensors and no files."""

from l2codec.coding import decode, decode_values, encode, iter_decode
from l2codec.errors import CodecError, CorruptStreamError, ImpossibleSymbolError, KernelError, UnknownCoderError
from l2codec.fit import assign_classes, fit_classes
from l2codec.model import ClassMap, code_length, recommended_layout
from l2codec.rans import decode_segment, resume_points
from l2codec.registry import CODERS, available_coders
from l2codec.streams import Stream
from l2codec.tables import FrequencyTable, TableSet
from l2codec.values import Values

__all__ = [
    "CODERS",
    "ClassMap",
    "CodecError",
    "CorruptStreamError",
    "FrequencyTable",
    "ImpossibleSymbolError",
    "KernelError",
    "Stream",
    "TableSet",
    "UnknownCoderError",
    "Values",
    "assign_classes",
    "available_coders",
    "code_length",
    "decode",
    "decode_segment",
    "decode_values",
    "encode",
    "fit_classes",
    "iter_decode",
    "recommended_layout",
    "resume_points",
]
