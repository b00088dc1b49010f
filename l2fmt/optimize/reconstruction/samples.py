"""Inputs that layers meet, and the outputs they should have, at the same random places of the calibration data."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from l2fmt.inputs.calibration import Batch
from l2fmt.optimize.equalization.watching import watched
from l2fmt.optimize.second_order.layers import Layer

_MOST_BYTES = 1 << 28  # of the inputs of one layer, and of the outputs of all


@dataclass(eq=False)
class Site:
    """A layer to round, and what its products go through: `products * gain + offset` (float32[rows]), `activation`.

    targets: float32[n, rows], the outputs of the full-precision model after that, as `see_targets` collects them.
    """

    layer: Layer
    path: str
    gain: Tensor
    offset: Tensor
    activation: Callable[[Tensor], Tensor] | None
    targets: Tensor = field(default_factory=lambda: torch.empty(0))

    def outputs(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return what follows from inputs [groups, n, columns] and a weight [groups, rows, columns]: [n, rows]."""
        products = (inputs @ weight.transpose(1, 2)).transpose(0, 1).flatten(1)
        y = products * self.gain + self.offset
        return y if self.activation is None else self.activation(y)

    def matrices(self, weight: Tensor) -> Tensor:
        """Return a weight of the layer's shape as [groups, rows, columns]."""
        groups = self.layer.groups
        return weight.reshape(groups, weight.shape[0] // groups, -1)


class Sampler:
    """Collects what layers meet in batches that can be gone through again; places depend on the seed alone."""

    def __init__(self, batches: Callable[[], Iterable[Batch]], count: int, places: int, seed: int):
        self._batches, self._count, self._places, self._seed = batches, count, places, seed

    def see_targets(self, module: nn.Module, sites: Sequence[Site]) -> list[Site]:
        """Set the targets of all sites from the full-precision module; return those it calls, in order of the calls."""
        rows = sum(len(site.gain) for site in sites)
        for site in sites:
            columns = site.matrices(site.layer.module.weight).shape[2] * site.layer.groups  # type: ignore[arg-type]
            self._places = min(self._places, _MOST_BYTES // (4 * max(columns, rows)) + 1)
        found = self._collect(module, sites, stop=False, value=_targets)
        for site in sites:
            if site.path in found:
                site.targets = torch.cat(found[site.path])
        order = list(found)
        return sorted((site for site in sites if site.path in found), key=lambda site: order.index(site.path))

    def inputs(self, module: nn.Module, site: Site) -> Tensor:
        """Return what a layer meets in a module, at the places of its targets, [groups, n, columns]."""
        return torch.cat(self._collect(module, [site], stop=True, value=lambda site, inputs: inputs)[site.path], 1)

    def _collect(
        self, module: nn.Module, sites: Sequence[Site], stop: bool, value: Callable[[Site, Tensor], Tensor]
    ) -> dict[str, list[Tensor]]:
        by_path = {site.path: site for site in sites}
        generators = {path: torch.Generator().manual_seed(self._seed) for path in by_path}
        found: dict[str, list[Tensor]] = {}
        seen: set[str] = set()

        def see(path: str, given: Tensor, _output: Tensor) -> None:
            if path in seen:  # of a layer called several times, the first call
                return
            seen.add(path)
            site = by_path[path]
            share = -(-self._places * len(given) // self._count)
            inputs, _ = site.layer.inputs(given, share, generators[path])
            found.setdefault(path, []).append(value(site, inputs))

        with torch.no_grad(), watched(module, list(by_path), see, stop) as run:
            for batch in self._batches():
                seen.clear()
                run(batch)
        return found


def _targets(site: Site, inputs: Tensor) -> Tensor:
    return site.outputs(inputs, site.matrices(site.layer.module.weight))  # type: ignore[arg-type]
