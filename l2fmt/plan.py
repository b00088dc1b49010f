"""What becomes of each tensor of a model that is packed, and the model and data that a calibrated method gets."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from l2fmt.dtypes import DType
from l2fmt.errors import InputError
from l2fmt.inputs import ModelSource
from l2fmt.optimize import Calibration, WeightTensor
from l2fmt.pipeline import PlainTensor, QuantizedTensor
from l2fmt.torch import as_array
from l2fmt.transforms import from_float32, to_float32

if TYPE_CHECKING:
    from torch import nn

# Measured (benchmarks/vector_precision.py): at 6 the accuracy of none of five networks falls, at 5 those of MobileNet
# and YOLO do. Calibration data tell more: `l2fmt.optimize.learning.vector_precision`.
VECTOR_MANTISSA_BITS = 6
# Vectors that tolerate rounding: learned per-channel numbers and statistics. Others (position tables, frequencies) may
# not, and are kept.
_VECTOR_NAMES = ("weight", "bias", "running_mean", "running_var", "gamma", "beta")
_LEAST_PEAK = 2.0**-100  # steps of smaller tensors would leave the normal numbers of float32
_QUANTIZABLE = ("F16", "BF16", "F32", "F64")
# Of the largest value of a dtype: grids reach beyond the weights, where steps are long, and must not leave it. Weights
# that are larger are no weights: masks, which are full of the most negative number.
_MOST_OF_RANGE = 1 / 16


@dataclass(frozen=True)
class Selection:
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


class Plan:
    """What becomes of each tensor of a model."""

    def __init__(self, model: ModelSource, selection: Selection):
        self._model = model
        self.notes = [f"left out: {entry}" for entry in model.skipped]
        all_aliases = model.aliases()
        self.aliases = all_aliases
        self.names = [name for name in model.names() if name not in all_aliases]
        self.weights: list[WeightTensor] = []
        self._plain: dict[str, PlainTensor] = {}
        self.nbytes: list[int] = []  # of each tensor as given
        for name in self.names:
            array, dtype = as_array(model.get(name), name)
            load = partial(_load, model, name)
            self.nbytes.append(array.size * dtype.itemsize)
            if array.size and selection.quantizes(name, dtype, array.shape):
                obstacle = _obstacle(array, dtype)
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

    def round_vectors(self, mantissa_bits: int) -> None:
        """Let vectors be rounded to so many bits of mantissa."""
        for name in self.vectors:
            self._plain[name] = replace(self._plain[name], mantissa_bits=mantissa_bits)

    def fingerprint(self) -> str:
        """Return what stands for all tensors, and for which of them are quantized, rounded or kept: SHA-256 in hex."""
        digest = hashlib.sha256(repr([(w.name, w.shape) for w in self.weights]).encode())
        digest.update(repr([(p.name, p.mantissa_bits) for p in self._plain.values()]).encode())
        for tensor in [*self.weights, *self._plain.values()]:
            digest.update(np.ascontiguousarray(tensor.load()).tobytes())
        return digest.hexdigest()

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


def calibrate(
    method: str,
    needs_data: bool,
    source: Any,
    model: ModelSource,
    plan: Plan,
    module: "nn.Module | None",
    data: Any,
    checkpoint: str | os.PathLike[str] | None,
) -> Calibration:
    """Return the module with the weights of the source, and samples if any; raise InputError for what does not fit.

    Where there are samples, they say how far the plan may round vectors.
    """
    from copy import deepcopy

    from torch import nn

    from l2fmt.inputs.calibration import CalibrationSet
    from l2fmt.optimize.learning.vector_precision import vector_precision

    if module is None and not isinstance(source, nn.Module):
        raise InputError(f"method {method} runs the model: give the module, not only its weights (--model)")
    if data is None and needs_data:
        raise InputError(f"method {method} needs calibration data (--calibration)")
    running, aliases = source if module is None else module, plan.aliases
    if running is not source:
        try:
            running = deepcopy(running)
        except (RuntimeError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"the {type(running).__name__} cannot be copied, as training needs ({reason})") from error
        tensors = {name: model.get(name) for name in model.names()}
        own = running.state_dict()
        for name, tensor in tensors.items():
            if name in own and own[name].shape != tensor.shape:
                shapes = f"{list(tensor.shape)} in the checkpoint and {list(own[name].shape)} in the model"
                raise InputError(f"tensor {name!r} has shape {shapes}")
        aliases = aliases | _tied(running, plan.names)
        missing, unexpected = running.load_state_dict(tensors, strict=False)
        missing = [name for name in missing if name not in aliases and not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            problem = f"it lacks {missing[0]!r}" if missing else f"the model has no {unexpected[0]!r}"
            raise InputError(f"the checkpoint does not fit the {type(running).__name__}: {problem}")
    fingerprint = ""
    if checkpoint is not None:
        fingerprint = plan.fingerprint()
        checkpoint = os.fspath(checkpoint)
    samples = CalibrationSet([]) if data is None else CalibrationSet.of(data)
    calibration = Calibration(
        running, samples, plan.vectors, VECTOR_MANTISSA_BITS, model.nbytes, aliases, checkpoint, fingerprint
    )
    if not samples.count:
        return calibration
    precision = vector_precision(calibration, VECTOR_MANTISSA_BITS)
    plan.round_vectors(precision)
    return replace(calibration, mantissa_bits=precision)


def _tied(module: "nn.Module", given: Sequence[str]) -> dict[str, str]:
    """Return other names that a module has for tensors of a checkpoint, by which they may be missing there.

    Raises InputError for two tensors of the checkpoint that are one in the module.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    found, known = {}, set(given)
    for same in names.values():
        owners = [name for name in same if name in known]
        if len(owners) > 1:
            both = f"{owners[0]!r} and {owners[1]!r} are one tensor in the model and two in the checkpoint"
            raise InputError(f"{both}; pack the model itself, or a checkpoint of torch.save, in which they are one")
        found |= {name: owner for owner in owners for name in same if name != owner}
    return found


def _obstacle(array: np.ndarray, dtype: DType) -> str | None:
    """Say why weights, held as `dtype.numpy`, cannot be quantized, or return None."""
    weights = to_float32(array, dtype)
    bad = np.count_nonzero(~np.isfinite(weights))
    if bad:
        return f"holds {bad} values that are not finite numbers of float32"
    peak = float(np.abs(array if dtype.name == "F64" else weights).max())
    if 0 < peak < _LEAST_PEAK:
        return f"has no value beyond {peak:g}"
    if peak > _MOST_OF_RANGE * float(np.finfo(np.float16 if dtype.name == "F16" else np.float32).max):
        return f"has values up to {peak:g}, near the end of what {dtype.name} can hold"
    return None


def _load(model: ModelSource, name: str) -> np.ndarray:
    return as_array(model.get(name), name)[0]


def _load_float32(model: ModelSource, name: str) -> np.ndarray:
    array, dtype = as_array(model.get(name), name)
    return to_float32(array, dtype)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
