"""Decoding and loading of whole files on a GPU, for `bench_gpu`."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file as save_safetensors

import l2fmt
from benchmarks.gpu_machine import Machine, copies, median
from benchmarks.synthetic import scale_of
from l2fmt.container import Reader
from l2fmt.dtypes import DTYPES
from l2fmt.indexing import INTERVAL
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, write_files
from l2fmt.pipeline.on_device import Batch, Target, read_points
from l2fmt.transforms import Uniform


def write_model(folder: Path, shapes: Sequence[tuple[int, ...]]) -> tuple[dict[str, Path], dict[str, torch.Tensor]]:
    """Write a model of these weights, and biases, to files of each kind; return their paths and the tensors."""
    rng, tensors = np.random.default_rng(0), []
    laplace = partial(rng.laplace, 0.0, scale_of(2.0))
    codes = {shape: laplace(shape).clip(-15, 15).round().astype(np.int8) for shape in dict.fromkeys(shapes)}
    for number, shape in enumerate(shapes):
        bias = rng.standard_normal(shape[0]).astype(np.float32)
        tensors.append(QuantizedTensor(f"{number}.weight", DTYPES["F32"], shape, codes[shape], Uniform(0.01)))
        tensors.append(PlainTensor(f"{number}.bias", DTYPES["F32"], bias.shape, lambda bias=bias: bias, 6))
    paths = {kind: folder / kind for kind in ("l2c", "points.l2c", "pt", "safetensors")}
    for kind, interval in (("l2c", None), ("points.l2c", INTERVAL)):
        encoding = Encoding(resume_interval=interval, threads=torch.get_num_threads())
        write_files(paths[kind], tensors, {}, {}, encoding)
    state = l2fmt.load_file(paths["l2c"])
    torch.save(state, paths["pt"])
    save_safetensors(state, paths["safetensors"])
    return paths, state


def bench_kernels(machine: Machine, path: Path, state: Mapping[str, torch.Tensor], repeat: int) -> dict[str, Any]:
    """Measure what the device does to decode a file that has been copied to it."""
    with Reader(path) as reader:
        groups, batches, outputs = reader.index.groups, [], []
        written = sum(group.nbytes for group in groups)
        for _ in range(copies(written)):
            memory = [torch.zeros(group.nbytes, dtype=torch.uint8, device=machine.device) for group in groups]
            targets = [Target(reader, number, part.data_ptr()) for number, part in enumerate(memory)]
            batches.append(Batch.of(targets, read_points(targets), machine.open()))
            batches[-1].decoding.prepare()
            outputs.append(memory)
        milliseconds = median(machine, [batch.decoding.launch for batch in batches], repeat)
        for batch, memory in zip(batches, outputs, strict=True):
            batch.finish()
            for group, part in zip(groups, memory, strict=True):
                ends = np.cumsum([entry.nbytes for entry in group.tensors])[:-1].tolist()
                for entry, found in zip(group.tensors, part.cpu().tensor_split(ends), strict=True):
                    assert torch.equal(found.view(torch.float32), state[entry.name].reshape(-1)), "other values"
    stored = path.stat().st_size
    return {
        "case": "kernels",
        "bytes": stored,
        "ms": milliseconds,
        "GB/s": written / milliseconds / 1e6,
        "moved": stored + written,
    }


def bench_load(
    machine: Machine, paths: Mapping[str, Path], state: Mapping[str, torch.Tensor], repeat: int
) -> Iterator[dict[str, Any]]:
    """Measure loading of a model to the device, and of the same tensors from files of others."""
    loaders: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "l2c": lambda: machine.load(paths["l2c"]),
        "points.l2c": lambda: machine.load(paths["points.l2c"]),
        "pt": lambda: torch.load(paths["pt"], map_location=machine.device, weights_only=True),
        "safetensors": lambda: load_safetensors(paths["safetensors"], device=str(machine.device)),
    }
    times = {}
    for kind, load in loaders.items():
        found = load()
        assert all(torch.equal(tensor, found[key].cpu()) for key, tensor in state.items()), f"{kind}: other tensors"
        del found
        times[kind] = statistics.median(_seconds(machine, load) for _ in range(min(repeat, 7)))
    for kind, seconds in times.items():
        stored = paths[kind].stat().st_size
        yield {"case": "load", "file": kind, "bytes": stored, "ms": 1e3 * seconds, "x": times["pt"] / seconds}


def _seconds(machine: Machine, load: Callable[[], object]) -> float:
    """Return how long it takes until tensors are there."""
    machine.synchronize()
    start = time.perf_counter()
    tensors = load()
    machine.synchronize()
    seconds = time.perf_counter() - start
    del tensors
    return seconds
