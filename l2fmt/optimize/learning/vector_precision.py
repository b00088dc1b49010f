"""How many bits of mantissa the vectors of a model need, from calibration data.

Nothing makes up for the rounding of biases, scales and statistics on its way to the outputs. The squared distance it
causes falls by four with each bit, so one measurement says how many bits bring it below what is tolerable.
"""

from math import ceil, log

import torch

from l2fmt.optimize.base import Calibration
from l2fmt.optimize.learning.distillation import distance, teacher_of
from l2fmt.optimize.learning.student import fold_statistics, rounded_mantissa, working_copy
from l2fmt.optimize.learning.taps import float_tensors

TOLERABLE = 5e-4
"""Of the outputs' variance: a few percent of what weights of two or three bits cause."""
_MOST_BITS = 10
_BATCH, _SAMPLES = 16, 64


@torch.no_grad()
def vector_precision(calibration: Calibration, least: int) -> int:
    """Return the bits of mantissa, `least` to 10, at which rounding all vectors moves the outputs tolerably.

    Raises InputError for a model that cannot be copied, or run on the samples.
    """
    teacher = teacher_of(calibration.module, False, False)
    teacher.probe(next(calibration.samples.in_order(_BATCH)))
    rounded = working_copy(calibration.module)
    fold_statistics(rounded, calibration.vectors)
    for name, tensor in [*rounded.named_parameters(remove_duplicate=False), *rounded.named_buffers()]:
        if name in calibration.vectors:
            tensor.copy_(rounded_mantissa(tensor, least))
    total = count = 0.0
    for batch in calibration.samples.sample(_BATCH, _SAMPLES, 0):
        given = batch.to(teacher.device, teacher.memory_format)
        _, expected = teacher.run(given)
        found = list(float_tensors(rounded(*given.args, **given.kwargs)))
        total, count = total + batch.count * float(distance(found, expected)), count + batch.count
    missed = total / max(count, 1)
    return min(least + max(ceil(log(missed / TOLERABLE, 4)), 0), _MOST_BITS) if missed > 0 else least
