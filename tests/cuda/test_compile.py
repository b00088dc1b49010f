"""The CUDA text compiles for a GPU, no register is spilled, and hosts find in Python what the text says."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)

from l2codec import ClassMap, CodecError, CorruptStreamError, cuda
from tools import compile_cuda


@pytest.mark.parametrize("module", cuda.MODULES)
def test_nvrtc_compiles_every_module(module):
    nvrtc = compile_cuda.Nvrtc.find()
    if nvrtc is None:
        pytest.skip("the package nvidia-cuda-nvrtc is not installed")
    kernels = compile_cuda.KERNELS[module][-3:]
    for architecture in (compile_cuda.ARCHITECTURES[0], compile_cuda.ARCHITECTURES[-1]):
        for kernel, (registers, spilled) in nvrtc.compile(cuda.read_source(module), kernels, architecture).items():
            assert 0 < registers <= 128 and not spilled, kernel


@pytest.mark.parametrize("name", ["Status", "Form"])
def test_enumerations_are_those_of_the_text(name):
    text = re.search(rf"enum {name} : u32 \{{(.*?)\}};", cuda.read_source("rans_decode"), re.DOTALL)
    assert text
    assert re.findall(r"^    (\w+),", text[1], re.MULTILINE) == [member.name for member in getattr(cuda, name)]


@pytest.mark.parametrize(("name", "dtype"), [("Sequence", cuda.SEQUENCE), ("Segment", cuda.SEGMENT)])
def test_descriptors_are_those_of_the_text(name, dtype):
    text = re.search(rf"struct {name} \{{(.*?)\}};", cuda.read_source("rans_decode"), re.DOTALL)
    assert text
    found = []
    for line in re.findall(r"^    ([^/\n]+);", text[1], re.MULTILINE):
        first, *others = line.split(",")
        kind, field = first.rsplit(maxsplit=1)
        size = 4 if kind == "u32" else 8
        found += [(member.strip(), size) for member in (field, *others)]
    assert found == [(field, dtype[field].itemsize) for field in dtype.names or ()]
    assert dtype.itemsize % 8 == 0 and np.dtype(dtype.descr, align=True).itemsize == dtype.itemsize


def test_a_source_stands_alone():
    for module in cuda.MODULES:
        text = cuda.read_source(module)
        assert "#include" not in text and "#pragma once" not in text
        assert text.count("struct Sequence {") == 1


def test_what_kernels_cannot_count_is_refused():
    classes = ClassMap((1, cuda.LARGEST_DIMENSION, 1), 2, 0, row=np.zeros(1, np.int8))
    with pytest.raises(CodecError, match=r"2\*\*31"):
        cuda.layout_fields(classes)
    with pytest.raises(CorruptStreamError, match="4294967296 bytes"):
        cuda.block_segments(np.array([0, 1 << 32]), 5, 8, 1, 0)
