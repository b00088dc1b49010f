"""How much an error of each weight changes the outputs: input correlations and output sensitivities from data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch, CalibrationSet
from l2fmt.optimize.base import Task
from l2fmt.optimize.learning.distillation import Teacher, teacher_of, variance_scale
from l2fmt.optimize.learning.taps import float_tensors, record
from l2fmt.optimize.second_order.layers import Layer, find_layers

GRADIENTS = 4000
"""That curvature is measured on by default: fewer leave clearly more to chance, where networks have many outputs."""
_MOST_INPUTS = 1 << 15  # of a layer and batch that are correlated by themselves: more change little
_MOST_BYTES = 1 << 26  # of the inputs, as columns, that are multiplied together
_MOST_ROWS = 4096  # that are correlated with each other
_MOST_OF_A_SAMPLE = 8  # gradients


@dataclass(frozen=True, eq=False)
class Curvature:
    """The distance of outputs that errors D of a layer cause: the trace of sensitivity @ D @ hessian @ D^T.

    hessian: float64[groups, columns, columns], or float64[groups, columns] if it is diagonal.
    sensitivity: float64[groups, rows, rows], or float64[rows of all groups] if it is diagonal.
    """

    hessian: Tensor
    sensitivity: Tensor

    def by_row(self) -> "Curvature":
        """Return what is left when rows count each by itself."""
        rows = self.sensitivity
        return replace(self, sensitivity=rows.diagonal(dim1=1, dim2=2).reshape(-1)) if rows.dim() == 3 else self

    def diagonal(self) -> "Curvature":
        """Return what is left when weights count each by itself."""
        columns = self.hessian
        return replace(self.by_row(), hessian=columns.diagonal(dim1=1, dim2=2) if columns.dim() == 3 else columns)

    def distance(self, errors: np.ndarray) -> float:
        """Return the distance that errors float32[rows of all groups, columns] cause."""
        groups = self.hessian.shape[0]
        d = torch.from_numpy(errors).to(self.hessian).reshape(groups, -1, errors.shape[1])
        by_input = d @ self.hessian if self.hessian.dim() == 3 else d * self.hessian[:, None]
        rows = self.sensitivity
        by_both = rows @ by_input if rows.dim() == 3 else by_input * rows.reshape(groups, -1, 1)
        return float((by_both * d).sum())


class _Sums:
    """What is added up for one layer.

    Of every sample the gradient G [rows, columns] of the weight says how its errors change the outputs, whatever place
    they do it at: G^T G and G G^T, on the average, are what columns and rows count, and how much they count together.
    """

    def __init__(self, layer: Layer):
        self.layer = layer
        self._given: dict[str, Tensor] = {}

    def _add(self, what: str, value: Tensor) -> None:
        self._given[what] = self._given[what] + value.double() if what in self._given else value.double()

    def add_words(self, words: Tensor) -> None:
        """Count the rows that a table was asked for."""
        rows: int = self.layer.module.num_embeddings  # type: ignore[assignment]
        self._add("counts", torch.bincount(words.reshape(-1), minlength=rows))

    def add_gradient_of_words(self, words: Tensor, gradient: Tensor) -> None:
        """Add up the squared gradients of each row that a table was asked for."""
        rows: int = self.layer.module.num_embeddings  # type: ignore[assignment]
        squares = gradient.double().square().reshape(-1, gradient.shape[-1])
        self._add("by word", torch.zeros(rows).to(squares).index_add(0, words.reshape(-1), squares.mean(1)))
        self._add("by column", squares.sum(0))

    def add_sample_gradients(self, given: Tensor, gradient: Tensor) -> None:
        """Add up G^T G and G G^T of all samples, from what went into the layer and the gradient of what came out."""
        layer = self.layer
        by_row = layer.outputs_by_row(gradient)
        by_row = by_row.reshape(layer.groups, -1, *by_row.shape[1:]).transpose(1, 2)  # [groups, samples, rows, places]
        rows, places = by_row.shape[2:]
        if layer.overlaps(given) and places >= rows:
            at_once = max(_MOST_BYTES // (4 * layer.module.weight.numel()), 1)  # type: ignore[operator,union-attr]
            for x, g in zip(given.split(at_once), gradient.split(at_once), strict=True):
                self._add_products(layer.sample_gradients(x, g))
            return
        inputs = layer.places(given)
        at_once = max(_MOST_BYTES // max(4 * inputs[:, :1].numel(), 1), 1)
        for x, g in zip(inputs.split(at_once, 1), by_row.split(at_once, 1), strict=True):
            x = x.float().reshape(*x.shape[:2], places, -1)  # [groups, samples, places, columns]
            g = g.float()
            if places >= rows:
                self._add_products(g @ x)
                continue
            # With few places, by what these have in common: G = g x is larger.
            by_place = g @ (x @ x.transpose(2, 3))
            self._add("rows", (by_place * g).sum((1, 3)) if rows > _MOST_ROWS else _paired(by_place, g))
            self._add("columns", _paired(x.transpose(2, 3), ((g.transpose(2, 3) @ g) @ x).transpose(2, 3)))

    def _add_products(self, gradients: Tensor) -> None:
        """Add up G G^T and G^T G of G, [groups, samples, rows, columns]."""
        wide = gradients.shape[2] > _MOST_ROWS
        self._add("rows", gradients.square().sum((1, 3)) if wide else _paired(gradients, gradients))
        self._add("columns", _paired(gradients.transpose(2, 3), gradients.transpose(2, 3)))

    def add_inputs(self, given: Tensor, generator: torch.Generator) -> None:
        """Add up x x^T of all inputs."""
        inputs, each = self.layer.inputs(given.float(), _MOST_INPUTS, generator)
        self._add("inputs", (inputs.transpose(1, 2) @ inputs).double() * each)

    def add_gradient(self, gradient: Tensor) -> None:
        """Add up the squared gradients of each row."""
        self._add("calls", torch.ones(()))
        self._add("squares", self.layer.outputs_by_row(gradient.float()).square().mean((1, 2)))

    def result(self, batches: int) -> Curvature | None:
        given = {what: value / batches for what, value in self._given.items()}
        if "by word" in given:  # rows and columns as factors of a matrix of rank one
            columns = given["by column"] / given["by column"].mean().clamp(min=1e-300)
            return Curvature(columns[None], with_unseen(given["by word"], self._given["counts"]))
        if "rows" in given:
            hessian, rows = given["columns"], given["rows"]
            traces = hessian.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-300)
            return Curvature(hessian / traces[:, None, None], rows if rows.dim() == 3 else rows.reshape(-1))
        if "squares" in given:  # inputs of all calls are added up already
            return Curvature(given["inputs"], given["squares"] / given["calls"])
        return None


def _paired(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a b^T over samples, of [groups, samples, n, any] each: float64[groups, n, n]."""
    return (a.transpose(1, 2).flatten(2) @ b.transpose(1, 2).flatten(2).transpose(1, 2)).double()


def with_unseen(importance: Tensor, counts: Tensor) -> Tensor:
    """Return what words are expected to count in data like those that they were counted in, float64[words].

    Words of which there was none will count, all together, as much as those did that occurred once (Good and Turing).
    """
    never = int((counts == 0).sum())
    return importance + importance[counts == 1].sum() / never if never else importance


def curvatures_of(
    task: Task,
    batch_size: int,
    blocks: bool = True,
    heads: bool = True,
    joint: bool = True,
    seed: int = 0,
    gradients: int = GRADIENTS,
) -> dict[str, Curvature]:
    """Return the curvature of each weight of a task that a layer with data has, as `measure_curvature` says.

    With `blocks` and `heads` their outputs count beside the final ones. Without data there are no curvatures.
    """
    calibration, report = task.calibration, partial(task.progress, "measuring curvature")
    if calibration is None:
        return {}
    teacher = teacher_of(calibration.module, blocks, heads)
    layers = find_layers(teacher.module, task.names)
    teacher.probe(next(calibration.samples.in_order(batch_size)))
    return measure_curvature(
        teacher, list(layers.values()), calibration.samples, batch_size, joint, seed, gradients, report
    )


def measure_curvature(
    teacher: Teacher,
    layers: Sequence[Layer],
    samples: CalibrationSet,
    batch_size: int,
    joint: bool = True,
    seed: int = 0,
    gradients: int = GRADIENTS,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Curvature]:
    """Return the curvature of each layer that the module uses, by the name of its weight.

    The distance is that of `distillation_loss`, to second order: outputs, and those of heads and blocks, relative to
    their variance. Its Gauss-Newton matrix is taken to be a product of two (Kronecker) factors, of the columns and of
    the rows of a weight. With `joint` these are the second moments of the gradients of single samples (as in Shampoo,
    Gupta et al. 2018, and YAQA, arXiv 2505.22988); otherwise those of inputs and, diagonal, of output gradients, each
    by themselves (K-FAC, Martens and Grosse 2015). Gradients are those of random projections of the outputs, whose
    squares have the right mean. So many `gradients` are measured: of a few samples several each, of many not all.
    """
    generator = torch.Generator().manual_seed(seed)
    used = min(samples.count, gradients)
    each = min(gradients // max(used, 1), _MOST_OF_A_SAMPLE) if joint else 1
    sums = {layer.name: _Sums(layer) for layer in layers}
    handles = [
        layer.module.register_forward_hook(_hook(sums[layer.name], joint, generator), always_call=False)
        for layer in layers
    ]
    batches = seen = 0
    try:
        for batch in samples.sample(batch_size, gradients, seed):
            _backward(teacher, batch.to(teacher.device), batch.count / batch_size, each, generator)
            batches += 1
            seen += batch.count
            progress(min(seen / used, 1.0))
    finally:
        for handle in handles:
            handle.remove()
    results = {name: s.result(batches) for name, s in sums.items()}
    return {name: found for name, found in results.items() if found is not None}


def _hook(sums: _Sums, joint: bool, generator: torch.Generator) -> Callable[..., Tensor | None]:
    def hook(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not given or output.dim() < 2:
            return None  # passed by keyword, or a single vector: without samples no statistics
        if not output.requires_grad:  # the first layers; gradients of weights would cost time and serve nothing
            output = output.detach().requires_grad_().clone()
        if not output.requires_grad:
            return None  # the module allows none here
        x = given[0].detach()
        if sums.layer.is_table:
            sums.add_words(x)
            output.register_hook(lambda gradient: sums.add_gradient_of_words(x, gradient.detach()))
        elif joint:
            output.register_hook(lambda gradient: sums.add_sample_gradients(x, gradient.detach()))
        else:
            sums.add_inputs(x, generator)
            output.register_hook(lambda gradient: sums.add_gradient(gradient.detach()))
        return output

    return hook


def _backward(teacher: Teacher, batch: Batch, share: float, each: int, generator: torch.Generator) -> None:
    """Send `each` random projections of the outputs back through the module, which count `share` together."""
    with torch.enable_grad(), record(teacher.module, teacher.tapped) as taps:
        final = list(float_tensors(teacher.module(*batch.args, **batch.kwargs)))
    final += [output for head in teacher.heads for output in taps[head]]
    shared = [taps[name] for name in teacher.blocks if taps.get(name)]
    weighted = []
    for outputs, part in [(final, share), *((outputs, share / len(shared)) for outputs in shared)]:
        for output in outputs:
            if output.requires_grad:
                scale = each * len(outputs) * output.numel() * variance_scale(output.detach())
                weighted.append((output, (part / scale).sqrt()))
    outputs = [output for output, _ in weighted]
    for number in range(each):
        random = [w * torch.randn(o.shape, generator=generator).to(o.device) for o, w in weighted]
        torch.autograd.backward(outputs, random, retain_graph=number < each - 1)
