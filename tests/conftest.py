"""A small model that has everything a file can hold, in a few KB; Ctrl-C as in a terminal; no word of compiling."""

import io
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from l2codec import machine_code
from l2fmt.dtypes import DTYPES
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, write_files
from l2fmt.transforms import Codebook, Joint, Uniform

RESUME_INTERVAL = 256


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt: a shell that starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def nothing_is_said_of_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep stderr free of what only the first process with an empty cache says."""
    monkeypatch.setattr(machine_code, "announcing", False)


def model_tensors() -> list[QuantizedTensor | PlainTensor]:
    """Quantized tensors of several transforms and dtypes, rounded vectors, exact ones, and integers."""
    rng = np.random.default_rng(7)

    def codes(*shape: int) -> np.ndarray:
        spread = np.exp(rng.standard_normal(shape[0])).reshape(-1, *(1,) * (len(shape) - 1))
        return np.rint(rng.laplace(size=shape) * spread).clip(-9, 9).astype(np.int8)

    def plain(name: str, dtype: str, array: np.ndarray, bits: int | None = None) -> PlainTensor:
        return PlainTensor(name, DTYPES[dtype], array.shape, lambda: array, bits)

    return [
        QuantizedTensor("conv.weight", DTYPES["F32"], (16, 8, 3, 3), codes(16, 8, 3, 3), Uniform(0.05)),
        plain("conv.bias", "F32", rng.standard_normal(16).astype(np.float32), 5),
        plain("norm.weight", "F32", rng.standard_normal(16).astype(np.float32), 5),
        plain("norm.steps", "I64", np.array(12345)),
        QuantizedTensor(
            "head.weight",
            DTYPES["F16"],
            (10, 16),
            codes(10, 16),
            Joint(step=0.1, threshold=0.04),
            row_scale=np.linspace(0.5, 2, 10, dtype=np.float32),
            column_scale=np.linspace(1, 2, 16, dtype=np.float32),
        ),
        QuantizedTensor(
            "table", DTYPES["BF16"], (6, 5), rng.integers(0, 4, (6, 5)), Codebook(np.array([0.0, 1, -1, 7], np.float32))
        ),
        plain("exact", "F64", rng.standard_normal((3, 2))),
        plain("mask", "BOOL", rng.random(9) > 0.5),
        plain("empty", "F32", np.empty((0, 3), np.float32)),
    ]


def write_model_bytes(**options) -> bytes:
    """Return the small model as a file, with an alias, metadata and resume points."""
    buffer = io.BytesIO()
    encoding = Encoding(resume_interval=RESUME_INTERVAL, **options)
    write_files(buffer, model_tensors(), {"tied.weight": "head.weight"}, {"author": "nobody"}, encoding)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def model() -> bytes:
    """The small model as the bytes of a file."""
    return write_model_bytes()


@pytest.fixture
def model_path(model, tmp_path):
    """The small model as a file."""
    path = tmp_path / "model.l2c"
    path.write_bytes(model)
    return path


@pytest.fixture(scope="session")
def tensors_of_model():
    """The function that returns the tensors of the small model as a producer hands them over."""
    return model_tensors


@pytest.fixture(scope="session")
def flipped():
    """The function that returns bytes with one bit turned."""

    def flip(data: bytes, bit: int) -> bytes:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    return flip
