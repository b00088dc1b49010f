"""A figure of what each quantized layer of a file costs: bits a weight, sparsity, and bytes before and after."""

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2fmt.container import Limits, atomic_write
from l2fmt.container.atomic import check_target
from l2fmt.container.writer import is_path
from l2fmt.dtypes import DTYPES
from l2fmt.errors import InputError, MissingDependencyError
from l2fmt.report.inspection import Inspection, TensorRow, inspect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is written without a date or a version in it, so that the same file gives the same bytes.
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(_METADATA)

_BITS, _ZEROS, _DARK, _FAINT = "#2f6690", "#c8772e", "#333333", "#999999"
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "svg.hashsalt": "l2fmt",
}
_DPI = 200
_PANELS = 6.4  # inches that the three panels take together
_ROW = 0.16  # inches of a layer, while the figure is no higher than it may be
_MARGINS = 1.15  # inches above and below the rows
_FEWEST_ROWS, _MAX_HEIGHT = 6, 60.0
_CHARACTER = 0.062  # inches of a character of a name, on average
_LONGEST_NAME = 64
_UNITS = ("B", "kB", "MB", "GB")


def plot_layers(
    source: Any, target: Any, *, format: str | None = None, overwrite: bool = False, limits: Limits | None = None
) -> None:
    """Draw bits a weight, sparsity and size of every quantized layer of a model (L2 paper, Fig. 6), atomically.

    Args:
        source: what `inspect` takes: a `.l2c` file, a shard index, a folder with one of them, bytes or a binary file.
        target: a path or a binary file object.
        format: "png", "svg" or "pdf"; by default what the ending of the path says, png for a file object.

    Layers come from top to bottom in the order of the model; where that is alphabetical, as safetensors files have it,
    numbers in names are sorted by value. Bits and bytes include scales and class vectors, but no tables. The same file
    gives the same bytes with the same matplotlib. Memory: one group of tensors, and the figure. Raises
    MissingDependencyError without matplotlib, InputError for another format and for a model without quantized weights,
    FormatError and FileAccessError kinds.
    """
    chosen = format or format_of(target)
    if chosen not in FORMATS:
        raise InputError(f"there is no figure format {chosen!r}; the formats are {', '.join(FORMATS)}")
    if is_path(target):
        check_target(target, overwrite=overwrite)
    _require_matplotlib()
    from matplotlib import style

    found = inspect(source, limits=limits)
    image = io.BytesIO()  # the backends seek, and a pipe cannot
    with style.context(["default", _STYLE]):
        _figure(found).savefig(image, format=chosen, dpi=_DPI, metadata=_METADATA[chosen])
    if not is_path(target):
        target.write(image.getbuffer())
        return
    with atomic_write(target, overwrite=overwrite) as file:
        file.write(image.getbuffer())


def format_of(target: Any) -> str:
    """Return the format that the ending of a path asks for, png for what is no path; raise InputError for others."""
    if not is_path(target):
        return FORMATS[0]
    name = os.fsdecode(target)
    ending = Path(name).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        known = ", ".join(f".{known}" for known in FORMATS)
        raise InputError(f"{name}: the ending of a figure must be one of {known}")
    return ending


def _require_matplotlib() -> None:
    try:
        import matplotlib.style  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("plotting needs matplotlib: pip install 'l2fmt[plot]'") from error


@dataclass(frozen=True)
class _Layer:
    """One quantized tensor: sizes in bytes, `zeros` a share."""

    name: str
    weights: int
    bits: float
    zeros: float
    original: int
    stored: int


def _layers(found: Inspection) -> list[_Layer]:
    """Return the quantized tensors that have elements, in the order of the network."""
    rows = [row for row in found.tensors if row.kind == "weights" and row.bits_per_weight is not None]
    if not rows:
        raise InputError(f"{found.path} has no quantized weights to plot; it holds {len(found.tensors)} other tensors")
    names = [row.name for row in rows]
    if names == sorted(names):  # as safetensors files have them, which forget the order: 10 after 9, not after 1
        rows.sort(key=lambda row: _by_number(row.name))
    return [_layer(row) for row in rows]


def _by_number(name: str) -> list[Any]:
    """Return a key that sorts the numbers in names by value, whatever their length."""
    parts = re.split("([0-9]+)", name)  # text and digits take turns
    return [(len(part.lstrip("0")), part.lstrip("0")) if odd % 2 else part for odd, part in enumerate(parts)]


def _layer(row: TensorRow) -> _Layer:
    weights = prod(row.shape)
    return _Layer(
        name=_label(row.name.removesuffix(".weight")),  # which nearly all have in common
        weights=weights,
        bits=row.bits_per_weight or 0.0,
        zeros=row.sparsity or 0.0,
        original=weights * DTYPES[row.dtype].itemsize,
        stored=row.bytes,
    )


def _label(name: str) -> str:
    """Return a name in printable ASCII, which every font has, and of bounded length: names are a stranger's."""
    shown = name.encode("unicode_escape").decode()
    if len(shown) <= _LONGEST_NAME:
        return shown
    tail = (_LONGEST_NAME - 3) * 2 // 3
    return f"{shown[: _LONGEST_NAME - 3 - tail]}...{shown[-tail:]}"


def _figure(found: Inspection) -> "Figure":
    from matplotlib.figure import Figure

    layers = _layers(found)
    height = min(_MARGINS + _ROW * max(len(layers), _FEWEST_ROWS), _MAX_HEIGHT)
    names = _CHARACTER * max(len(layer.name) for layer in layers)
    figure = Figure(figsize=(_PANELS + names, height), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    weights = sum(layer.weights for layer in layers)
    bits = 8 * sum(layer.stored for layer in layers) / weights
    zeros = sum(layer.zeros * layer.weights for layer in layers) / weights

    _bars(axes[0], [layer.bits for layer in layers], bits, f"Bits per weight (average {bits:.2f})", _BITS)
    shares = [100 * layer.zeros for layer in layers]
    _bars(axes[1], shares, 100 * zeros, f"Zero weights, % (average {100 * zeros:.1f})", _ZEROS)
    _sizes(axes[2], layers)
    _rows(axes, layers, height)

    name = os.path.basename(os.path.normpath(found.path))
    title = figure.suptitle(f"{_label(name)}, ratio {found.ratio:.2f}", fontsize=11, fontweight="bold")
    title.set_parse_math(False)
    sizes = f"{found.original_bytes:,} bytes of tensors in {found.file_bytes:,} bytes of file"
    layers_said = "1 quantized layer" if len(layers) == 1 else f"{len(layers)} quantized layers"
    figure.supxlabel(f"{layers_said}, {weights:,} weights; {sizes}", fontsize=7.5, color=_DARK)
    return figure


def _bars(axes: "Axes", values: Sequence[float], average: float, title: str, color: str) -> None:
    """Draw one bar a layer from zero on, and a line at the average over all weights."""
    axes.barh(range(len(values)), values, 0.72, color=color)
    axes.axvline(average, color=_DARK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    axes.set_xlim(0, 1.05 * max(values) or 1)
    axes.set_title(title, loc="left")


def _sizes(axes: "Axes", layers: Sequence[_Layer]) -> None:
    """Show the bytes of each layer as given and in the file, on a scale of factors: layers differ by thousands."""
    places = range(len(layers))
    before, after = [layer.original for layer in layers], [max(layer.stored, 1) for layer in layers]
    axes.set_xscale("log")
    axes.hlines(places, after, before, color=_FAINT, linewidth=1.2, zorder=2)
    axes.plot(before, places, "o", markersize=3.4, markerfacecolor="white", color=_FAINT)
    axes.plot(after, places, "o", markersize=3.4, color=_DARK)
    axes.set_xlim(
        0.7 * 10 ** floor(log10(min(after))), 1.6 * max(before + after)
    )  # from a power of ten, which is labelled
    axes.xaxis.set_major_formatter(lambda value, _: _size(value))
    axes.xaxis.set_minor_formatter("")
    axes.set_title("Bytes (○ as given, ● in the file)", loc="left")


def _size(value: float) -> str:
    power = max(0, min(floor(log10(value) / 3 + 1e-9), len(_UNITS) - 1))
    return f"{value / 1000**power:g} {_UNITS[power]}"


def _rows(axes: Sequence["Axes"], layers: Sequence[_Layer], height: float) -> None:
    """Name the rows, every so many of them where the figure would be too high for all, from top to bottom."""
    step = max(1, round(_ROW * len(layers) / (height - _MARGINS)))
    places = range(0, len(layers), step)
    axes[0].set_yticks(places, [layers[place].name for place in places], fontsize=7)
    for text in axes[0].get_yticklabels():
        text.set_parse_math(False)  # a dollar in a name is a dollar
    axes[0].set_ylim(max(len(layers), _FEWEST_ROWS) - 0.4, -0.6)
    for panel in axes:
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(axis="x")
        panel.set_axisbelow(True)
