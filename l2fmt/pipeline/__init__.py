"""One tensor to one entry of a file and back: the one place that knows transform, tables and coder together."""

from l2fmt.pipeline.decode import decode_group, decode_tensor
from l2fmt.pipeline.encode import Encoding, write_model
from l2fmt.pipeline.files import Size, check_targets, write_files
from l2fmt.pipeline.resume import check_resume, find_resume
from l2fmt.pipeline.tensors import PlainTensor, QuantizedTensor

__all__ = [
    "Encoding",
    "PlainTensor",
    "QuantizedTensor",
    "Size",
    "check_resume",
    "check_targets",
    "decode_group",
    "decode_tensor",
    "find_resume",
    "write_files",
    "write_model",
]
