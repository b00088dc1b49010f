"""`obs`: second-order quantization with one trade-off for the whole model, from calibration data, without training.

Optimal brain surgery applied to rounding (Frantar and Alistarh 2022; GPTQ): the errors of a row's weights are made up
for by the weights after them, as the correlations of the layer's inputs say. What differs from the published forms:

* **Rows count together too.** An error is made up for by later rows as by later columns; what both have in common is
  measured on the gradients of single samples, which know where in a picture or text the outputs are sensitive.
* **Most important first**: columns and rows take turns by how much they count, alone and with all others making up for
  them, and what makes up for what just came follows it (second_order/factor.py).
* **One slope for all.** Curvatures include the squared gradients of the outputs, so that errors of all layers are in
  one unit, the relative squared distance of the model's outputs; one lambda, distance a bit, then fixes the step, the
  dead zone and the rounding of every layer: step^2 = 12 lambda / (h ln 2) for the curvature h that a
  rounding error meets (the high-rate entropy-coded quantizer).
* **How far steps follow the curvature**, which is an estimate, is tried: half way and three quarters, and what brings
  the model's outputs nearer is kept.
* **Steps of rows and columns** follow their curvature by scales, where these save more than they take
  (second_order/scales.py).
* **Rounding by the coder's own code lengths**: the class model that will code the codes is fitted to them, and they are
  rounded again with lambda times their bits added.
* **Several paths**: error feedback follows the best beginnings of a row, not the first that comes (Jelinek and Anderson
  1971), as a code that costs more may leave less to those after it.
* **Search again**: after that blocks of columns are searched once more along several paths, row after row, with all
  other codes as they are, and change where distance + lambda bits falls.
* **Norms cost little**: their statistics are folded, and their scales rounded to few values, while rows of convolutions
  take what is left of them (second_order/norms.py).
* **Layers in order**: with all codes found, layers are rounded once more, each for the inputs that it will meet
  (second_order/in_order.py), and stay so if that brings the model's outputs nearer for samples that had no part in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from l2fmt.errors import InputError
from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.base import Aim, Compressed, DataUse, Method, Task
from l2fmt.optimize.search import codes_of_size
from l2fmt.optimize.second_order.curvature import GRADIENTS, curvatures_of
from l2fmt.optimize.second_order.in_order import InOrder
from l2fmt.optimize.second_order.judging import nearest_codes
from l2fmt.optimize.second_order.model import Model
from l2fmt.optimize.second_order.norms import Rescaled, with_cheap_norms
from l2fmt.optimize.second_order.rounding import Rounding
from l2fmt.optimize.synthesis import with_synthetic
from l2fmt.pipeline import QuantizedTensor

_MOST_PATHS = 1000  # what they take grows with them, and what they gain hardly does
_STEP_EXPONENTS = (0.5, 0.75)
_SHARE_IN_ORDER = 0.75  # of the samples; the others say whether rounding in order was of use


@dataclass(frozen=True)
class SecondOrder(Method):
    """Settings of the method, see the module.

    step_exponent: how far steps follow the curvature: 1 as the slope says, 0 one step for all. Curvatures are
        estimates, and hold for small errors: half way is best at one or two bits a weight, three quarters can be at
        three. By default the one of these that brings the outputs nearer.
    damping, row_damping: added to the diagonals of each layer's curvature, of columns and of rows, of their means: a
        curvature is an estimate, and holds for small errors only. Rows that count each by itself have `damping` too.
    rate_weight: of code lengths in the rounding; 1 is the slope's own. refits: of the tables to the codes.
    by_importance: whether columns and rows are rounded in the order that leaves least to the last; else as they come.
    paths: that error feedback follows in a row: ways to begin it, the best at each column. passes: at most, of
        the search for better codes after that. scales: whether rows and columns follow their own curvature too, where
        that pays.
    blocks, heads: whether the outputs of blocks, and of the last layers with weights, count beside the final ones.
    joint: whether curvature is measured on gradients of single samples; else by inputs alone, as in GPTQ. across_rows:
        whether later rows make up for errors too, with `joint`.
    gradients: that curvature is measured on, in all: of a few samples several each, of many not all.
    in_order: whether layers are rounded once more, in order, for the inputs that they will meet, if that helps.
    fold_statistics: whether the statistics of batch norms move into their scale and bias: running means become 0 and
        variances 1, which cost next to nothing, and the function stays. octave_norms: whether these scales are rounded
        to parts of an octave then, where the rows of a convolution before can take what is left.
    synthetic: samples that a classifier makes of those given, to add to them (synthesis.py): for few pictures, or
        pictures of other things than the model knows.
    batch_size, seed: of running the model.
    """

    step_exponent: float | None = None
    damping: float = 0.05
    row_damping: float = 0.5
    rate_weight: float = 0.6
    by_importance: bool = True
    paths: int = 8
    passes: int = 4
    scales: bool = True
    refits: int = 1
    batch_size: int = 50
    blocks: bool = True
    heads: bool = True
    joint: bool = True
    across_rows: bool = True
    gradients: int = GRADIENTS
    in_order: bool = True
    fold_statistics: bool = True
    octave_norms: bool = True
    synthetic: int = 0
    seed: int = 0
    name: ClassVar[str] = "obs"
    needs_module: ClassVar[bool] = True
    data: ClassVar[DataUse] = "always"
    aims: ClassVar[tuple[Aim, ...]] = ("size",)
    instead: ClassVar[str] = "quantizes to a size: give a target ratio, or bits a weight"

    def __post_init__(self) -> None:
        self._require_at_least(1, "batch_size", "gradients", "paths")
        if self.paths > _MOST_PATHS:
            raise InputError(f"obs: paths must lie in [1, {_MOST_PATHS:,}], not {self.paths:,}")
        self._require_at_least(0, "synthetic")

    def _compress(self, task: Task) -> Compressed:
        task = with_synthetic(task, self.synthetic, self.batch_size, self.seed)
        rescaled = with_cheap_norms(task, self.octave_norms) if self.fold_statistics else Rescaled(task)
        task, calibration = rescaled.task, rescaled.task.calibration
        assert calibration is not None
        curvatures = curvatures_of(
            task, self.batch_size, self.blocks, self.heads, self.joint, self.seed, self.gradients
        )
        if not self.across_rows:
            curvatures = {name: curvature.by_row() for name, curvature in curvatures.items()}

        def model_of(step_exponent: float) -> Model:
            return Model(task.tensors, curvatures, self._rounding(step_exponent), task.progress)

        def nearest(candidates: Sequence[list[QuantizedTensor]], samples: CalibrationSet) -> int:
            return nearest_codes(candidates, task, samples, self.batch_size, self.heads, self.seed)

        exponents = _STEP_EXPONENTS if self.step_exponent is None else (self.step_exponent,)
        found = [codes_of_size(model_of(exponent), task) for exponent in exponents]
        chosen = nearest(found, calibration.samples)
        codes = found[chosen]
        if self.in_order:
            own, others = calibration.samples.split(_SHARE_IN_ORDER, self.seed)
            # Models are made anew rather than kept, as their factors take more memory than all the rest.
            model = InOrder(model_of(exponents[chosen]), codes, task, own, self.batch_size, self.seed)
            found = [codes, codes_of_size(model, task)]
            codes = found[nearest(found, others if others.count else own)]
        return Compressed(codes, rescaled.vectors, row_factors=rescaled.row_factors, settled=rescaled.norms)

    def _rounding(self, step_exponent: float) -> Rounding:
        return Rounding(
            step_exponent,
            self.damping,
            self.row_damping,
            self.rate_weight,
            self.refits,
            self.passes,
            self.scales,
            self.by_importance,
            self.paths,
        )


METHOD = SecondOrder
