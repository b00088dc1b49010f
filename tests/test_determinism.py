"""The same model gives the same bytes and the same tensors: on every run, in every form, with any number of threads."""

import json
import os
import subprocess
import sys

import pytest

from l2codec.processor import FORMS, missing

# Digests of files packed by `rd` and without loss, of each coder's, and of what they load as with one and four threads.
SCRIPT = """
import hashlib, io, json
import numpy as np, torch
import l2fmt, l2fmt.numpy
from l2fmt.dtypes import DTYPES
from l2fmt.pipeline import Encoding, QuantizedTensor, write_files
from l2fmt.transforms import Uniform

def digests(data):
    loaded = [l2fmt.numpy.load(data, threads=threads) for threads in (1, 4)]
    for arrays in loaded:
        yield hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
    yield hashlib.sha256(data).hexdigest()

generator = np.random.default_rng(0)
normal = lambda *shape: torch.from_numpy(generator.standard_normal(shape, np.float32))
model = {"a.weight": normal(24, 16, 3, 3), "a.bias": normal(24), "b.weight": normal(60, 80), "c": normal(40)}
codes = generator.integers(0, 7, (300, 2000)).astype(np.int8)
tensor = QuantizedTensor("w", DTYPES["F32"], codes.shape, codes, Uniform(0.1))
found = []
for options in ({"target_ratio": 9}, {"lossless": True}):
    found += digests(l2fmt.pack(model, metadata={"z": "1", "a": "2"}, **options).data)
for coder in ("huffman", "rans"):
    for threads in (1, 3):
        buffer = io.BytesIO()
        write_files(buffer, [tensor], {}, {}, Encoding(coder, threads=threads))
        found += digests(buffer.getvalue())
print(json.dumps(found))
"""
FILES = 6


def digests(**variables: str) -> list[str]:
    """Run the script in a process with these environment variables."""
    environment = os.environ | variables
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return digests(PYTHONHASHSEED="0", L2FMT_KERNEL="plain", OMP_NUM_THREADS="1")


def test_threads_do_not_matter(expected):
    assert len(expected) == 3 * FILES
    for one, four, _ in zip(*[iter(expected)] * 3, strict=True):
        assert one == four
    of_coders = expected[6:]
    for at in range(0, len(of_coders), 6):
        assert of_coders[at : at + 3] == of_coders[at + 3 : at + 6]
    assert len(set(expected)) == 2 * 2 + 1 + 2  # the coders give the same tensor by other bytes


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])
def test_forms_and_hash_seeds_do_not_matter(expected, form):
    if absent := missing(form):
        pytest.skip(f"the processor lacks {', '.join(absent)}")
    seed = str(1 + list(FORMS).index(form))
    assert digests(PYTHONHASHSEED=seed, L2FMT_KERNEL=form, OMP_NUM_THREADS="3") == expected


def test_what_libraries_make_of_the_processor_does_not_matter(expected):
    """NumPy and PyTorch have kernels of their own for each processor: bytes must not depend on them."""
    assert (
        digests(
            PYTHONHASHSEED="9", ATEN_CPU_CAPABILITY="default", NPY_DISABLE_CPU_FEATURES="AVX512_SKX AVX512_ICL AVX2"
        )
        == expected
    )
