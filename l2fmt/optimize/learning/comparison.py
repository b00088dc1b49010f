"""How far the student is from the full model, on batches prepared as training sees them."""

import torch
from torch import Tensor

from l2fmt.inputs.calibration import Batch, CalibrationSet
from l2fmt.optimize.learning.distillation import Teacher, distillation_loss, label_loss
from l2fmt.optimize.learning.pictures import augmented
from l2fmt.optimize.learning.settings import Settings
from l2fmt.optimize.learning.student import Student
from l2fmt.optimize.learning.taps import record

_MOST_COMPARED = 2000  # samples that a mean distance is of
_VIEWS = 4  # of each of them, if there are few


class Comparison:
    """The distance that training lessens: of outputs, and as the settings say of blocks and from labels."""

    def __init__(self, settings: Settings, student: Student, teacher: Teacher):
        self._settings, self._student, self._teacher = settings, student, teacher

    def prepared(self, batch: Batch, iteration: int) -> Batch:
        """Return a batch on the model's device, augmented in a way that depends on nothing but the iteration."""
        if self._settings.augment:
            generator = torch.Generator().manual_seed((self._settings.seed * 1_000_003 + iteration) % 2**63)
            batch = augmented(batch, generator)
        return batch.to(self._student.device, self._teacher.memory_format)

    def distance(self, batch: Batch, values: dict[str, Tensor]) -> Tensor:
        """Return the distance on a prepared batch, with these weights; a scalar with gradients."""
        settings, student = self._settings, self._student
        device = next(iter(values.values())).device
        mixed = settings.mixed_precision and device.type == "cuda"
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            truth = self._teacher.run(batch)
            with record(student.module, self._teacher.tapped) as taps:
                output = student.run(batch, values)
            loss = distillation_loss(taps, output, truth, self._teacher, settings.block_weight)
            if settings.label_weight and batch.labels is not None:
                loss = loss + settings.label_weight * label_loss(output, batch.labels)
        return loss

    def mean_distance(self, values: dict[str, Tensor], samples: CalibrationSet) -> float:
        """Return the mean distance over samples, with these weights and the student's vectors.

        Samples are augmented as in training, few of them in several ways: codes of a second-order start were fitted to
        them as they are.
        """
        settings, total, count = self._settings, 0.0, 0
        views = min(_VIEWS, _MOST_COMPARED // max(samples.count, 1)) if settings.augment else 1
        with torch.no_grad():
            for _ in range(max(views, 1)):
                for batch in samples.sample(settings.batch_size, _MOST_COMPARED, settings.seed):
                    found = self.distance(self.prepared(batch, -1 - count), values)
                    total += batch.count * float(found)
                    count += batch.count
        return total / max(count, 1)
