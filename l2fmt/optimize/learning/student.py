"""The compressed model while it is trained: weights decoded from codes, vectors rounded as the file rounds them.

The module itself is never changed: every call substitutes the decoded weights (`torch.func.functional_call`), so any
`nn.Module` works, tied weights included.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2fmt.errors import InputError
from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.learning.quantizers import Quantizer

_NORMS = nn.modules.batchnorm._BatchNorm


class Student:
    """A module that runs on what a file would decode to.

    `weights` are the real-valued weights behind the codes and `quantizers` what turns them into codes, by name;
    `vectors` the trained vectors (biases, scales), which count as rounded to `mantissa_bits` wherever they are used.
    `units` says by how much each weight tensor changes in steps of about equal effect. `aliases` are names in the
    module of tensors that have another name here. `reached` are the tensors on which the output depends, and
    `partly` those of them that it reaches only in some rows at a time: see `find_reached`.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        quantizers: Mapping[str, Quantizer],
        units: Mapping[str, float],
        vectors: Sequence[str],
        mantissa_bits: int,
        aliases: Mapping[str, str],
    ):
        self.module = module
        own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
        self.device = next(iter(own.values())).device
        self.weights = {name: nn.Parameter(w.detach().clone().to(self.device)) for name, w in weights.items()}
        self.quantizers = {name: quantizer.to(self.device) for name, quantizer in quantizers.items()}
        self.units = dict(units)
        self.vectors = {name: nn.Parameter(own[name].detach().clone()) for name in vectors}
        self.reached: list[str] = list(weights)
        self.partly: list[str] = []
        self._mantissa_bits = mantissa_bits
        self._aliases = _tied_names(module) | dict(aliases)

    def find_reached(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Set `reached` and `partly` by the gradients of the outputs' distance, and drop vectors without one.

        The rate alone would drive to zero what the data never touch. A tensor without any gradient (a layer that the
        output does not use) keeps its codes; one of which some rows have none (an embedding: few of its words occur in
        a batch) is to feel the rate only in rows that the batch touches.
        """
        self.reached, self.partly = [], []
        for name in self.weights:
            gradient = gradients.get(name)
            if gradient is None or not (rows := touched_rows(gradient)).any():
                continue
            self.reached.append(name)
            if not rows.all():
                self.partly.append(name)
        self.vectors = {name: v for name, v in self.vectors.items() if gradients.get(name) is not None}

    def decoded(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the decoded weights and the real codes by name, with gradients."""
        values, codes = {}, {}
        for name, weight in self.weights.items():
            values[name], codes[name] = self.quantizers[name](weight)
        return values, codes

    def run(self, batch: Batch, values: Mapping[str, Tensor]) -> Any:
        """Return the module's output for a batch, with these weights, and the rounded vectors where none are given."""
        vectors = {name: self._rounded(vector) for name, vector in self.vectors.items() if name not in values}
        tensors = {**values, **vectors}
        tensors |= {alias: tensors[name] for alias, name in self._aliases.items() if name in tensors}
        return functional_call(self.module, tensors, batch.args, batch.kwargs, tie_weights=False)

    def _rounded(self, vector: Tensor) -> Tensor:
        return vector + (rounded_mantissa(vector.detach(), self._mantissa_bits) - vector.detach())

    def integers(self) -> dict[str, np.ndarray]:
        """Return the integer codes of all weights, int32 of their shapes."""
        return {name: self.quantizers[name].integers(w.detach()).cpu().numpy() for name, w in self.weights.items()}

    def state(self) -> dict[str, Tensor]:
        """Return all that training changes, by a name of its own: copies on the CPU."""
        tensors = {f"weight:{name}": w for name, w in self.weights.items()}
        tensors |= {f"vector:{name}": v for name, v in self.vectors.items()}
        for name, quantizer in self.quantizers.items():
            tensors |= {f"quantizer:{name}:{key}": p for key, p in quantizer.named_parameters()}
        return {key: t.detach().cpu().clone() for key, t in tensors.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set what `state` returned."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state[f"weight:{name}"])
            for name, vector in self.vectors.items():
                vector.copy_(state[f"vector:{name}"])
            for name, quantizer in self.quantizers.items():
                for key, parameter in quantizer.named_parameters():
                    parameter.copy_(state[f"quantizer:{name}:{key}"])


def rounded_mantissa(values: Tensor, bits: int) -> Tensor:
    """Return finite float32 values rounded to nearest, ties to even, with so many bits of mantissa, as files do it."""
    drop = 23 - bits
    words = values.contiguous().view(torch.int32)
    odd = (words >> drop) & 1
    return ((words + ((1 << (drop - 1)) - 1) + odd) & -(1 << drop)).view(torch.float32)


def touched_rows(gradient: Tensor) -> Tensor:
    """Return for each row of a gradient, dense or sparse, whether any of it is not zero."""
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.reshape(dense.shape[0] if dense.dim() else 1, -1).any(1)


def _tied_names(module: nn.Module) -> dict[str, str]:
    """Return the names of a module's parameters and buffers that are other names of an earlier one."""
    first: dict[int, str] = {}
    names = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: owner for name, tensor in names if (owner := first.setdefault(id(tensor), name)) != name}


def working_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module in float32 and evaluation mode, without gradients of its own.

    Raises InputError for a module that cannot be copied.
    """
    try:
        return deepcopy(module).float().eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the {type(module).__name__} cannot be copied, as training needs ({reason})") from error


def round_statistics(module: nn.Module, adjustable: frozenset[str], mantissa_bits: int) -> None:
    """Round the buffers that a file will round, in place."""
    for name, buffer in module.named_buffers():
        if name in adjustable:
            buffer.copy_(rounded_mantissa(buffer, mantissa_bits))


def fold_statistics(module: nn.Module, adjustable: frozenset[str]) -> dict[str, Tensor]:
    """Move the statistics of every batch norm into its scale and bias, in place; return the changed tensors by name.

    In evaluation mode a batch norm is x * s + b with s = weight / sqrt(var + eps), b = bias - mean * s. Afterwards the
    running mean is 0 and the running variance 1, which cost a file nothing, and the function is the same. Batch norms
    without weights or statistics, or of which a tensor is not `adjustable` or serves another module too, are left as
    they are.
    """
    changed = {}
    users = Counter(id(p) for each in module.modules() for p in each.parameters(recurse=False))
    for path, norm in module.named_modules():
        names = {key: f"{path}.{key}" if path else key for key in ("weight", "bias", "running_mean", "running_var")}
        if not isinstance(norm, _NORMS) or not adjustable.issuperset(names.values()):
            continue
        if norm.running_mean is None or norm.running_var is None or norm.weight is None or norm.bias is None:
            continue
        if users[id(norm.weight)] > 1 or users[id(norm.bias)] > 1:
            continue
        with torch.no_grad():
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            bias = norm.bias.double() - norm.running_mean.double() * gain
            # The norm will divide by sqrt(1 + eps).
            norm.weight.copy_(gain * (1 + norm.eps) ** 0.5)
            norm.bias.copy_(bias)
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0)
        changed |= {name: getattr(norm, key) for key, name in names.items()}
    return changed


def reestimate_statistics(
    module: nn.Module, values: Mapping[str, Tensor], batches: Iterable[Batch], adjustable: frozenset[str]
) -> dict[str, Tensor]:
    """Replace the statistics of batch norms, in place, by those of the inputs they get with these weights.

    They are averages over the batches, each normalized by its own statistics, as in training. Norms of which a
    statistic is not `adjustable` are left alone. Returns the changed tensors by name.
    """
    norms: dict[str, Any] = {}
    for path, norm in module.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(norm, _NORMS) and {f"{prefix}running_mean", f"{prefix}running_var"} <= adjustable:
            norms[prefix] = norm
    before = {}
    for prefix, norm in norms.items():
        before[prefix] = (norm.momentum, norm.num_batches_tracked.clone())
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    with torch.no_grad():
        for batch in batches:
            functional_call(module, dict(values), batch.args, batch.kwargs)
    changed = {}
    for prefix, norm in norms.items():
        norm.eval()
        norm.momentum = before[prefix][0]
        norm.num_batches_tracked.copy_(before[prefix][1])
        changed |= {f"{prefix}running_mean": norm.running_mean, f"{prefix}running_var": norm.running_var}
    return changed
