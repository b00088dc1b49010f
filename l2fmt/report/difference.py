"""How the tensors of two models differ, whatever formats the models are in."""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2fmt.container import Limits
from l2fmt.container.header import MAGIC
from l2fmt.container.opening import SUFFIX
from l2fmt.container.shards import INDEX_SUFFIX
from l2fmt.container.writer import is_path

if TYPE_CHECKING:
    from torch import Tensor

_HUGE = 2.0**500
_SLICE = 1 << 20  # elements compared at once


@dataclass(frozen=True)
class TensorDifference:
    """How one tensor of model B differs from that of model A.

    Attributes:
        status: "identical" (bit for bit), "different", "shape" (not comparable), "only in A" or "only in B".
        relative_mse: sum of squared differences over sum of squares of A; infinite where only A is zero throughout or
        B is not finite
            where A is. A NaN in both is no difference.
        max_error: largest absolute difference; both are None if there is nothing to compare.
    """

    name: str
    status: str
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    dtype_a: str | None = None
    dtype_b: str | None = None
    relative_mse: float | None = None
    max_error: float | None = None

    @property
    def comparable(self) -> bool:
        """Whether both models have the tensor in the same shape."""
        return self.status in ("identical", "different")

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values for JSON, which has no infinity: that becomes the string "inf"."""
        return {key: "inf" if value == math.inf else value for key, value in asdict(self).items()}


def diff(
    a: Any, b: Any, *, progress: Callable[[float], None] | None = None, limits: Limits | None = None
) -> list[TensorDifference]:
    """Compare two models tensor by tensor, in float64: first those of A in its order, then those that only B has.

    Each is a path of a `.l2c` file or of anything that `pack` reads, a module, or a mapping of tensors. `limits` are
    what each `.l2c` file may take. Memory: one tensor of each.
    """
    with _open(a, limits) as first, _open(b, limits) as second:
        names = list(first.names)
        in_a, in_b = set(names), set(second.names)
        rows = []
        for number, name in enumerate(names):
            rows.append(_compare(name, first.get(name), second.get(name) if name in in_b else None))
            if progress:
                progress((number + 1) / len(names))
        rows += [_compare(name, None, second.get(name)) for name in second.names if name not in in_a]
        return rows


@dataclass
class _Model:
    """Named tensors of a model of any format."""

    names: list[str]
    get: "Callable[[str], Tensor]"
    file: AbstractContextManager[Any]

    def __enter__(self) -> "_Model":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.__exit__(*exception)


def _open(source: Any, limits: Limits | None) -> _Model:
    if is_path(source) and _is_l2c(source):
        from l2fmt.torch import safe_open

        file = safe_open(source, limits=limits)
        return _Model(file.keys(), file.get_tensor, file)
    from l2fmt.inputs import open_source

    model = open_source(source)
    return _Model(model.names(), model.get, model)


def _is_l2c(source: Any) -> bool:
    """Whether a path leads to a model of this format: by name, by the first bytes, or by what a folder holds."""
    path = Path(os.fsdecode(source))
    if str(path) == "-" or path.name.endswith((SUFFIX, INDEX_SUFFIX)):
        return True
    try:
        if path.is_dir():
            return any(p.name.endswith((SUFFIX, INDEX_SUFFIX)) for p in path.iterdir())
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # opening it will say why


def _compare(name: str, a: "Tensor | None", b: "Tensor | None") -> TensorDifference:
    described: dict[str, Any] = {}
    for side, tensor in (("a", a), ("b", b)):
        if tensor is not None:
            described |= {
                f"shape_{side}": tuple(tensor.shape),
                f"dtype_{side}": str(tensor.dtype).removeprefix("torch."),
            }
    if a is None or b is None:
        return TensorDifference(name, "only in A" if b is None else "only in B", **described)
    if a.shape != b.shape:
        return TensorDifference(name, "shape", **described)
    if a.dtype == b.dtype and _same_bits(a, b):
        return TensorDifference(name, "identical", **described, relative_mse=0.0, max_error=0.0)
    relative, largest = _errors(a, b)
    return TensorDifference(name, "different", **described, relative_mse=relative, max_error=largest)


def _same_bits(a: "Tensor", b: "Tensor") -> bool:
    import torch

    # One element or none counts as contiguous whatever its stride, which `view` would refuse.
    flat = [tensor.contiguous().as_strided((tensor.numel(),), (1,)) for tensor in (a, b)]
    return torch.equal(flat[0].view(torch.uint8), flat[1].view(torch.uint8))


def _errors(a: "Tensor", b: "Tensor") -> tuple[float, float]:
    """Return (relative squared error, largest absolute error) of two tensors of one shape."""
    import torch

    flat = [torch.view_as_real(t).reshape(-1) if t.is_complex() else t.reshape(-1) for t in (a, b)]
    if flat[0].numel() != flat[1].numel():  # complex against real: the imaginary part is the difference
        flat = [torch.view_as_real(t.to(torch.complex128)).reshape(-1) for t in (a, b)]
    # Squares of float64 may be beyond float64.
    huge = any(t.dtype == torch.float64 and bool((t.isfinite() & (t.abs() > _HUGE)).any()) for t in flat)
    unit = 1 / _HUGE if huge else 1.0
    energy = error = largest = 0.0
    for start in range(0, flat[0].numel(), _SLICE):
        x, y = (part[start : start + _SLICE].to(torch.float64) for part in flat)
        same = (x == y) | (x.isnan() & y.isnan())
        gap = torch.where(same, 0.0, (y - x).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
        energy += float((x[x.isfinite()] * unit).square().sum())
        error += float((gap * unit).square().sum())
        largest = max(largest, float(gap.max()))
    if error == 0:
        return 0.0, largest
    return (error / energy if energy else math.inf), largest
