"""How much an error of each weight changes the outputs: input correlations and output sensitivities from data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch, CalibrationSet
from l2fmt.optimize.base import Task
from l2fmt.optimize.learning.distillation import Teacher, variance_scale
from l2fmt.optimize.learning.student import working_copy
from l2fmt.optimize.learning.taps import find_blocks, float_tensors, record
from l2fmt.optimize.second_order.layers import Layer, find_layers

_MOST_INPUTS = 1 << 15  # of a layer and batch that are correlated: more change little
_MOST_SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Curvature:
    """The distance of outputs that errors d of a layer cause: sum over rows of sensitivity * d^T hessian d.

    hessian: float64[groups, columns, columns], or float64[groups, columns] if it is diagonal.
    sensitivity: float64[rows of all groups].
    """

    hessian: Tensor
    sensitivity: Tensor

    def diagonal(self) -> "Curvature":
        """Return what is left when weights count each by itself."""
        return Curvature(
            self.hessian.diagonal(dim1=1, dim2=2) if self.hessian.dim() == 3 else self.hessian, self.sensitivity
        )

    def distance(self, errors: np.ndarray) -> float:
        """Return the distance that errors float32[rows of all groups, columns] cause."""
        groups = self.hessian.shape[0]
        d = torch.from_numpy(errors).to(self.hessian).reshape(groups, -1, errors.shape[1])
        by_input = d @ self.hessian if self.hessian.dim() == 3 else d * self.hessian[:, None]
        return float((by_input * d).sum(2).reshape(-1) @ self.sensitivity)


class _Sums:
    """What is added up for one layer.

    An error of a weight changes the outputs at all places of a sample. Where output gradients agree from place to
    place, as before an average, what these changes have in common counts `coherence` times as much as the rest.
    """

    def __init__(self, layer: Layer):
        self.layer = layer
        self._given: dict[str, Tensor] = {}

    def _add(self, what: str, value: Tensor) -> None:
        self._given[what] = self._given[what] + value.double() if what in self._given else value.double()

    def add_words(self, words: Tensor, gradient: Tensor) -> None:
        """Count the rows that a table was asked for, and add up the squared gradients of each."""
        rows: int = self.layer.module.num_embeddings  # type: ignore[assignment]
        squares = gradient.double().square().reshape(-1, gradient.shape[-1])
        self._add("counts", torch.bincount(words.reshape(-1), minlength=rows))
        self._add("by word", torch.zeros(rows).to(squares).index_add(0, words.reshape(-1), squares.mean(1)))
        self._add("by column", squares.sum(0))

    def add_inputs(self, given: Tensor, generator: torch.Generator) -> None:
        inputs, each = self.layer.inputs(given.float(), _MOST_INPUTS, generator)
        self._add("gram", (inputs.transpose(1, 2) @ inputs).double() * each)
        means, places = self.layer.means(given.float())
        if places > 1:
            self._add("gram of means", (means.transpose(1, 2) @ means).double() * places)

    def add_gradient(self, gradient: Tensor) -> None:
        by_row = self.layer.outputs_by_row(gradient.float())
        self._add("calls", torch.ones(()))
        self._add("squares", by_row.square().mean((1, 2)))
        self._add("incoherent", by_row.square().sum())
        self._add("coherent", by_row.sum(2).square().sum())

    def result(self, batches: int) -> Curvature | None:
        given = {what: value / batches for what, value in self._given.items()}
        if "by word" in given:  # rows and columns as factors of a matrix of rank one
            columns = given["by column"] / given["by column"].mean().clamp(min=1e-300)
            return Curvature(columns[None], with_unseen(given["by word"], self._given["counts"]))
        if "squares" not in given:
            return None
        squares = given["squares"] / given["calls"]  # inputs of all calls are added up already
        hessian = given["gram"]
        if "gram of means" in given:
            coherence = float(given["coherent"] / given["incoherent"].clamp(min=1e-300))
            hessian = hessian + max(coherence - 1, 0.0) * given["gram of means"]
        return Curvature(hessian, squares)


def with_unseen(importance: Tensor, counts: Tensor) -> Tensor:
    """Return what words are expected to count in data like those that they were counted in, float64[words].

    Words of which there was none will count, all together, as much as those did that occurred once (Good and Turing).
    """
    never = int((counts == 0).sum())
    return importance + importance[counts == 1].sum() / never if never else importance


def curvatures_of(
    task: Task, batch_size: int, blocks: bool = True, heads: bool = True, seed: int = 0
) -> dict[str, Curvature]:
    """Return the curvature of each weight of a task that a layer with data has, as `measure_curvature` says.

    With `blocks` and `heads` their outputs count beside the final ones. Without data there are no curvatures.
    """
    calibration, report = task.calibration, partial(task.progress, "measuring curvature")
    if calibration is None:
        return {}
    module = working_copy(calibration.module)
    layers = find_layers(module, task.names)
    teacher = Teacher(module, find_blocks(module) if blocks else [], heads)
    teacher.probe(next(calibration.samples.in_order(batch_size)))
    return measure_curvature(teacher, list(layers.values()), calibration.samples, batch_size, seed, report)


def measure_curvature(
    teacher: Teacher,
    layers: Sequence[Layer],
    samples: CalibrationSet,
    batch_size: int,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Curvature]:
    """Return the curvature of each layer that the module uses, by the name of its weight.

    The distance is that of `distillation_loss`, to second order: outputs, and those of heads and blocks, relative to
    their variance. Its Gauss-Newton matrix is taken to be the product of what the inputs and what the output gradients
    of a layer say (Kronecker factors, of which the second is kept as its diagonal); gradients are those of random
    projections of the outputs, whose squares have the right mean. At most 2,000 samples are used: more say little else.
    """
    generator = torch.Generator().manual_seed(seed)
    used = min(samples.count, _MOST_SAMPLES)
    sums = {layer.name: _Sums(layer) for layer in layers}
    handles = [
        layer.module.register_forward_hook(_hook(sums[layer.name], generator), always_call=False) for layer in layers
    ]
    for layer in layers:
        layer.module.weight.requires_grad_()  # type: ignore[union-attr]
    batches = seen = 0
    try:
        for batch in samples.sample(batch_size, _MOST_SAMPLES, seed):
            _backward(teacher, batch.to(teacher.device), batch.count / batch_size, generator)
            batches += 1
            seen += batch.count
            progress(min(seen / used, 1.0))
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            layer.module.weight.requires_grad_(False)  # type: ignore[union-attr]
    results = {name: s.result(batches) for name, s in sums.items()}
    return {name: found for name, found in results.items() if found is not None}


def _hook(sums: _Sums, generator: torch.Generator) -> Callable[..., None]:
    def hook(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if not given or output.dim() < 2:  # passed by keyword, or a single vector: without samples no statistics
            return
        if sums.layer.is_table:
            if output.requires_grad:
                output.register_hook(lambda gradient: sums.add_words(given[0], gradient.detach()))
            return
        with torch.no_grad():
            sums.add_inputs(given[0].detach(), generator)
        if output.requires_grad:
            output.register_hook(lambda gradient: sums.add_gradient(gradient.detach()))

    return hook


def _backward(teacher: Teacher, batch: Batch, share: float, generator: torch.Generator) -> None:
    """Send random projections of the outputs back through the module; `share` is what the batch counts."""
    with torch.enable_grad(), record(teacher.module, teacher.tapped) as taps:
        final = list(float_tensors(teacher.module(*batch.args, **batch.kwargs)))
    final += [output for head in teacher.heads for output in taps[head]]
    shared = [taps[name] for name in teacher.blocks if taps.get(name)]
    total = torch.zeros((), device=final[0].device)
    for outputs, part in [(final, share), *((outputs, share / len(shared)) for outputs in shared)]:
        for output in outputs:
            if output.requires_grad:
                weight = (part / len(outputs) / output.numel() / variance_scale(output.detach())).sqrt()
                random = torch.randn(output.shape, generator=generator).to(output.device)
                total = total + weight * (output * random).sum()
    total.backward()
