"""Tensors that are already mapped into memory: a state dict, or the checkpoint dict that holds one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l2fmt.errors import InputError
from l2fmt.inputs.base import ModelSource

# Where training code keeps the weights of a checkpoint; any other key must be asked for.
USUAL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
)


class TensorMapping(ModelSource):
    """The tensors of a state dict; entries of other kinds are skipped.

    Raises InputError for a tensor that has no dense elements to store, and for a mapping without tensors.
    """

    def __init__(self, tensors: Mapping[Any, Any], origin: str) -> None:
        super().__init__(origin)
        self._tensors: dict[str, Tensor] = {}
        self._aliases: dict[str, str] = {}
        for name, value in tensors.items():
            if not isinstance(value, Tensor):
                self.skipped.append(f"{name} ({type(value).__name__})")
                continue
            if not isinstance(name, str):
                raise InputError(f"{origin}: a tensor is named {name!r} ({type(name).__name__}); names must be strings")
            _check_dense(value, name, origin)
            self._tensors[name] = value.detach()
        if not self._tensors:
            raise InputError(f"{origin}: holds no tensors; expected a state dict, a mapping of names to tensors")
        first: dict[tuple[object, ...], str] = {}
        for name, tensor in self._tensors.items():
            if tensor.numel() and (owner := first.setdefault(identity(tensor), name)) != name:
                self._aliases[name] = owner
        self.resources.callback(self._tensors.clear)

    def names(self) -> list[str]:
        return list(self._tensors)

    def get(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise self.missing(name)
        return self._tensors[name].cpu().resolve_conj().resolve_neg().contiguous()

    def tensor_nbytes(self, name: str) -> int:
        if name not in self._tensors:
            raise self.missing(name)
        tensor = self._tensors[name]
        return tensor.numel() * tensor.element_size()

    def aliases(self) -> dict[str, str]:
        return dict(self._aliases)


def open_mapping(content: object, origin: str, key: str | None = None) -> TensorMapping:
    """Open a state dict, or the state dict inside a checkpoint dict: under `key`, or under the one usual key it has.

    Raises InputError, with the keys to choose from, when it is not clear which mapping holds the weights.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{origin}: holds a {type(content).__name__}; expected a state dict or a dict that holds one")
    inner = {name: value for name, value in content.items() if _holds_tensors(value)}
    listing = ", ".join(repr(name) for name in inner) or "none"
    if key is None:
        usual = [name for name in USUAL_KEYS if name in inner]
        if not usual and (_holds_tensors(content) or not inner):
            return TensorMapping(content, origin)
        if len(usual) != 1:
            raise InputError(f"{origin}: it is not clear which entry is the model; choose with key= from {listing}")
        key = usual[0]
    if key not in inner:
        raise InputError(f"{origin}: no entry {key!r} that holds tensors; entries that do: {listing}")
    source = TensorMapping(inner[key], origin)
    source.skipped += [f"{name} ({type(value).__name__})" for name, value in content.items() if name != key]
    return source


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def identity(tensor: Tensor) -> tuple[object, ...]:
    """Return what two tensors share only if every element of one is the same memory as that element of the other."""
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _check_dense(tensor: Tensor, name: str, origin: str) -> None:
    found = None
    if tensor.is_quantized:
        found = f"quantized ({tensor.dtype}); dequantize() it first"
    elif tensor.is_nested:
        found = "a nested tensor"
    elif tensor.layout != torch.strided:
        found = f"sparse ({tensor.layout}); to_dense() it first"
    elif tensor.is_meta:
        found = "on the meta device, without data"
    elif type(tensor) not in (Tensor, torch.nn.Parameter):  # a wrapper whose elements may be anywhere
        found = f"a {type(tensor).__name__}"
    if found:
        raise InputError(f"{origin}: tensor {name!r} is {found}; only dense tensors with data can be packed")
