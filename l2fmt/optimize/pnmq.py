"""`pnmq`: power-law grids of few bits for each tensor, tuned in the norm L_m (Chikin and Antiukh, CVPR 2022).

* **The grid** of n bits has 2^(n - 1) - 1 values d (1 + p + ... + p^k) on each side of 0: transform `geometric`, or
  `uniform` where p is 1. d and p are those of the least sum of |error|^m.
* **Bits** go to the tensors that lose most without them: all begin with 8, and the tensor whose loss grows least for
  each bit saved gives up one, until all weights together take few enough. The loss of a tensor is relative,
  (sum |error|^m / sum |weight|^m)^(2 / m). With calibration data it is the geometric mean of that and of the distance
  of the model's outputs that the errors cause, by a diagonal of its curvature: an estimate that is too rough alone.
* **A size of the file** is met in two stages: bits are given up until the next one would make it small enough, then
  all grids are stretched by one factor, which lowers the entropy of the codes, until it is.
* **With data** the statistics of batch norms are corrected by how far the quantized weights move them.
"""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from l2fmt.errors import InputError
from l2fmt.optimize.base import Calibration, Compressed, DataUse, Method, Progress, Task, decoded
from l2fmt.optimize.power_grid.grids import ROUNDINGS
from l2fmt.optimize.power_grid.model import Model
from l2fmt.optimize.search import codes_of_size, target_of
from l2fmt.pipeline import QuantizedTensor, Size

_NORMS = (1, 2, 4, 6, 8)


@dataclass(frozen=True)
class PowerNorm(Method):
    """Settings of the method, see the module.

    norm: m of the norm L_m that grids are tuned in, one of 1, 2, 4, 6 and 8. At 12x 4 is 1.4 points ahead of 2 on
        ResNet-20, and 3.0 on ResNet-56.
    rounding: "nearest" to the nearest value, which is better: ResNet-20 at 8x, 10x and 12x has 0.2, 0.5 and 0.2 points
        more; "published" rounds the logarithm.
    per_channel: whether each row has an end of its own, stored as a row scale of four bytes.
    simulated_ratio: without a budget, the original bits over those of all codes at their full width and of the grids'
        parameters, 32 bits each.
    statistics: with data, whether to correct the statistics of batch norms.
    batch_size, seed: of running the model.
    """

    norm: int = 4
    rounding: str = "nearest"
    per_channel: bool = False
    simulated_ratio: float = 6.0
    statistics: bool = True
    batch_size: int = 50
    seed: int = 0
    name: ClassVar[str] = "pnmq"
    data: ClassVar[DataUse] = "optional"

    def __post_init__(self) -> None:
        if self.norm not in _NORMS:
            raise InputError(f"pnmq: norm must be one of {', '.join(map(str, _NORMS))}, not {self.norm}")
        if self.rounding not in ROUNDINGS:
            raise InputError(f"pnmq: rounding must be {' or '.join(ROUNDINGS)}, not {self.rounding!r}")
        if not self.simulated_ratio > 0:
            raise InputError(f"pnmq: simulated_ratio must be positive, not {self.simulated_ratio}")
        self._require_at_least(1, "batch_size")

    def _compress(self, task: Task) -> Compressed:
        curvatures = {}
        if task.calibration is not None:
            from l2fmt.optimize.second_order.curvature import curvatures_of

            measured = curvatures_of(task, self.batch_size, seed=self.seed)
            curvatures = {name: curvature.diagonal() for name, curvature in measured.items()}
        began = time.monotonic()
        model = Model(task.tensors, self.norm, self.rounding, self.per_channel, curvatures, task.progress)
        phases = {"tuning": time.monotonic() - began}
        codes, vectors = self._codes(model, task), {}
        if task.calibration is not None and self.statistics:
            task.progress("measuring statistics", 0.0)
            vectors = _statistics(task.calibration, codes, self.batch_size)

            def with_statistics(codes: Sequence[QuantizedTensor], vectors: Mapping[str, np.ndarray] = vectors) -> Size:
                return task.measure(codes, vectors)

            # Their size differs from that of the old ones; the codes will change so little that they still hold.
            codes = self._codes(model, replace(task, measure=with_statistics))
        return Compressed(codes, vectors, phases=phases)

    def _codes(self, model: Model, task: Task) -> list[QuantizedTensor]:
        """Return codes for a budget, or at the simulated ratio; within an error each tensor has the fewest bits."""
        if task.budget.max_error is not None:
            return model.codes_within(task.budget.max_error)
        states = range(len(model.order) + 1)
        if task.budget.aim == "default":
            return model.codes(bisect_left(states, self.simulated_ratio, hi=states[-1], key=model.simulated_ratio))
        target, of = target_of(task.budget, model.size)

        def fits(dropped: int) -> bool:
            task.progress("sharing bits out", dropped / len(states))
            return getattr(task.measure(model.codes(dropped)), of) <= target

        fitting = bisect_left(states, True, key=fits)
        return codes_of_size(_Stretched(model, max(fitting - 1, 0)), task)


METHOD = PowerNorm


class _Stretched:
    """The model with fixed bits, of which the stretch of all grids is the scale that is searched."""

    def __init__(self, model: Model, dropped: int):
        self._model, self._dropped = model, dropped
        self.size, self.finest_scale = model.size, 1.0

    def first_scale(self, bits: float) -> float:
        return 1.0

    def codes(self, scale: float, progress: Progress) -> list[QuantizedTensor]:
        progress("rounding", 0.0)
        return self._model.codes(self._dropped, scale)


def _statistics(calibration: Calibration, codes: Sequence[QuantizedTensor], batch_size: int) -> dict[str, np.ndarray]:
    """Return the statistics of batch norms, by name, moved as far as these weights move those of the calibration data.

    The data's own may differ from those the model was trained with, as pictures without augmentation do.
    """
    import torch

    from l2fmt.optimize.learning.student import reestimate_statistics, working_copy

    module = working_copy(calibration.module)
    own = {name: buffer.clone() for name, buffer in module.named_buffers()}
    device = next(iter([*module.parameters(), *module.buffers()])).device
    values = {code.name: torch.from_numpy(decoded(code)).to(device) for code in codes}
    found = []
    for weights in ({}, values):
        batches = (batch.to(device) for batch in calibration.samples.in_order(batch_size))
        measured = reestimate_statistics(module, weights, batches, calibration.vectors)
        found.append({name: statistic.clone() for name, statistic in measured.items()})
    before, after = found
    result = {}
    for name in after:
        if name.endswith("running_var"):
            moved = own[name] * (after[name] / before[name].clamp(min=1e-12)).clamp(0.1, 10)
        else:
            moved = own[name] + after[name] - before[name]
        result[name] = moved.cpu().numpy()
    return result
