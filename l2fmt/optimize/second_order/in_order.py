"""Layers rounded one after the other, each for the inputs that the rounded layers before it give.

Rounded for the full model's inputs x, a layer knows nothing of what is wrong with the inputs x' that it will meet. Here
its weights W are first moved to those whose outputs for x' come nearest to W x: W E[x x'^T] E[x' x'^T]^-1, damped
towards W (the asymmetric targets of AdaRound, Nagel et al. 2020, Eq. 25, in closed form). How much is what serves
samples best that had no part in it: few pictures are learned by heart soon. Then they are rounded as before: errors of
earlier layers are made up for as far as later ones can see them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from math import log2
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.base import Progress, Task, decoded
from l2fmt.optimize.code_lengths import code_costs
from l2fmt.optimize.equalization.watching import watched
from l2fmt.optimize.learning.student import working_copy
from l2fmt.optimize.search import AIM, target_of
from l2fmt.optimize.second_order.layers import Layer, find_layers
from l2fmt.optimize.second_order.model import Model
from l2fmt.optimize.second_order.passes import Pass, Passes, lead
from l2fmt.pipeline import QuantizedTensor

_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the mean square of inputs
_MOST_INPUTS = 1 << 14  # of a batch
_INPUTS_PER_COLUMN = 32  # enough for a layer
_LEAST_SAMPLES, _MOST_SAMPLES = 32, 2000
_MOST_BYTES = 1 << 27  # that a layer is given, of one model: what waits takes a few times as much
_MOST_AT_ONCE = 16  # samples of a pass
_PAIRS_AT_ONCE = 4  # that start, and go on, together
_MOST_FINER = 0.1  # bits a weight that a layer may be given beyond its share


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over inputs x of a layer in the full model and x' in the rounded one.

    own: of x' x'^T, cross: of x x'^T, float64[groups, columns, columns].
    """

    own: Tensor
    cross: Tensor

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(self.own + other.own, self.cross + other.cross)

    def targets(self, weights: Tensor, damping: float) -> Tensor:
        """Return the damped weights of least squares, of weights float64[groups, rows, columns]."""
        mean = self.own.diagonal(dim1=1, dim2=2).mean(1)
        added = damping * mean[:, None, None] * torch.eye(self.own.shape[2]).to(self.own)
        lower, failed = torch.linalg.cholesky_ex(self.own + added)  # fails for inputs that are all 0
        moved = torch.cholesky_solve((weights @ (self.cross + added)).transpose(1, 2), lower).transpose(1, 2)
        return torch.where((failed == 0)[:, None, None], moved, weights)

    def error(self, moved: Tensor, weights: Tensor) -> float:
        """Return the sum of |moved x' - weights x|^2, less what does not depend on `moved`."""
        return float((moved @ self.own * moved).sum() - 2 * (weights @ self.cross * moved).sum())


class InOrder:
    """A model whose layers are rounded in order, for `codes_of_size`; begins with the codes that `model` has by itself.

    What layers save, as their weights shrink by what their inputs no longer tell, finer steps of those after them
    spend.
    """

    def __init__(
        self,
        model: Model,
        codes: Sequence[QuantizedTensor],
        task: Task,
        samples: CalibrationSet,
        batch_size: int,
        seed: int,
    ):
        assert task.calibration is not None
        self._model, self._samples, self._batch_size, self._seed = model, samples, batch_size, seed
        self._module = working_copy(task.calibration.module)
        self._layers = find_layers(self._module, task.names)
        self._scale = model.scale_of(codes)
        self._tables = model.fitted(codes)
        self._bits = [self._bits_of(number, code) for number, code in enumerate(codes)]
        self._sizes = [code.size for code in codes]
        _, of = target_of(task.budget, model.size)
        self._codes_bits = 8 * getattr(task.measure(codes), of) / model.size
        self._inputs: dict[str, Tensor] = {}  # of one sample, by the path of the layer
        self.size, self.finest_scale = model.size, model.finest_scale

    def first_scale(self, bits: float) -> float:
        """Return the scale of the codes that were given, changed by what these leave of the size that is aimed at."""
        return self._scale * 2 ** (self._codes_bits - AIM * bits)

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        """Return all codes with steps about `scale` times the base steps."""
        found: dict[int, QuantizedTensor] = {}
        order = self._order()
        planned = spent = 0.0
        paths = [layer.path for layer in self._layers.values()]
        with _Pair(self._module, paths, self._samples, self._batch_size, self._seed) as rounded:
            for done, number in enumerate(order):
                progress("rounding in order", done / len(order))
                tensor = self._model.tensors[number]
                layer = self._layers.get(tensor.name)
                weights = np.asarray(tensor.load(), np.float32)
                if layer is not None and rounded.differs and not layer.is_table:
                    weights = rounded.targets(layer, weights, self._inputs.get(layer.path))
                left = [i for i in order if i not in found]
                finer = self._finer(planned, spent, left)
                found[number] = self._model.rounded(number, scale * 2**-finer, self._tables, weights)
                planned += self._bits[number] + self._sizes[number] * log2(self._scale / scale)
                spent += self._bits_of(number, found[number])
                if layer is not None:
                    rounded.set_weight(layer, decoded(found[number]))
        return [found[number] for number in range(len(order))]

    def _finer(self, planned: float, spent: float, left: Sequence[int]) -> float:
        """Return the bits a weight that the layers left may have more than planned."""
        if not planned:
            return 0.0
        saved = 1 - spent / planned
        bits = saved * (planned + sum(self._bits[number] for number in left))
        return min(max(bits / sum(self._sizes[number] for number in left), -_MOST_FINER), _MOST_FINER)

    def _order(self) -> list[int]:
        """Return the numbers of all tensors: those of layers as they are called, then the others."""
        numbers = {tensor.name: number for number, tensor in enumerate(self._model.tensors)}
        names = {layer.path: name for name, layer in self._layers.items()}
        with torch.no_grad(), watched(self._module, list(names), lambda p, x, _y: self._inputs.setdefault(p, x)) as run:
            run(next(self._samples.in_order(1)).to(_device(self._module)))
        first = [numbers[names[path]] for path in self._inputs]
        return first + sorted(set(numbers.values()) - set(first))

    def _bits_of(self, number: int, code: QuantizedTensor) -> float:
        """Return what codes cost by the tables that the rounding works with."""
        if self._tables is None:
            return float(code.size)
        limit = int(np.abs(code.codes).max(initial=0))
        classes = self._tables[1][number].slice(0, code.size)
        return float(code_costs(self._tables[0], limit)[classes, code.codes.astype(np.int64) + limit].sum())


class _Pair:
    """A module, and a copy whose layers become rounded ones, as passes go through both; a context that ends these."""

    def __init__(self, module: nn.Module, paths: Iterable[str], samples: CalibrationSet, batch_size: int, seed: int):
        self._full, self._rounded = module, deepcopy(module)
        self._passes = [Passes(both, paths) for both in (self._full, self._rounded)]
        self._seed = seed
        batch_size = min(batch_size, _MOST_AT_ONCE, max(samples.count // 2, 1))  # so that there are two
        # every sample once, so that the halves have none in common
        self._batches = samples.in_order(batch_size, torch.Generator().manual_seed(seed))
        self._started: list[tuple[Pass, Pass, int]] = []  # with the samples of the batch
        self.differs = False
        self._last: tuple[Any, list[_Moments]] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            for passes in self._passes:
                opened.enter_context(passes)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def set_weight(self, layer: Layer, values: np.ndarray) -> None:
        """Give the copy a layer's weight."""
        weight = self._rounded.get_parameter(layer.name)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(values).reshape(weight.shape))
        self.differs = True

    def targets(self, layer: Layer, weights: np.ndarray, given: Tensor | None = None) -> np.ndarray:
        """Return the weights, of the shape given, that come nearest to the full model's outputs in the copy.

        `given` is an input of the layer: layers that follow each other with the same one, such as queries, keys and
        values, share what has been measured.
        """
        key = None if given is None else (id(given), layer.geometry)
        if key is None or self._last is None or self._last[0] != key:
            self._last = key, self._moments(layer)
        halves = self._last[1]
        if len(halves) < 2:
            return weights
        columns = halves[0].own.shape[2]
        matrices = torch.from_numpy(weights).to(halves[0].own).reshape(layer.groups, -1, columns)

        def missed(damping: float) -> float:
            """Return the error that half of the samples make for the other half."""
            return sum(b.error(a.targets(matrices, damping), matrices) for a, b in (halves, halves[::-1]))

        errors = {damping: missed(damping) for damping in _DAMPINGS}
        best = min(errors, key=lambda damping: errors[damping])
        if errors[best] >= sum(half.error(matrices, matrices) for half in halves):
            return weights
        return (halves[0] + halves[1]).targets(matrices, best).float().cpu().numpy().reshape(weights.shape)

    def _moments(self, layer: Layer) -> list[_Moments]:
        """Return the moments of every second batch, and of the others; none or one if there are not enough."""
        halves: list[_Moments] = []
        inputs = samples = nbytes = 0
        for number, (full, rounded, count) in enumerate(self._met(layer)):
            generators = (torch.Generator().manual_seed(self._seed + inputs) for _ in range(2))  # the same places
            x, y = (
                layer.inputs(given.float(), _MOST_INPUTS, generator)[0]
                for given, generator in zip((full, rounded), generators, strict=True)
            )
            found = _Moments((y.transpose(1, 2) @ y).double(), (x.transpose(1, 2) @ y).double())
            if number < 2:
                halves.append(found)
            else:
                halves[number % 2] += found
            inputs, samples, nbytes = inputs + y.shape[1], samples + count, nbytes + rounded.nbytes
            enough = samples >= _LEAST_SAMPLES and inputs >= _INPUTS_PER_COLUMN * y.shape[2]
            if number and (enough or nbytes >= _MOST_BYTES or samples >= _MOST_SAMPLES):
                break
        return halves

    def _met(self, layer: Layer) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield what both models give a layer, and of how many samples, until none are left or one does not call it."""
        device = _device(self._full)
        at = 0
        while True:
            for batch in islice(self._batches, max(at + _PAIRS_AT_ONCE - len(self._started), 0)):
                full, rounded = (passes.start(batch.to(device)) for passes in self._passes)
                self._started.append((full, rounded, batch.count))
            pairs = self._started[at : at + _PAIRS_AT_ONCE]
            if not pairs:
                return
            given = iter(lead([one for pair in pairs for one in pair[:2]], layer.path))
            for (_, _, count), full, rounded in zip(pairs, given, given, strict=True):
                if full is None or rounded is None:
                    return
                yield full, rounded, count
            at += len(pairs)


def _device(module: nn.Module) -> torch.device:
    return next(iter([*module.parameters(), *module.buffers()])).device
