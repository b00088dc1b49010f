"""How far the compressed model is from the full one: at its blocks and its outputs, relative to their variance."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2fmt.errors import InputError
from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.learning.student import working_copy
from l2fmt.optimize.learning.taps import find_blocks, find_heads, float_tensors, record


class Teacher:
    """The uncompressed model, in evaluation mode; what it outputs is what the student should.

    `blocks` are compared beside the final outputs; `probe` adds the model's heads, unless `with_heads` is false.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[str], with_heads: bool = True):
        self.module, self.blocks = module, blocks
        self.heads: list[str] = []
        self._with_heads = with_heads
        self.device = next(iter([*module.parameters(), *module.buffers()])).device
        self.memory_format = torch.channels_last

    @property
    def tapped(self) -> list[str]:
        """The names of modules whose outputs are compared."""
        return list(dict.fromkeys([*self.blocks, *self.heads]))

    def probe(self, batch: Batch) -> None:
        """Run on a batch, find `heads`, and set the memory format of pictures to one that the module works with.

        Convolutions are faster where the channels of a pixel are neighbours, but views of their results may fail.
        Raises InputError, as `run` does, and for outputs that are not finite.
        """
        try:
            _, final = self.run(batch.to(self.device, self.memory_format))
        except InputError:
            self.memory_format = torch.contiguous_format
            _, final = self.run(batch.to(self.device, self.memory_format))
        if not all(output.isfinite().all() for output in final):
            raise InputError("outputs of the model on the calibration data are not finite: nothing to compare")
        if not self._with_heads:
            return
        given = batch.to(self.device, self.memory_format)
        try:
            self.heads = find_heads(self.module, lambda: self.module(*given.args, **given.kwargs))
        except RuntimeError:  # it changes parameters in place, which autograd refuses: the outputs have to do
            self.heads = []

    def run(self, batch: Batch) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """Return the outputs of blocks and heads by name, and the final ones.

        Raises InputError if the module refuses the batch, naming its reason.
        """
        with torch.no_grad(), record(self.module, self.tapped) as taps:
            try:
                output = self.module(*batch.args, **batch.kwargs)
            except MemoryError:
                raise
            except Exception as error:  # code of the user: any kind
                given = ", ".join(
                    [*(_described(a) for a in batch.args), *(f"{k}={_described(v)}" for k, v in batch.kwargs.items())]
                )
                message = (
                    f"the model cannot run on the calibration data, called as {type(self.module).__name__}({given})"
                )
                raise InputError(f"{message}: {type(error).__name__}: {error}") from error
        final = list(float_tensors(output))
        if not final:
            raise InputError(f"the model returns no floating-point tensor but {_described(output)}: nothing to compare")
        return dict(taps), final


def teacher_of(module: nn.Module, blocks: bool, heads: bool) -> Teacher:
    """Return a copy of a module as a teacher whose blocks and heads count beside the final outputs, if wanted."""
    copy = working_copy(module)
    return Teacher(copy, find_blocks(copy) if blocks else [], heads)


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of outputs, over the variance of the teacher's; a scalar, 0 if both agree."""
    total = torch.zeros((), device=theirs[0].device)
    for a, b in zip(ours, theirs, strict=True):
        b = b.float()
        total = total + F.mse_loss(a.float(), b) / variance_scale(b)
    return total / len(theirs)


def variance_scale(output: Tensor) -> Tensor:
    """Return what squared errors of an output are relative to: its variance, a scalar."""
    # What is constant counts relative to its size instead.
    return torch.maximum(output.var(correction=0), 1e-3 * output.square().mean()).clamp(min=1e-12)


def distillation_loss(
    taps: Mapping[str, list[Tensor]],
    output: Any,
    truth: tuple[dict[str, list[Tensor]], list[Tensor]],
    teacher: Teacher,
    blocks: float,
) -> Tensor:
    """Return the distance of the final outputs and heads plus `blocks` times the mean distance of the block outputs."""
    theirs, final = truth
    ours = list(float_tensors(output))
    for head in teacher.heads:
        ours, final = ours + taps[head], final + theirs[head]
    loss = distance(ours, final)
    shared = [name for name in teacher.blocks if theirs.get(name)]
    if blocks and shared:
        loss = loss + blocks / len(shared) * sum(distance(taps[name], theirs[name]) for name in shared)  # type: ignore[operator]
    return loss


def label_loss(output: Any, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the first output [N, classes, ...] against labels, int64 [N, ...].

    Raises InputError if their shapes do not fit.
    """
    logits = next(float_tensors(output))
    try:
        return F.cross_entropy(logits.float(), labels)
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = f"outputs {list(logits.shape)} and labels {list(labels.shape)} of {labels.dtype}"
        raise InputError(f"labels do not fit: {shapes}: {error}") from error


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__
