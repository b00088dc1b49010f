"""`pack` and `compress`: read a model, choose codes by a method, write a file."""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from l2fmt.container.atomic import check_target
from l2fmt.container.writer import is_path
from l2fmt.dtypes import DType
from l2fmt.errors import InputError, TargetError
from l2fmt.inputs import ModelSource, open_source
from l2fmt.optimize import Budget, Calibration, Compressed, WeightTensor, get_method
from l2fmt.optimize.search import TOLERANCE
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, Size, write_files
from l2fmt.torch import as_array
from l2fmt.transforms import from_float32, to_float32

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PackResult", "compress", "pack"]

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

    `data` is the file if no target was given. Methods that train say which size they expected (`estimated_bytes`) and
    the seconds of each phase.
    """

    original_bytes: int
    file_bytes: int
    tensors: int
    quantized: int
    seconds: float
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    data: bytes | None = None
    estimated_bytes: int | None = None
    phases: dict[str, float] = field(default_factory=dict)

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
    options: Mapping[str, Any] | None = None,
    module: "nn.Module | None" = None,
    calibration: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
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
        method: "rd" needs no data; "l2" trains, and needs a module and calibration data.
        options: settings of the method by name; "preset" names a set of them.
        module: the model that `source` holds the weights of, if `source` is not a module itself. It is left as it is.
        calibration: samples the module runs on: whatever `l2fmt.inputs.calibration.CalibrationSet.of` takes.
        checkpoint: where a method that trains keeps its state; if the file exists, training goes on from there.
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
    chosen = get_method(method, options)
    if lossless and (options or calibration is not None):
        raise InputError("lossless packing has no options and needs no calibration data")
    if calibration is not None and not chosen.needs_module:
        raise InputError(f"method {method} uses no calibration data; method l2 does")
    with open_source(source, key=key) as model:
        plan = _Plan(model, _Selection(include, exclude, keep, lossless))
        settings: dict[str, Any] = {"method": "lossless" if lossless else method, "coder": coder}
        settings |= {name: float(value) for name, value in budgets.items() if value is not None}
        settings |= {} if lossless else {"options": chosen.settings, "vector_mantissa_bits": VECTOR_MANTISSA_BITS}
        calibrated = None
        if chosen.needs_module and not lossless:
            calibrated = _calibration(method, source, model, plan, module, calibration, checkpoint)
            settings["calibration"] = {"samples": calibrated.samples.count, "sha256": calibrated.samples.digest}
            plan.notes += calibrated.samples.notes
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

        def measure(codes: Sequence[QuantizedTensor], vectors: Mapping[str, np.ndarray] | None = None) -> Size:
            return write(None, plan.assemble(codes, vectors or {}))

        budget = Budget(
            file_bytes=None if target_ratio is None else _file_bytes(model.nbytes, target_ratio),
            weight_bits=bits,
            max_error=max_error,
        )
        if budget.file_bytes is not None and not plan.weights:
            raise TargetError("there is nothing to quantize, so no ratio can be chosen; use lossless")
        try:
            found = Compressed([])
            if not lossless:
                found = chosen.quantize(plan.weights, budget, measure, progress, calibrated)
        except TargetError as error:
            raise TargetError(f"{error} (the tensors have {model.nbytes:,} bytes)") from None
        sink = io.BytesIO() if target is None else target
        plan.notes += found.notes
        size = write(
            sink, plan.assemble(found.codes, found.vectors), overwrite=overwrite, progress=partial(progress, "writing")
        )
        if budget.file_bytes is not None and size.file_bytes < budget.file_bytes * (1 - TOLERANCE):
            short = 1 - size.file_bytes / budget.file_bytes
            plan.notes.append(
                f"the file is {short:.1%} smaller than asked for: so few weights cannot meet a size exactly"
            )
        return PackResult(
            original_bytes=model.nbytes,
            file_bytes=size.file_bytes,
            tensors=len(plan.names),
            quantized=len(found.codes),
            seconds=time.monotonic() - start,
            settings=settings,
            notes=plan.notes,
            data=sink.getvalue() if target is None else None,
            estimated_bytes=found.estimated_bytes,
            phases=dict(found.phases),
        )


def compress(
    model: "nn.Module",
    calibration: Any,
    target: Any = None,
    *,
    target_ratio: float | None = 12,
    method: str = "l2",
    **settings: Any,
) -> PackResult:
    """Compress a module that can run, with calibration data; `pack` says what the arguments mean.

    The module is left as it is: `l2fmt.load_model(module, target)` loads the result into it.
    """
    return pack(model, target, calibration=calibration, target_ratio=target_ratio, method=method, **settings)


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

    @property
    def vectors(self) -> frozenset[str]:
        """The tensors that are rounded, and that a method may change."""
        return frozenset(name for name, plain in self._plain.items() if plain.mantissa_bits is not None)

    def assemble(
        self, codes: Sequence[QuantizedTensor], vectors: Mapping[str, np.ndarray]
    ) -> list[QuantizedTensor | PlainTensor]:
        """Return all tensors in the model's order, quantized ones with these codes, plain ones with these values."""
        result: dict[str, QuantizedTensor | PlainTensor] = dict(self._plain)
        for name, values in vectors.items():
            plain = self._plain[name]
            converted = from_float32(np.ascontiguousarray(values, np.float32), plain.dtype)
            result[name] = replace(plain, load=lambda converted=converted: converted)
        result |= {code.name: code for code in codes}
        return [result[name] for name in self.names]


def _calibration(
    method: str,
    source: Any,
    model: ModelSource,
    plan: _Plan,
    module: "nn.Module | None",
    data: Any,
    checkpoint: str | os.PathLike[str] | None,
) -> Calibration:
    """Return the module with the weights of the source, and the samples; raise InputError for what does not fit."""
    from copy import deepcopy

    from torch import nn

    from l2fmt.inputs.calibration import CalibrationSet

    if module is None and not isinstance(source, nn.Module):
        raise InputError(f"method {method} runs the model: give the module, not only its weights (--model)")
    if data is None:
        raise InputError(f"method {method} needs calibration data (--calibration)")
    running = source if module is None else module
    if running is not source:
        running = deepcopy(running)
        tensors = {name: model.get(name) for name in model.names()}
        own = running.state_dict()
        for name, tensor in tensors.items():
            if name in own and own[name].shape != tensor.shape:
                shapes = f"{list(tensor.shape)} in the checkpoint and {list(own[name].shape)} in the model"
                raise InputError(f"tensor {name!r} has shape {shapes}")
        missing, unexpected = running.load_state_dict(tensors, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            problem = f"it lacks {missing[0]!r}" if missing else f"the model has no {unexpected[0]!r}"
            raise InputError(f"the checkpoint does not fit the {type(running).__name__}: {problem}")
    fingerprint = ""
    if checkpoint is not None:
        digest = hashlib.sha256()
        for weight in plan.weights:
            digest.update(weight.name.encode() + np.ascontiguousarray(weight.load()).tobytes())
        fingerprint = digest.hexdigest()
        checkpoint = os.fspath(checkpoint)
    samples = CalibrationSet.of(data)
    return Calibration(running, samples, plan.vectors, VECTOR_MANTISSA_BITS, model.nbytes, checkpoint, fingerprint)


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
