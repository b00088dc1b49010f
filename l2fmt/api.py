"""`pack` and `compress`: read a model, choose codes by a method, write a file."""

import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from l2fmt.container.atomic import check_target
from l2fmt.container.writer import is_path
from l2fmt.errors import InputError, TargetError
from l2fmt.inputs import open_source
from l2fmt.optimize import Budget, Compressed, Task, get_method
from l2fmt.optimize.search import TOLERANCE
from l2fmt.pipeline import Encoding, QuantizedTensor, Size, check_targets, write_files
from l2fmt.plan import VECTOR_MANTISSA_BITS, Plan, Selection, calibrate

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PackResult", "compress", "pack"]


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
    method: str | None = None,
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
        method: how to choose codes; by default "best" with calibration data, else "rd", which needs none.
        options: settings of the method by name; "preset" names a set of them.
        module: the model that `source` holds the weights of, if `source` is not a module itself. It is left as it is.
        calibration: samples the module runs on: whatever `l2fmt.inputs.calibration.CalibrationSet.of` takes.
        checkpoint: where a method that trains keeps its state; if the file exists, training goes on from there.
        lossless: keep every bit of every tensor.
        include, exclude: patterns (`fnmatch`) of names to quantize, of names not to. What is not quantized keeps every
            bit, but for the vectors of norms and biases, which are rounded.
        keep: patterns of names that keep every bit, vectors included.
        key: which entry of a checkpoint holds the state dict, where that is not clear.
        resume_interval: add resume points for parallel decoding, every so many symbols of a lane; see `index`.
        max_shard_bytes: split into files that hold at most so many bytes of tensors each.
        progress: called with the stage and the share done of it.

    Raises InputError for a model or option that cannot be used, TargetError for a budget that cannot be met,
    FileAccessError kinds.
    """
    start = time.monotonic()
    progress = progress or _silent
    encoding = Encoding(coder, resume_interval=resume_interval, threads=_threads())
    budgets = {"target_ratio": target_ratio, "bits": bits, "max_error": max_error}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) + lossless > 1:
        raise InputError(f"give one of target_ratio, bits, max_error and lossless, not {len(given) + lossless}")
    if is_path(target):
        check_target(target, overwrite=overwrite)
    if method is None:
        method = "rd" if calibration is None or lossless else "best"
    chosen = get_method(method, options)
    if lossless and (options or calibration is not None):
        raise InputError("lossless packing has no options and needs no calibration data")
    if calibration is not None and chosen.data == "never":
        raise InputError(f"method {method} uses no calibration data; method best does")
    with open_source(source, key=key) as model:
        plan = Plan(model, Selection(_patterns(include), _patterns(exclude), _patterns(keep), lossless))
        check_targets(target, plan.nbytes, max_shard_bytes, overwrite=overwrite)
        settings: dict[str, Any] = {"method": "lossless" if lossless else method, "coder": coder}
        settings |= {name: float(value) for name, value in budgets.items() if value is not None}
        settings |= {} if lossless else {"options": chosen.settings, "vector_mantissa_bits": VECTOR_MANTISSA_BITS}
        calibrated = None
        if (chosen.needs_module or calibration is not None) and not lossless:
            needs_data = chosen.data == "always"
            calibrated = calibrate(method, needs_data, source, model, plan, module, calibration, checkpoint)
            if calibrated.samples.count:
                settings["vector_mantissa_bits"] = calibrated.mantissa_bits
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
        if not plan.weights and not lossless and (budget.file_bytes is not None or chosen.needs_module):
            raise TargetError("there is nothing to quantize, so no size can be chosen; use lossless")
        try:
            found = Compressed([])
            if not lossless:
                found = chosen.quantize(Task(plan.weights, budget, measure, progress, calibrated))
        except TargetError as error:
            message = f"{error} (the tensors have {model.nbytes:,} bytes"
            if error.reachable and budget.file_bytes is not None:
                message += f": a ratio of {model.nbytes / error.reachable:.2f} can be reached"
            raise TargetError(f"{message})", error.reachable) from None
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
    target_ratio: float | None = None,
    **arguments: Any,
) -> PackResult:
    """Compress a module that can run, with calibration data; `pack` says what the arguments mean.

    The method is `best` if none is named (`rd` where `calibration` is None), and the target ratio 12 if no budget is
    given. The module is left as it is: `l2fmt.load_model(module, target)` loads the result into it.
    """
    if target_ratio is None and not {"bits", "max_error"} & arguments.keys():
        target_ratio = 12.0
    return pack(model, target, calibration=calibration, target_ratio=target_ratio, **arguments)


def _patterns(given: str | Sequence[str]) -> Sequence[str]:
    """Return patterns as a sequence, where a string is one of them and not its letters."""
    return (given,) if isinstance(given, str) else given


def _file_bytes(original: int, ratio: float) -> int:
    if not ratio > 0:
        raise InputError(f"the target ratio must be positive, not {ratio}")
    if not original / ratio >= 1:
        raise InputError(f"a ratio of {ratio:g} leaves no byte of the {original} that the tensors have")
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


def _threads() -> int:
    """Return how many threads to use: as many as torch does if it is there, else one."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 1
