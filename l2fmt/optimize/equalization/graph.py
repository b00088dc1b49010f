"""The graph of a module: which batch norm, activation and layer follow each layer, and nothing else reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from l2fmt.errors import InputError
from l2fmt.optimize.second_order.layers import find_layers

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORM_VECTORS = ("weight", "bias", "running_mean", "running_var")

# What an operation does to each channel, by module class, function, or name of a method.
_KINDS: dict[Any, str] = {
    **dict.fromkeys((nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), "relu"),
    **dict.fromkeys((nn.ReLU6, F.relu6), "relu6"),
    **dict.fromkeys((nn.LeakyReLU, nn.PReLU, F.leaky_relu), "leaky"),
    **dict.fromkeys((nn.SiLU, F.silu, nn.GELU, F.gelu, nn.Hardswish, F.hardswish, nn.ELU, F.elu), "curved"),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, "sigmoid", nn.Tanh, torch.tanh, "tanh", nn.Mish, F.mish), "curved"),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout2d, F.dropout, "contiguous"), "same"),
    **dict.fromkeys((nn.MaxPool2d, F.max_pool2d, nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d), "largest"),
    **dict.fromkeys((nn.AvgPool2d, F.avg_pool2d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d), "average"),
    **dict.fromkeys((nn.Upsample, F.interpolate), "average"),
    **dict.fromkeys((nn.ZeroPad2d, F.pad), "pad"),
    **dict.fromkeys((torch.mean, "mean"), "mean"),
    **dict.fromkeys((nn.Flatten, torch.flatten, "flatten"), "flatten"),
}
ACTIVATIONS = frozenset({"relu", "relu6", "leaky", "curved"})
# Operations f of which f(s x) = s f(x) for every s > 0: on any tensor, and on channels of pictures.
_SCALABLE = frozenset({"relu", "leaky", "same"})
_SCALABLE_PICTURES = _SCALABLE | {"largest", "average", "pad", "mean", "flatten"}


@dataclass(eq=False)
class Unit:
    """A layer that the module calls once, and the batch norm that alone reads its output.

    `mean` and `deviation` (float64[rows]) are those of its outputs, if a batch norm says: see `fold`. `following` are
    the kinds of operations between it and `successor`, the only layer that reads it, if there is one whose columns
    can be scaled instead of its rows.
    """

    path: str
    layer: nn.Module
    node: fx.Node
    norm_path: str = ""
    norm: nn.Module | None = None
    end: fx.Node | None = None  # the node of the norm, or of the layer
    mean: Tensor | None = None
    deviation: Tensor | None = None
    activation: Callable[[Tensor], Tensor] | None = None
    following: tuple[str, ...] = ()
    successor: "Unit | None" = None

    @property
    def bias(self) -> Tensor | None:
        """What is added to the outputs: the bias of the norm, or of the layer; float32[rows]."""
        return (self.layer if self.norm is None else self.norm).bias  # type: ignore[return-value]

    def vectors(self) -> dict[str, Tensor]:
        """Return the vectors of layer and norm, by name."""
        found = {f"{self.norm_path}.{key}": getattr(self.norm, key) for key in _NORM_VECTORS if self.norm is not None}
        if self.layer.bias is not None:
            found[f"{self.path}.bias"] = self.layer.bias  # type: ignore[assignment]
        return found

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return what the layer's products are multiplied with, and what is added then; float32[rows]."""
        return affine(self.layer, self.norm)


def trace(module: nn.Module) -> fx.Graph:
    """Return the graph of a module in evaluation mode; a part that cannot be traced is one node.

    Raises InputError, naming the reason, where the module as a whole cannot be traced.
    """
    try:
        return _Tracer().trace(module)
    except Exception as error:  # code of the user, called with stand-ins: any kind
        reason = str(error).partition("\n")[0]
        message = f"the graph of the {type(module).__name__} cannot be traced"
        raise InputError(f"{message} (torch.fx: {type(error).__name__}: {reason})") from error


class _Tracer(fx.Tracer):
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # as in `trace`
            for node in list(self.graph.nodes)[: before - 1 : -1]:
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def kind_of(node: fx.Node, module: nn.Module) -> str:
    """Return what a node does to each channel of its first argument, or an empty string; pictures are [N, C, H, W]."""
    operation = type(module.get_submodule(node.target)) if node.op == "call_module" else node.target  # type: ignore[arg-type]
    kind = _KINDS.get(operation, "")
    if not node.args:
        return ""
    given = [*node.args[1:], *node.kwargs.values()]
    if kind == "pad" and operation is F.pad:
        zeros = all(not extra or extra == "constant" for extra in given[1:])
        return {2: kind, 4: kind, 6: "new channels"}.get(len(given[0]), "") if zeros else ""  # type: ignore[arg-type]
    if kind == "mean":
        places = isinstance(given[0] if given else None, tuple | list) and {d % 4 for d in given[0]} == {2, 3}  # type: ignore[union-attr]
        return kind if places else ""
    if kind == "flatten":
        first = module.get_submodule(node.target).start_dim if node.op == "call_module" else (given or [0])[0]  # type: ignore[arg-type, union-attr]
        return kind if first == 1 else ""
    return kind


def find_units(
    module: nn.Module, graph: fx.Graph, weights: Sequence[str], vectors: frozenset[str], aliases: Mapping[str, str]
) -> list[Unit]:
    """Return the units of a graph whose tensors may all be changed, in the order of the calls.

    `weights` and `vectors` are the names of tensors that may change. Weights that several layers share, or that the
    module uses in other ways, are left out.
    """
    shared = {*aliases, *aliases.values(), *_shared(module), *_read(graph)}
    layers = find_layers(module, [name for name in weights if name not in shared])
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    units: dict[fx.Node, Unit] = {}
    for node in calls:
        path = str(node.target)
        layer = layers.get(f"{path}.weight")
        if layer is None or layer.is_table:
            continue
        bias_moves = layer.module.bias is None or f"{path}.bias" in vectors - shared
        if targets.count(path) > 1 or not bias_moves or _hooked(layer.module):
            continue
        unit = units[node] = Unit(path, layer.module, node, end=node)
        norm = _only_reader(node)
        if norm is not None and norm.op == "call_module" and targets.count(norm.target) == 1:
            _join(unit, norm, module.get_submodule(str(norm.target)), vectors - shared)
    for unit in units.values():
        _follow(unit, units, module)
    return list(units.values())


def _join(unit: Unit, node: fx.Node, norm: nn.Module, vectors: frozenset[str]) -> None:
    """Make a batch norm the unit's own, if all of it may change."""
    path = str(node.target)
    fits = (
        isinstance(norm, _NORMS) and not _hooked(norm) and vectors.issuperset(f"{path}.{key}" for key in _NORM_VECTORS)
    )
    if fits and norm.running_mean is not None and norm.weight is not None:
        unit.norm_path, unit.norm, unit.end = path, norm, node


def _hooked(module: nn.Module) -> bool:
    """Whether a module does more than its graph says."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _follow(unit: Unit, units: Mapping[fx.Node, Unit], module: nn.Module) -> None:
    """Find the activation after a unit, and its successor."""
    pictures = not isinstance(unit.layer, nn.Linear)
    allowed = _SCALABLE_PICTURES if isinstance(unit.layer, nn.Conv2d) else _SCALABLE
    node, kinds = _only_reader(unit.end), []
    if node is not None and kind_of(node, module) in ACTIVATIONS:
        unit.activation = call(node, module)
    while node is not None and node not in units and (kind := kind_of(node, module)) in allowed:
        kinds.append(kind)
        node = _only_reader(node)
    if node is None or node not in units:
        return
    successor = units[node]
    # Features follow channels only where places are gone.
    if pictures != isinstance(successor.layer, nn.Linear) or {"mean", "flatten"} & set(kinds):
        unit.following, unit.successor = tuple(kinds), successor


def affine(layer: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Return what a layer's products are multiplied with, and what is added then; float32[rows]."""
    gain = torch.ones(len(layer.weight)) if norm is None else norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[arg-type, operator]
    offset = torch.zeros_like(gain) if norm is None else norm.bias - norm.running_mean * gain  # type: ignore[operator]
    return gain, offset if layer.bias is None else offset + layer.bias * gain  # type: ignore[operator]


def arrays_of(units: Sequence[Unit]) -> dict[str, np.ndarray]:
    """Return copies of the vectors of units, float32[rows], by name: all that may differ from the model's."""
    named = (item for unit in units for item in unit.vectors().items())
    return {name: vector.detach().numpy().copy() for name, vector in named}


def call(node: fx.Node, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what a node does to its first argument, as a function."""
    if node.op == "call_module":
        return module.get_submodule(str(node.target))
    function = node.target if node.op == "call_function" else getattr(Tensor, str(node.target))
    return lambda x: function(x, *node.args[1:], **node.kwargs)  # type: ignore[operator]


def _only_reader(node: fx.Node | None) -> fx.Node | None:
    """Return the one node that reads a node, if it reads nothing else."""
    if node is None or len(node.users) != 1:
        return None
    [reader] = node.users
    return reader if reader.op.startswith("call") and reader.all_input_nodes == [node] else None


def _shared(module: nn.Module) -> set[str]:
    """Return the names of parameters that have several."""
    named = list(module.named_parameters(remove_duplicate=False))
    owners = [id(parameter) for _, parameter in named]
    return {name for (name, _), owner in zip(named, owners, strict=True) if owners.count(owner) > 1}


def _read(graph: fx.Graph) -> set[str]:
    """Return the names of tensors that the graph reads itself."""
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}
