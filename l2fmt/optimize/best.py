"""`best`: the strongest combination: codes of `obs`, then codes and vectors trained together at the target size.

Second-order rounding comes close without training; training then lets layers make up for each other's errors, and
trains the vectors, which cost nothing. What training does not improve, for samples that had no part in it, stays as it
began.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, NamedTuple

from l2fmt.errors import InputError
from l2fmt.optimize.base import Aim, Compressed, DataUse, Method, Task
from l2fmt.optimize.l2 import L2, trained
from l2fmt.optimize.obs import SecondOrder
from l2fmt.optimize.synthesis import with_synthetic


class _Effort(NamedTuple):
    """Paths and passes of `obs`, and iterations of training."""

    paths: int
    passes: int
    iterations: int


_EFFORTS = (
    _Effort(8, 4, 0),
    *(_Effort(32, 8, iterations) for iterations in (0, 400, 800, 1500, 2500, 4000, 6500, 10000)),
)


@dataclass(frozen=True)
class Best(Method):
    """Settings of the method.

    `effort`, 1 to 9, trades time for accuracy: 1 and 2 round only, 2 along more paths, and from 3 on codes are trained,
    ever longer. `wander` is how far chance may move a weight, in steps: gradients of batches are mostly noise, whose
    sum grows with the root of the iterations, and weights that it moves into other cells were better where rounding had
    placed them. So rates are the lower the longer it takes. `blocks` are names of modules whose outputs are compared,
    by default found in the module tree; `block_weight`, of their distance beside the final outputs', is low, as what
    counts in the end are those. `heads`: whether the outputs of the last layers with weights count as final ones.
    `vector_lr` is low, and steps stay as they are: codes of `obs` are close already, and what jumps at the beginning
    throws them off, all the more the more bits a weight they have. `synthetic`: samples that a classifier makes of
    those given, to add to them, as in `obs`.
    """

    effort: int = 5
    wander: float = 0.03
    vector_lr: float = 0.001
    block_weight: float = 0.2
    heads: bool = True
    batch_size: int = 32
    augment: bool = True
    synthetic: int = 0
    blocks: tuple[str, ...] = ()
    seed: int = 0
    name: ClassVar[str] = "best"
    needs_module: ClassVar[bool] = True
    data: ClassVar[DataUse] = "always"
    aims: ClassVar[tuple[Aim, ...]] = ("size",)
    instead: ClassVar[str] = "works to a size: give a target ratio, or bits a weight"

    def __post_init__(self) -> None:
        if not 1 <= self.effort <= len(_EFFORTS):
            raise InputError(f"best: effort must lie in [1, {len(_EFFORTS)}], not {self.effort}")
        self._require_at_least(1, "batch_size")
        self._require_at_least(0, "synthetic", "wander")

    def _compress(self, task: Task) -> Compressed:
        task = with_synthetic(task, self.synthetic, self.batch_size, self.seed)
        effort = _EFFORTS[self.effort - 1]
        rounding = SecondOrder(
            paths=effort.paths,
            passes=effort.passes,
            blocks=self.block_weight > 0,
            heads=self.heads,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        if not effort.iterations:
            return rounding.quantize(task)
        training = L2(
            start="obs",
            rounds=1,
            transform_iterations=0,
            weight_iterations=effort.iterations,
            weight_lr=self.wander / sqrt(effort.iterations),
            transform_lr=0.0,
            vector_lr=self.vector_lr,
            batch_size=self.batch_size,
            augment=self.augment,
            blocks=self.blocks,
            block_weight=self.block_weight,
            heads=self.heads,
            seed=self.seed,
        )
        return trained(training, task, rounding)


METHOD = Best
