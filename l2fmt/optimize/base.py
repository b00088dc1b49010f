"""What all methods share: the weights they get, the budget they must meet, and how they are found by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from l2fmt.dtypes import DType
from l2fmt.errors import InputError
from l2fmt.pipeline import QuantizedTensor, Size
from l2fmt.transforms import from_float32, to_float32

if TYPE_CHECKING:
    from torch import nn

    from l2fmt.inputs.calibration import CalibrationSet

# A method is a module of this package with a class `METHOD`; naming them here keeps the others unimported.
_METHODS = ("rd", "obs", "l2", "best", "pnmq", "dfq", "adaround", "rdoq")


@dataclass(frozen=True, eq=False)
class WeightTensor:
    """A tensor to quantize: `load()` returns its weights as float32 of `shape`, all finite."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    def with_rows_times(self, factor: np.ndarray | None) -> "WeightTensor":
        """Return it with rows multiplied by a factor float32[rows], if there is one."""
        if factor is None:
            return self
        by_row = factor.reshape(-1, *[1] * (len(self.shape) - 1))
        return replace(self, load=lambda: np.asarray(self.load(), np.float32).reshape(self.shape) * by_row)


@dataclass(frozen=True)
class Budget:
    """What the result must meet; at most one is set, and none means the method's safe default.

    `file_bytes`: the whole file is at most so large, and within 0.5 % of it. `weight_bits`: bits per quantized weight,
        all bytes of their groups
    and tables counted. `max_error`: largest relative mean squared error of any quantized tensor.
    """

    file_bytes: int | None = None
    weight_bits: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("file_bytes", "weight_bits", "max_error") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"only one budget can be given, not {' and '.join(given)}")
        for name in given:
            if not 0 < getattr(self, name) < inf:
                raise InputError(f"{name} must be positive and finite, not {getattr(self, name)}")

    @property
    def aim(self) -> "Aim":
        """What is to be met."""
        if self.max_error is not None:
            return "error"
        return "default" if self.file_bytes is None and self.weight_bits is None else "size"


@dataclass(frozen=True, eq=False)
class Calibration:
    """A model that runs, and data to run it on.

    `module` has the weights to compress and is left as it is. `samples` are none for a method that can do without and
    was given none. `vectors` names the tensors that are not quantized but that a method may change, such as biases and
    the statistics of batch norms; the file rounds them to `mantissa_bits`. `original_bytes` are those of all tensors as
    given, `aliases` other names of tensors, by their own. `checkpoint` is a path for the state of a long computation,
    which goes on from there if it exists; `fingerprint` stands for the tensors it belongs to.
    """

    module: "nn.Module"
    samples: "CalibrationSet"
    vectors: frozenset[str]
    mantissa_bits: int
    original_bytes: int
    aliases: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class Compressed:
    """What a method chose: codes, vectors that replace those of the model (float32), and what is worth reporting.

    `row_factors`: codes stand for the model's weights with rows multiplied by these, float32[rows], by name; vectors
    make up for it. `settled`: names of vectors that cost little as they are, and would cost more if they changed.
    `estimated_bytes`: the size of the file as the method's own rate says; `phases`: seconds by name.
    """

    codes: list[QuantizedTensor]
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    estimated_bytes: int | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    row_factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()


class Measure(Protocol):
    """Encodes the model with these codes and replaced vectors, and says how large it is; exact."""

    def __call__(self, codes: Sequence[QuantizedTensor], vectors: Mapping[str, np.ndarray] = ...) -> Size: ...


Progress = Callable[[str, float], None]
DataUse = Literal["never", "optional", "always"]
Aim = Literal["size", "default", "error"]


@dataclass(frozen=True, eq=False)
class Task:
    """What a method is to do: the tensors to quantize, in order, and the budget that they must meet.

    `measure` says how large a result is, `progress` is told the stage and the share of it that is done. The model is in
    `calibration`, for a method that needs it and for any that is given data.
    """

    tensors: Sequence[WeightTensor]
    budget: Budget
    measure: Measure
    progress: Progress
    calibration: Calibration | None = None

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return [tensor.name for tensor in self.tensors]


class Method(ABC):
    """A way to choose codes: a frozen dataclass of its settings, which are recorded in the file.

    `data` says whether it takes calibration data; with data it gets a module too. `aims` are what it can meet: a size,
    its own default without a budget, a largest error; `instead` says what to give it instead of another.
    """

    name: ClassVar[str]
    needs_module: ClassVar[bool] = False
    data: ClassVar[DataUse] = "never"
    aims: ClassVar[tuple[Aim, ...]] = ("size", "default", "error")
    instead: ClassVar[str] = ""

    @property
    def settings(self) -> dict[str, object]:
        """The settings as recorded in the file."""
        return asdict(self)  # type: ignore[call-overload]

    def quantize(self, task: Task) -> Compressed:
        """Choose codes for all tensors, in order.

        Raises TargetError if the budget cannot be met, InputError without the module or the data that the method needs,
        and for a budget of a kind that it cannot meet.
        """
        if task.calibration is None and self.needs_module:
            data = " and calibration data" if self.data == "always" else ""
            raise InputError(f"method {self.name} needs a module{data}")
        if task.budget.aim not in self.aims:
            raise InputError(f"method {self.name} {self.instead}")
        return self._compress(task) if task.tensors else Compressed([])

    @abstractmethod
    def _compress(self, task: Task) -> Compressed:
        """Choose codes for at least one tensor and a budget that is among the aims."""

    def _require_at_least(self, least: int, *names: str) -> None:
        """Raise InputError for the first of these settings that is below `least`."""
        for name in names:
            if getattr(self, name) < least:
                raise InputError(f"{self.name}: {name} must be at least {least}, not {getattr(self, name)}")


def decoded(code: QuantizedTensor) -> np.ndarray:
    """Return the values of a tensor as a file gives them back, float32 of its shape (spec/transforms.md 1)."""
    values = code.transform.values(code.codes.reshape(code.shape))
    for scale in code.scales:
        values = values * scale
    return to_float32(from_float32(values, code.dtype), code.dtype)


def relative_error(tensor: WeightTensor, code: QuantizedTensor) -> float:
    """Return the squared error of the decoded tensor over the squares of its weights; 0 for a tensor of zeros."""
    weights = tensor.load().reshape(-1)
    difference = decoded(code).reshape(-1).astype(np.float64) - weights
    energy = float(np.einsum("i,i->", weights, weights, dtype=np.float64))
    return float(difference @ difference) / energy if energy > 0 else 0.0


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return _METHODS


def get_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Return a method by name, with its default settings or those of `options`.

    An option "preset" names a set of settings of the method, which the other options change. Raises InputError for an
    unknown method, preset or setting, or a value of the wrong kind.
    """
    if name not in _METHODS:
        raise InputError(f"there is no method {name!r}; the methods are {', '.join(_METHODS)}")
    method = import_module(f"l2fmt.optimize.{name}").METHOD
    chosen = dict(options or {})
    if (preset := chosen.pop("preset", None)) is not None:
        presets = getattr(method, "PRESETS", {})
        if not isinstance(preset, str) or preset not in presets:
            known = f"its presets are {', '.join(presets)}" if presets else "it has no presets"
            raise InputError(f"method {name} has no preset {preset!r}; {known}")
        chosen = {**presets[preset], **chosen}
    defaults = {f.name: f.default for f in fields(method)}
    for key, value in chosen.items():
        if key not in defaults:
            raise InputError(f"method {name} has no setting {key!r}; its settings are {', '.join(defaults)}")
        chosen[key] = _as_kind(value, defaults[key], f"{name}: {key}")
    return method(**chosen)


def _as_kind(value: Any, default: Any, what: str) -> Any:
    """Return a setting's value as the kind of its default, or raise InputError; None allows a number or None."""
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float) or default is None:
        fits = (value is None and default is None) or (isinstance(value, int | float) and abs(value) <= 1e300)
        value = float(value) if fits and value is not None else value
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        value = tuple(value) if fits else value
    else:
        fits = isinstance(value, type(default))
    if not fits:
        kind = "a number, or null" if default is None else f"{type(default).__name__} like {default!r}"
        raise InputError(f"{what} must be {kind}, not {value!r}")
    return value
