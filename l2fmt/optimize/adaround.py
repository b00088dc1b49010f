"""`adaround`: rounding learned layer by layer, from calibration data without labels.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020): the step of each layer is the
one of least squared error; then every weight is rounded down or up, so that the layer's output after its batch norm and
activation, for inputs from the layers already rounded, stays near that of the full model. What differs:

* **Batch norms keep their gains**, and only their statistics are folded. Folded into weights, one step would have to
  serve rows of very different magnitude, depthwise ones above all.
* **A size fixes the steps**: they have the proportions of those of `rd`, and are scaled until codes rounded to the
  nearest meet the size of the whole file; no code is clipped then, because far codes are rare and cost little. Ranges
  are no measure of such steps: a few large weights would make those of a whole layer coarse. The first and the last
  layer keep the steps of `end_bits`. What learned rounding adds to the size is taken off where it is least decided.
  Without a size the grids have 2^`bits` values, as published.
* Inputs are drawn at random places of feature maps, not from whole pictures, which bounds memory and time.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from l2fmt.errors import InputError
from l2fmt.optimize.base import Aim, Calibration, Compressed, DataUse, Method, Task, WeightTensor
from l2fmt.optimize.equalization.graph import Unit, affine, find_units, trace
from l2fmt.optimize.learning.distillation import Teacher
from l2fmt.optimize.learning.landing import land
from l2fmt.optimize.learning.student import fold_statistics, rounded_mantissa, working_copy
from l2fmt.optimize.nearest import MAX_CODE, Grid, NearestModel
from l2fmt.optimize.rd import RateDistortion, row_norms
from l2fmt.optimize.reconstruction.samples import Sampler, Site
from l2fmt.optimize.reconstruction.soft_rounding import Schedule, learn_rounding
from l2fmt.optimize.search import codes_of_size, target_of
from l2fmt.optimize.second_order.layers import find_layers
from l2fmt.pipeline import QuantizedTensor, Size

_SHARES = np.arange(100, 20, -1) / 100  # of the largest weight that a grid reaches
_MOST_WEIGHTS = 1 << 16  # of a layer that choose its step


@dataclass(frozen=True)
class AdaRound(Method):
    """Settings of the method, see the module.

    bits: of a weight where no size is given, 2 to 8; end_bits: of the first and last layer, or 0 to treat them as the
        others.
    iterations, learning_rate, regularizer: of each layer's rounding, with `inputs` random inputs at a time out of at
        most `places`. batch_size: of running the model. seed: of all that is drawn.
    """

    bits: int = 4
    end_bits: int = 8
    iterations: int = 1000
    learning_rate: float = 0.01
    regularizer: float = 0.01
    inputs: int = 1024
    places: int = 32768
    batch_size: int = 32
    seed: int = 0
    name: ClassVar[str] = "adaround"
    needs_module: ClassVar[bool] = True
    data: ClassVar[DataUse] = "always"
    aims: ClassVar[tuple[Aim, ...]] = ("size", "default")
    instead: ClassVar[str] = "keeps outputs, not weights: give a target ratio, or bits"

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 8 and (2 <= self.end_bits <= 8 or self.end_bits == 0)):
            raise InputError(f"adaround: bits must lie in [2, 8], not {self.bits} and {self.end_bits} of the ends")
        self._require_at_least(1, "iterations", "inputs", "places", "batch_size")

    def _compress(self, task: Task) -> Compressed:
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode is
            return _Run(self, task).result()


METHOD = AdaRound


class _Run:
    """A module with folded statistics, the places its layers meet, and the grids of its weights."""

    def __init__(self, method: AdaRound, task: Task):
        assert task.calibration is not None
        self._method, self._task, calibration = method, task, task.calibration
        self._module = working_copy(calibration.module).cpu()
        Teacher(self._module, ()).run(next(calibration.samples.in_order(method.batch_size)))  # says what does not fit
        self._notes: list[str] = []
        self._units = {unit.path: unit for unit in self._found_units(calibration)}
        folded = fold_statistics(self._module, calibration.vectors)
        samples, size = calibration.samples, method.batch_size
        self._sampler = Sampler(lambda: samples.in_order(size), samples.count, method.places, method.seed)
        self._sites = self._sampler.see_targets(self._module, self._find_sites(task.names))
        ends = {site.layer.name for site in (self._sites[:1] + self._sites[-1:])} if method.end_bits else set()
        self._grids = [self._grid(tensor, tensor.name in ends) for tensor in task.tensors]
        self._vectors = {name: tensor.detach().numpy().copy() for name, tensor in folded.items()}
        self._round_vectors(calibration)

    def _found_units(self, calibration: Calibration) -> list[Unit]:
        """Return the units of the module: none if its graph cannot be traced."""
        try:
            graph = trace(self._module)
        except InputError as error:
            self._notes.append(f"{error}: layers are compared without their norms and activations")
            return []
        return find_units(self._module, graph, self._task.names, calibration.vectors, calibration.aliases)

    def _round_vectors(self, calibration: Calibration) -> None:
        """Round the vectors of the module as the file will, so that the learned rounding makes up for it."""
        own = dict(self._module.named_parameters(remove_duplicate=False)) | dict(self._module.named_buffers())
        with torch.no_grad():
            for name in calibration.vectors & set(own):
                own[name].copy_(rounded_mantissa(own[name], calibration.mantissa_bits))
            for site in self._sites:
                if site.path in self._units:
                    site.gain, site.offset = self._units[site.path].affine()

    def _find_sites(self, names: Sequence[str]) -> list[Site]:
        sites = []
        for name, layer in find_layers(self._module, names).items():
            path = name.removesuffix(".weight")
            if not layer.is_table:
                unit = self._units.get(path)
                gain, offset = affine(layer.module, unit.norm if unit else None)
                sites.append(Site(layer, path, gain, offset, unit.activation if unit else None))
        return sites

    def _grid(self, tensor: WeightTensor, is_end: bool) -> Grid:
        """Return the grid of a tensor, as wide as its bits need if these are given."""
        weights = np.asarray(tensor.load(), np.float32)
        if is_end:
            return Grid(tensor, weights, step_of_least_error(weights, self._method.end_bits), fixed=True)
        if self._task.budget.aim == "default":
            return Grid(tensor, weights, step_of_least_error(weights, self._method.bits))
        norm, _ = row_norms(weights)
        return Grid(tensor, weights, norm**RateDistortion.norm_exponent or 1.0)  # of zeros any step will do

    def result(self) -> Compressed:
        """Return codes and vectors that meet the budget."""
        model, budget = NearestModel(self._grids), self._task.budget
        if budget.aim == "default":
            bits = [self._method.end_bits if grid.fixed else self._method.bits for grid in self._grids]
            limits = [(-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in bits]
            steps = [grid.step(1.0) for grid in self._grids]
            codes = [np.rint(real).astype(np.int32) for real in self._learned(steps, limits)]
            return Compressed(self._coded(codes, steps), self._vectors, notes=self._notes)
        start = codes_of_size(model, replace(self._task, measure=self._measured))
        steps = [code.transform.step for code in start]  # type: ignore[attr-defined]
        target, of = target_of(budget, model.size)
        learned = self._learned(steps, [(-MAX_CODE, MAX_CODE)] * len(steps))
        landed = land(learned, target, lambda codes: getattr(self._measured(self._coded(codes, steps)), of))
        return Compressed(self._coded(landed, steps), self._vectors, notes=self._notes)

    def _learned(self, steps: Sequence[float], limits: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return real codes of all tensors, float32: learned in the order of the calls, or those of the weights."""
        method = self._method
        schedule = Schedule(method.iterations, method.inputs, method.learning_rate, method.regularizer)
        generator = torch.Generator().manual_seed(method.seed)
        number_of = {grid.tensor.name: i for i, grid in enumerate(self._grids)}
        codes = [np.clip(g.weights / np.float32(s), *lim) for g, s, lim in zip(self._grids, steps, limits, strict=True)]
        rounded = deepcopy(self._module)
        own = dict(rounded.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for grid, real, step in zip(self._grids, codes, steps, strict=True):
                if grid.tensor.name in own:
                    own[grid.tensor.name].copy_(torch.from_numpy(np.rint(real) * np.float32(step)))
        for done, site in enumerate(self._sites):
            i = number_of[site.layer.name]
            inputs = self._sampler.inputs(rounded, site)
            weight = site.matrices(torch.from_numpy(self._grids[i].weights))

            def report(share: float, done: int = done) -> None:
                self._task.progress("learning to round", (done + share) / len(self._sites))

            learned = learn_rounding(site, inputs, weight, steps[i], limits[i], schedule, generator, report)
            codes[i] = learned.numpy().reshape(codes[i].shape)
            with torch.no_grad():
                own[site.layer.name].copy_(learned.round().mul(steps[i]).reshape(codes[i].shape))
        return codes

    def _coded(self, codes: Sequence[np.ndarray], steps: Sequence[float]) -> list[QuantizedTensor]:
        return [grid.coded(q, step) for grid, q, step in zip(self._grids, codes, steps, strict=True)]

    def _measured(self, codes: Sequence[QuantizedTensor], vectors: object = None) -> Size:
        """Return the size with the norms' folded statistics."""
        return self._task.measure(codes, self._vectors)


def step_of_least_error(weights: np.ndarray, bits: int) -> float:
    """Return the step at which a grid, -2^(bits - 1) to 2^(bits - 1) - 1 steps, has the least squared error."""
    chosen = weights.reshape(-1)[:: -(-weights.size // _MOST_WEIGHTS)].astype(np.float64)
    peak = float(np.abs(weights).max(initial=0)) or 1.0
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def error(step: float) -> float:
        return float(np.square(np.clip(np.rint(chosen / step), low, high) * step - chosen).sum())

    return min((peak * share / (high + 0.5) for share in _SHARES), key=error)
