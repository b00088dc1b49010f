"""The two models that the campaign writes over each other: the same names and shapes, no value alike."""

import io
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

import l2fmt.numpy
from l2fmt.dtypes import DTYPES
from l2fmt.errors import L2Error
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, write_files
from l2fmt.transforms import Uniform

SHARD_BYTES = 10_000
_SPOOL_MEMORY = 4096  # so that the payload of these models goes to disk before it is written, as a large one's does


@dataclass(frozen=True)
class Model:
    """Tensors, the bytes of their file, and what it decodes to."""

    tensors: list[QuantizedTensor | PlainTensor]
    coder: str
    data: bytes
    arrays: dict[str, np.ndarray]

    def write(self, path: Path, *, shards: bool = False) -> None:
        """Write the model over whatever is there."""
        most = SHARD_BYTES if shards else None
        with mock.patch("l2fmt.container.writer._SPOOL_MEMORY", _SPOOL_MEMORY):
            write_files(path, self.tensors, {}, {}, Encoding(self.coder), max_shard_bytes=most, overwrite=True)


def make_model(seed: int, coder: str) -> Model:
    """Return a small model of quantized and exact tensors."""
    rng = np.random.default_rng(seed)
    tensors: list[QuantizedTensor | PlainTensor] = []
    for number in range(6):
        codes = np.rint(rng.laplace(size=(32, 64)) * 2).clip(-20, 20).astype(np.int8)
        tensors.append(QuantizedTensor(f"layer.{number}.weight", DTYPES["F32"], codes.shape, codes, Uniform(0.1)))
        bias = rng.standard_normal(32).astype(np.float32)
        tensors.append(PlainTensor(f"layer.{number}.bias", DTYPES["F32"], bias.shape, lambda bias=bias: bias))
    buffer = io.BytesIO()
    write_files(buffer, tensors, {}, {}, Encoding(coder))
    return Model(tensors, coder, buffer.getvalue(), l2fmt.numpy.load(buffer.getvalue()))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two models have the same tensors to the bit."""
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def found_at(path: Path, models: dict[str, Model]) -> str:
    """Return the name of the model that a path loads as, "refused" if it is refused, "wrong" if it is none of them."""
    try:
        arrays = l2fmt.numpy.load_file(path)
    except L2Error:
        return "refused"
    return next((name for name, model in models.items() if same(arrays, model.arrays)), "wrong")


def strays(folder: Path) -> list[Path]:
    """Return what writers left in a folder: their hidden files and folders."""
    return sorted(folder.glob(".l2fmt-*"))
