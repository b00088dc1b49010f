"""What every evaluator needs: strict loading, batch-norm folding, batches on all threads, top-k counts."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

P = TypeVar("P")
R = TypeVar("R")

log = logging.getLogger("benchmarks.accuracy")


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> nn.Module:
    """Copy `tensors`, of any float dtype, into the float32 `module` and return it in eval mode.

    A key whose name ends in one of `optional` may be missing or unknown; any other difference raises RuntimeError.
    """
    expected = module.state_dict()
    state = {k: v.detach().float() if v.is_floating_point() else v.detach() for k, v in tensors.items()}
    state = {k: v for k, v in state.items() if k in expected or not k.endswith(optional)}
    for key, value in expected.items():
        if key.endswith(optional):
            state.setdefault(key, value)
    module.load_state_dict(state, strict=True)
    return module.requires_grad_(False).eval()


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a new convolution with the evaluation-mode batch norm folded in: the same function, one pass less."""
    folded = fuse_conv_bn_eval(conv, norm)
    folded.weight.data = folded.weight.data.contiguous(memory_format=torch.channels_last)
    return folded


def slices(count: int, size: int) -> list[slice]:
    """Return slices that cover `range(count)` in steps of `size`, the last perhaps shorter."""
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def map_parallel(function: Callable[[P], R], parts: Sequence[P], label: str) -> list[R]:
    """Return `function` of every part, in order, computed in inference mode and logged every five seconds.

    Each of torch's threads takes whole parts. Splitting every operator over the threads instead would make them wait
    for one another hundreds of times a batch, which costs several times the work itself where processors are shared.
    """
    threads = torch.get_num_threads()
    start = last = time.monotonic()

    def run(part: P) -> R:
        with torch.inference_mode():
            return function(part)

    results = []
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for result in pool.map(run, parts):
                results.append(result)
                now, done = time.monotonic(), len(results)
                if now - last > 5:
                    left = (now - start) / done * (len(parts) - done)
                    log.info("%s: %d %%, %.0f s left", label, 100 * done // len(parts), left)
                    last = now
    finally:
        torch.set_num_threads(threads)  # the workers' setting reaches threads that start later
    log.info("%s: %.1f s", label, time.monotonic() - start)
    return results


def top_k_hits(logits: Tensor, labels: np.ndarray, ks: tuple[int, ...]) -> list[int]:
    """Count the rows of `logits` [B, C] whose label is among the k largest, for each k; NaN logits are never hits."""
    clean = torch.nan_to_num(logits, nan=-torch.inf)
    target = torch.from_numpy(np.asarray(labels)).long().unsqueeze(1)
    at_label = clean.gather(1, target)
    # Ties count against the label, or a network of zeros would be right every time.
    rank = (clean >= at_label).sum(1) - 1
    return [int(((rank < k) & at_label.isfinite().squeeze(1)).sum()) for k in ks]


def percent(hits: int, count: int) -> float:
    """Return `hits` of `count` in percent."""
    return 100.0 * hits / count


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file or from a state dict saved by torch (weights only)."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path}: expected a dict of tensors, found {type(loaded).__name__}")
    return loaded
