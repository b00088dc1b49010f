"""`rdoq`: each weight to the code of least distortion + lambda bits, as in DeepCABAC (Wiedemann et al. 2020).

* **Distortion** is F (w - w')^2. Without data all weights count alike, F = 1, and all tensors share one step. With data
  F is the diagonal of the curvature, the distance of the model's outputs that an error causes, and steps follow it.
* **Bits** are the code lengths of the classes and tables that will code the codes. DeepCABAC's adapt from code to code;
  these are fitted to codes of plain rounding, and again to what they lead to.
* **Both step and lambda are searched**: for each ratio of lambda to F step^2 the step that meets the size, and of the
  results the one that distorts least. `rd` fixes the ratio, and lets errors of neighbours cancel instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

from l2fmt.errors import InputError
from l2fmt.optimize.base import Budget, Calibration, Compressed, DataUse, Measure, Progress, WeightTensor
from l2fmt.optimize.search import codes_of_size
from l2fmt.optimize.second_order.curvature import Curvature, curvatures_of
from l2fmt.optimize.second_order.model import Model, Rounding

# lambda relative to F step^2 ln 2 / 6, which is the slope of fine steps.
_RATE_WEIGHTS = (0.0, 0.3, 0.6, 1.0, 1.5)


@dataclass(frozen=True)
class GreedyRateDistortion:
    """Settings of the method, see the module.

    rate_weight: lambda relative to that of fine steps, step^2 F ln 2 / 6; 0 for plain rounding, None to search it.
    step_exponent: with data, how far steps follow the curvature: 1 as the slope says, 0 one step for all.
    damping: added to the curvature of each weight, of its tensor's mean.
    refits: of the tables to the codes.
    batch_size, blocks, seed: of measuring curvature, as in method `obs`.
    """

    rate_weight: float | None = None
    step_exponent: float = 0.5
    damping: float = 0.01
    refits: int = 1
    batch_size: int = 50
    blocks: bool = True
    seed: int = 0
    name: ClassVar[str] = "rdoq"
    needs_module: ClassVar[bool] = False
    data: ClassVar[DataUse] = "optional"

    def __post_init__(self) -> None:
        if self.rate_weight is not None and not self.rate_weight >= 0:
            raise InputError(f"rdoq: rate_weight must not be negative, not {self.rate_weight}")
        if self.refits < 1 or self.batch_size < 1:
            raise InputError("rdoq: refits and batch_size must be at least 1")

    @property
    def settings(self) -> dict[str, object]:
        """The settings as recorded in the file."""
        return asdict(self)

    def quantize(
        self,
        tensors: Sequence[WeightTensor],
        budget: Budget,
        measure: Measure,
        progress: Progress,
        calibration: Calibration | None = None,
    ) -> Compressed:
        """Choose the codes of all tensors for a size; as `Method` says."""
        if budget.file_bytes is None and budget.weight_bits is None:
            raise InputError("method rdoq quantizes to a size: give a target ratio, or bits a weight")
        if not tensors:
            return Compressed([])
        curvatures = self._curvatures(tensors, calibration, progress)
        rounding = Rounding(self.step_exponent, self.damping, self.damping, 0.0, self.refits, passes=0)
        model = Model(tensors, curvatures, rounding, progress)
        weights = _RATE_WEIGHTS if self.rate_weight is None else (self.rate_weight,)
        results = [codes_of_size(model.at_rate(weight), budget, measure, progress) for weight in weights]
        return Compressed(min(results, key=model.distance))

    def _curvatures(
        self, tensors: Sequence[WeightTensor], calibration: Calibration | None, progress: Progress
    ) -> Mapping[str, Curvature]:
        if calibration is None:
            return {}
        names, report = [t.name for t in tensors], partial(progress, "measuring curvature")
        measured = curvatures_of(calibration, names, self.batch_size, self.blocks, self.seed, report)
        return {name: curvature.diagonal() for name, curvature in measured.items()}


METHOD = GreedyRateDistortion
