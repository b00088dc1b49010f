"""`rdoq`: each weight to the code of least distortion + lambda bits, as in DeepCABAC (Wiedemann et al. 2020).

* **Distortion** is F (w - w')^2. Without data all weights count alike, F = 1, and all tensors share one step. With data
  F is the diagonal of the curvature, the distance of the model's outputs that an error causes, and steps follow it.
* **Bits** are the code lengths of the classes and tables that will code the codes. DeepCABAC's adapt from code to code;
  these are fitted to codes of plain rounding, and again to what they lead to.
* **Both step and lambda are searched**: for each ratio of lambda to F step^2 the step that meets the size, and of the
  results the one that distorts least. `rd` fixes the ratio, and lets errors of neighbours cancel instead.
"""

from dataclasses import dataclass
from typing import ClassVar

from l2fmt.errors import InputError
from l2fmt.optimize.base import Aim, Compressed, DataUse, Method, Task
from l2fmt.optimize.search import codes_of_size
from l2fmt.optimize.second_order.curvature import curvatures_of
from l2fmt.optimize.second_order.model import Model
from l2fmt.optimize.second_order.rounding import Rounding

# lambda relative to F step^2 ln 2 / 6, which is the slope of fine steps.
_RATE_WEIGHTS = (0.0, 0.3, 0.6, 1.0, 1.5)


@dataclass(frozen=True)
class GreedyRateDistortion(Method):
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
    data: ClassVar[DataUse] = "optional"
    aims: ClassVar[tuple[Aim, ...]] = ("size",)
    instead: ClassVar[str] = "quantizes to a size: give a target ratio, or bits a weight"

    def __post_init__(self) -> None:
        if self.rate_weight is not None and not self.rate_weight >= 0:
            raise InputError(f"rdoq: rate_weight must not be negative, not {self.rate_weight}")
        self._require_at_least(1, "refits", "batch_size")

    def _compress(self, task: Task) -> Compressed:
        measured = curvatures_of(task, self.batch_size, self.blocks, seed=self.seed)
        curvatures = {name: curvature.diagonal() for name, curvature in measured.items()}
        rounding = Rounding(self.step_exponent, self.damping, self.damping, refits=self.refits)
        model = Model(task.tensors, curvatures, rounding, task.progress)
        weights = _RATE_WEIGHTS if self.rate_weight is None else (self.rate_weight,)
        results = [codes_of_size(model.at_rate(weight), task) for weight in weights]
        return Compressed(min(results, key=model.distance))


METHOD = GreedyRateDistortion
