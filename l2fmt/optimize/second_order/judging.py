"""Which codes bring a model's outputs nearer to those of the full one, on calibration data."""

from collections.abc import Sequence

import torch
from torch.func import functional_call

from l2fmt.inputs.calibration import CalibrationSet
from l2fmt.optimize.base import Task, decoded
from l2fmt.optimize.learning.distillation import distillation_loss, teacher_of
from l2fmt.optimize.learning.taps import record
from l2fmt.pipeline import QuantizedTensor

_MOST_SAMPLES = 500


@torch.no_grad()
def nearest_codes(
    candidates: Sequence[list[QuantizedTensor]],
    task: Task,
    samples: CalibrationSet,
    batch_size: int,
    heads: bool,
    seed: int,
) -> int:
    """Return which of several sets of codes brings the final outputs, and those of heads, nearest to the full model's.

    The distance is that of `distillation_loss`, over 500 samples at most.
    """
    if len(candidates) == 1:
        return 0
    assert task.calibration is not None
    teacher = teacher_of(task.calibration.module, False, heads)
    teacher.probe(next(samples.in_order(batch_size)))
    own = {name for name, _ in teacher.module.named_parameters(remove_duplicate=False)}
    weights = [
        {code.name: torch.from_numpy(decoded(code)).to(teacher.device) for code in codes if code.name in own}
        for codes in candidates
    ]
    losses = [0.0] * len(candidates)
    for batch in samples.sample(batch_size, _MOST_SAMPLES, seed):
        given = batch.to(teacher.device, teacher.memory_format)
        truth = teacher.run(given)
        for number, values in enumerate(weights):
            with record(teacher.module, teacher.tapped) as taps:
                output = functional_call(teacher.module, values, given.args, given.kwargs)
            loss = distillation_loss(taps, output, truth, teacher, 0.0)
            losses[number] += float(loss) * batch.count
    return losses.index(min(losses))
