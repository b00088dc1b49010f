"""Where the outputs of two models are compared: blocks found in the module tree, and their outputs while they run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l2fmt.errors import InputError

_MOST_TAPS = 16  # comparing more outputs costs time and changes little


def find_blocks(module: nn.Module) -> list[str]:
    """Return the names of the blocks of a model: the outermost composite members of its sequences.

    A block is a module of several layers in a `Sequential`, `ModuleList` or `ModuleDict`. A model without any is cut at
    its normalizations, or at its layers with weights. At most 16, evenly spread and the last one among them.
    """
    blocks = list(_composite_members(module, ""))
    if len(blocks) < 2:
        layers = [(n, m) for n, m in module.named_modules() if n and not list(m.children()) and list(m.parameters())]
        norms = [n for n, m in layers if "norm" in type(m).__name__.lower()]
        blocks = norms if len(norms) > 1 else [n for n, _ in layers]
    if len(blocks) > _MOST_TAPS:
        blocks = [blocks[(i + 1) * len(blocks) // _MOST_TAPS - 1] for i in range(_MOST_TAPS)]
    return blocks


def _composite_members(module: nn.Module, prefix: str) -> Iterator[str]:
    sequence = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        layers = sum(1 for m in child.modules() if next(m.parameters(recurse=False), None) is not None)
        container = isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if sequence and layers > 1 and not (container and prefix == ""):
            yield path
        else:
            yield from _composite_members(child, f"{path}.")


def find_heads(module: nn.Module, call: Callable[[], Any]) -> list[str]:
    """Return the names of the last layers with weights: those whose outputs reach the model's through no other.

    What follows them may be of any scale, such as boxes in pixels beside probabilities, so that their own outputs are
    worth comparing. A layer whose output is one of the model's is left out. `call` runs the module, whose parameters
    get gradients meanwhile.
    """
    names: dict[Any, str] = {}  # by the node of the autograd graph that made the output of a layer
    outputs: dict[str, Tensor] = {}
    handles = []
    for name, layer in module.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:

            def hook(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and output.grad_fn is not None:
                    names[output.grad_fn] = name
                    outputs[name] = output

            handles.append(layer.register_forward_hook(hook))
    wanted = [p for p in module.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_()
        with torch.enable_grad():
            final = list(float_tensors(call()))
    finally:
        for handle in handles:
            handle.remove()
        for parameter in wanted:
            parameter.requires_grad_(False)
    found: set[str] = set()
    nodes = [output.grad_fn for output in final if output.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node in names:
            found.add(names[node])
            continue
        following = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= following
        nodes += following
    ends = {output.data_ptr() for output in final}
    return [name for name in outputs if name in found and outputs[name].data_ptr() not in ends]


@contextmanager
def record(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While the module runs, collect the floating-point outputs of the named modules in the dictionary it yields.

    A module that runs several times leaves the outputs of its last call. Raises InputError for an unknown name.
    """
    modules = dict(module.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise InputError(f"the model has no module {unknown[0]!r} whose output could be compared")
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for name in names:

        def hook(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            outputs[name] = list(float_tensors(output))

        handles.append(modules[name].register_forward_hook(hook))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def float_tensors(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of a module's output, whatever tuples, lists, mappings or objects hold them."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from float_tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from float_tensors(value)
    elif hasattr(output, "__dict__"):
        for value in vars(output).values():
            if isinstance(value, Tensor | list | tuple | Mapping):
                yield from float_tensors(value)
