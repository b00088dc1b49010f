"""`pack`: read a model, choose codes by a method, write a file."""

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np

from l2fmt.container.atomic import check_target
from l2fmt.container.writer import is_path
from l2fmt.dtypes import DType
from l2fmt.errors import InputError, TargetError
from l2fmt.inputs import ModelSource, open_source
from l2fmt.optimize import Budget, WeightTensor, get_method
from l2fmt.optimize.search import TOLERANCE
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, Size, write_files
from l2fmt.torch import as_array
from l2fmt.transforms import to_float32

__all__ = ["PackResult", "pack"]

# Measured (benchmarks/vector_precision.py): at 6 the accuracy of none of five networks falls, at 5 those of MobileNet
# and YOLO do.
VECTOR_MANTISSA_BITS = 6
# Vectors that tolerate rounding: learned per-channel numbers and statistics. Others (position tables, frequencies) may
# not, and are kept.
_VECTOR_NAMES = ("weight", "bias", "running_mean", "running_var", "gamma", "beta")
_LEAST_PEAK = 2.0**-100  # steps of smaller tensors would leave the normal numbers of float32
_QUANTIZABLE = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class PackResult:
    """What `pack` did: sizes in bytes (`original_bytes` of the tensors as given), `ratio` of the whole file, seconds,
    notes for the user.

    `data` is the file if no target was given.
    """

    original_bytes: int
    file_bytes: int
    tensors: int
    quantized: int
    seconds: float
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    data: bytes | None = None

    @property
    def ratio(self) -> float:
        """Bytes of the tensors as given over bytes of the whole file."""
        return self.original_bytes / self.file_bytes


def pack(
    source: Any,
    target: Any = None,
    *,
    target_ratio: float | None = None,
    bits: float | None = None,
    max_error: float | None = None,
    method: str = "rd",
    lossless: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep: Sequence[str] = (),
    coder: str = "rans",
    key: str | None = None,
    metadata: Mapping[str, str] | None = None,
    resume_interval: int | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> PackResult:
    """Compress a model into a `.l2c` file.

    Args:
        source: a path (`.pt`, `.safetensors`, a Hugging Face folder), bytes, a binary stream, a mapping of tensors, or
            a module.
        target: a path, a binary file object, or None: the file is then in `PackResult.data`.
        target_ratio: bytes of the tensors as given over bytes of the whole file; met within 0.5 %, never missed.
        bits: average bits of a quantized weight, tables included, instead.
        max_error: largest relative mean squared error of a quantized tensor, instead. Without any of them the method's
            safe default is used.
        lossless: keep every bit of every tensor.
        include, exclude: patterns (`fnmatch`) of names to quantize, of names not to; what is not quantized keeps every
            bit.
        keep: patterns of names that keep every bit, vectors included.
        key: which entry of a checkpoint holds the state dict, where that is not clear.
        resume_interval: add resume points for parallel decoding every so many symbols.
        max_shard_bytes: split into files that hold at most so many bytes of tensors each.
        progress: called with the stage and the share done of it.

    Raises InputError for a model or option that cannot be used, TargetError for a budget that cannot be met,
    FileAccessError kinds.
    """
    start = time.monotonic()
    progress = progress or _silent
    encoding = Encoding(coder, resume_interval=resume_interval)
    budgets = {"target_ratio": target_ratio, "bits": bits, "max_error": max_error}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) + lossless > 1:
        raise InputError(f"give one of target_ratio, bits, max_error and lossless, not {len(given) + lossless}")
    if is_path(target):
        check_target(target, overwrite=overwrite)
    chosen = get_method(method)
    with open_source(source, key=key) as model:
        plan = _Plan(model, _Selection(include, exclude, keep, lossless))
        settings: dict[str, Any] = {"method": "lossless" if lossless else method, "coder": coder}
        settings |= {name: float(value) for name, value in budgets.items() if value is not None}
        settings |= {} if lossless else {"options": chosen.settings, "vector_mantissa_bits": VECTOR_MANTISSA_BITS}
        texts = {**model.metadata(), **(metadata or {}), **_provenance(settings, model.nbytes)}

        name = os.path.basename(os.fsdecode(target)) if is_path(target) else "model.l2c"
        write = partial(
            write_files,
            aliases=plan.aliases,
            metadata=texts,
            encoding=encoding,
            max_shard_bytes=max_shard_bytes,
            name=name,
        )

        def measure(codes: Sequence[QuantizedTensor]) -> Size:
            return write(None, plan.assemble(codes))

        budget = Budget(
            file_bytes=None if target_ratio is None else _file_bytes(model.nbytes, target_ratio),
            weight_bits=bits,
            max_error=max_error,
        )
        if budget.file_bytes is not None and not plan.weights:
            raise TargetError("there is nothing to quantize, so no ratio can be chosen; use lossless")
        try:
            codes = [] if lossless else chosen.quantize(plan.weights, budget, measure, progress)
        except TargetError as error:
            raise TargetError(f"{error} (the tensors have {model.nbytes:,} bytes)") from None
        sink = io.BytesIO() if target is None else target
        size = write(sink, plan.assemble(codes), overwrite=overwrite, progress=partial(progress, "writing"))
        if budget.file_bytes is not None and size.file_bytes < budget.file_bytes * (1 - TOLERANCE):
            short = 1 - size.file_bytes / budget.file_bytes
            plan.notes.append(
                f"the file is {short:.1%} smaller than asked for: so few weights cannot meet a size exactly"
            )
        return PackResult(
            original_bytes=model.nbytes,
            file_bytes=size.file_bytes,
            tensors=len(plan.names),
            quantized=len(codes),
            seconds=time.monotonic() - start,
            settings=settings,
            notes=plan.notes,
            data=sink.getvalue() if target is None else None,
        )


@dataclass(frozen=True)
class _Selection:
    """Which tensors are quantized, rounded, or kept: by dtype, rank, and patterns of names."""

    include: Sequence[str]
    exclude: Sequence[str]
    keep: Sequence[str]
    lossless: bool

    def quantizes(self, name: str, dtype: DType, shape: tuple[int, ...]) -> bool:
        """Whether a tensor is quantized: a float of two or more dimensions that no pattern takes out."""
        wanted = _matches(name, self.include) if self.include else True
        kept = self.lossless or _matches(name, self.exclude) or _matches(name, self.keep)
        return dtype.name in _QUANTIZABLE and len(shape) >= 2 and wanted and not kept

    def rounds(self, name: str, dtype: DType, shape: tuple[int, ...]) -> bool:
        """Whether a tensor is rounded to fewer mantissa bits: a vector of learned numbers or statistics."""
        known = name.rpartition(".")[2] in _VECTOR_NAMES
        return (
            dtype.mantissa_bits is not None
            and len(shape) == 1
            and known
            and not (self.lossless or _matches(name, self.keep))
        )


class _Plan:
    """What becomes of each tensor of a model."""

    def __init__(self, model: ModelSource, selection: _Selection):
        self._model = model
        self.notes = [f"left out: {entry}" for entry in model.skipped]
        all_aliases = model.aliases()
        self.aliases = all_aliases
        self.names = [name for name in model.names() if name not in all_aliases]
        self.weights: list[WeightTensor] = []
        self._plain: dict[str, PlainTensor] = {}
        for name in self.names:
            array, dtype = as_array(model.get(name), name)
            load = partial(_load, model, name)
            if array.size and selection.quantizes(name, dtype, array.shape):
                obstacle = _obstacle(to_float32(array, dtype))
                if obstacle is None:
                    self.weights.append(WeightTensor(name, dtype, array.shape, partial(_load_float32, model, name)))
                    continue
                self.notes.append(f"{name} {obstacle}, and is kept as it is")
            bits = VECTOR_MANTISSA_BITS if selection.rounds(name, dtype, array.shape) else None
            self._plain[name] = PlainTensor(name, dtype, array.shape, load, bits)
        for patterns in (selection.include, selection.exclude, selection.keep):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in model.names()):
                    self.notes.append(f"no tensor matches {pattern!r}")

    def assemble(self, codes: Sequence[QuantizedTensor]) -> list[QuantizedTensor | PlainTensor]:
        """Return all tensors in the model's order, the quantized ones with these codes."""
        by_name = {code.name: code for code in codes}
        return [by_name.get(name) or self._plain[name] for name in self.names]


def _obstacle(weights: np.ndarray) -> str | None:
    """Say why float32 weights cannot be quantized, or return None."""
    bad = np.count_nonzero(~np.isfinite(weights))
    if bad:
        return f"holds {bad} values that are not finite numbers of float32"
    peak = float(np.abs(weights).max())
    return f"has no value beyond {peak:g}" if 0 < peak < _LEAST_PEAK else None


def _load(model: ModelSource, name: str) -> np.ndarray:
    return as_array(model.get(name), name)[0]


def _load_float32(model: ModelSource, name: str) -> np.ndarray:
    array, dtype = as_array(model.get(name), name)
    return to_float32(array, dtype)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _file_bytes(original: int, ratio: float) -> int:
    if not ratio > 0:
        raise InputError(f"the target ratio must be positive, not {ratio}")
    return int(original / ratio)


def _provenance(settings: Mapping[str, Any], original_bytes: int) -> dict[str, str]:
    from l2fmt import __version__

    return {
        "l2fmt.version": __version__,
        "l2fmt.method": settings["method"],
        "l2fmt.settings": json.dumps(settings, sort_keys=True, separators=(",", ":")),
        "l2fmt.original_bytes": str(original_bytes),
    }


def _silent(stage: str, done: float) -> None:
    pass
