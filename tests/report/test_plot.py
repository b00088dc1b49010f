"""`plot_layers` draws what `inspect` finds."""

import io
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.axes import Axes

from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError, InputError, MissingDependencyError, TargetExistsError
from l2fmt.pipeline import Encoding, PlainTensor, QuantizedTensor, write_files
from l2fmt.report import inspect, plot
from l2fmt.report.plot import FORMATS, plot_layers
from l2fmt.transforms import Uniform

SIGNATURES = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


def file_of(names: list[str], side: int = 8, **options) -> bytes:
    """Return a file with a quantized tensor for each name, some of them all zeros."""
    rng = np.random.default_rng(3)
    codes = [np.rint(rng.laplace(size=(side, side)) * (i % 4)).clip(-9, 9).astype(np.int8) for i in range(len(names))]
    tensors = [
        QuantizedTensor(name, DTYPES["F32"], (side, side), array, Uniform(0.1))
        for name, array in zip(names, codes, strict=True)
    ]
    buffer = io.BytesIO()
    write_files(buffer, tensors, {}, {}, Encoding(), **options)
    return buffer.getvalue()


def drawn(source) -> tuple[list[Axes], list[str]]:
    """Return the panels of the figure of a file, and the names of its rows from top to bottom."""
    axes = plot._figure(inspect(source)).axes
    return axes, [text.get_text() for text in axes[0].get_yticklabels()]


def widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_and_the_same_bytes_again(model_path, tmp_path, format):
    first, second = tmp_path / f"a.{format}", io.BytesIO()
    plot_layers(model_path, first)
    plot_layers(model_path, second, format=format)
    assert first.read_bytes().startswith(SIGNATURES[format])
    assert first.read_bytes() == second.getvalue()
    assert b"atplotlib version" not in second.getvalue()


def test_the_figure_shows_what_inspect_says(model):
    found = inspect(model)
    rows = [row for row in found.tensors if row.kind == "weights"]
    (bits, zeros, sizes), names = drawn(model)
    assert names == ["conv", "head", "table"]
    assert widths(bits) == [row.bits_per_weight for row in rows]
    assert widths(zeros) == pytest.approx([100 * (row.sparsity or 0) for row in rows])
    before, after = (line.get_xdata() for line in sizes.lines)
    assert np.asarray(before).tolist() == [4 * 1152, 2 * 160, 2 * 30]
    assert np.asarray(after).tolist() == [row.bytes for row in rows]
    average = 8 * sum(row.bytes for row in rows) / (1152 + 160 + 30)
    assert bits.get_title("left") == f"Bits per weight (average {average:.2f})"
    assert bits.lines[0].get_xdata() == [average, average]
    title = bits.figure.get_suptitle()  # type: ignore[union-attr]
    assert f"ratio {found.ratio:.2f}" in title
    assert f"3 quantized layers, 1,342 weights; {found.original_bytes:,} bytes" in bits.figure.get_supxlabel()  # type: ignore[union-attr]


def test_rows_come_from_top_to_bottom(model):
    (bits, *_), _ = drawn(model)
    bottom, top = bits.get_ylim()
    assert bottom > 2 and top < 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["net.1.weight", "net.10.weight", "net.2.weight"], ["net.1", "net.2", "net.10"]),  # the order was lost
        (["stem.weight", "net.2.weight", "net.10.weight"], ["stem", "net.2", "net.10"]),  # the network's own
        (["a.007", "a.1.b", "a.1²"], ["a.1.b", "a.1\\xb2", "a.007"]),
    ],
)
def test_order_of_layers(names, expected):
    assert drawn(file_of(names))[1] == expected


def test_names_are_a_strangers():
    names = ["$\\frac{$.weight", "層\u202e.weight", "x" * 300 + ".tail", "9" * 900]
    source = file_of(names)
    _, shown = drawn(source)
    assert shown[:2] == ["$\\\\frac{$", "\\u5c64\\u202e"] and all(len(name) <= 64 for name in shown)
    assert shown[2].startswith("xxx") and shown[2].endswith("x.tail") and "..." in shown[2]
    plot_layers(source, io.BytesIO())


def test_a_layer_of_zeros_only_and_a_single_one():
    (bits, zeros, sizes), _ = drawn(file_of(["only"]))
    assert widths(zeros) == [100] and bits.get_xlim()[1] > 0 and sizes.get_xlim()[0] > 0
    assert "1 quantized layer," in bits.figure.get_supxlabel()  # type: ignore[union-attr]
    plot_layers(file_of(["only"]), io.BytesIO())


def test_of_many_layers_some_are_named(monkeypatch):
    monkeypatch.setattr(plot, "_MAX_HEIGHT", 5)
    axes, names = drawn(file_of([f"layer.{i}.weight" for i in range(72)], side=2))
    assert len(axes[0].patches) == 72
    assert names[:3] == ["layer.0", "layer.3", "layer.6"]
    assert axes[0].figure.get_size_inches()[1] == 5  # type: ignore[union-attr]


def test_shards(tmp_path):
    tensors = [QuantizedTensor(f"w{i}", DTYPES["F32"], (8, 8), np.eye(8, dtype=np.int8), Uniform(1)) for i in range(3)]
    write_files(tmp_path / "m.l2c", tensors, {}, {}, Encoding(), max_shard_bytes=256, name="m.l2c")
    assert len(list(tmp_path.glob("*.l2c"))) == 3
    assert drawn(tmp_path)[1] == ["w0", "w1", "w2"]
    plot_layers(tmp_path / "m.l2c.index.json", tmp_path / "m.svg")
    assert (tmp_path / "m.svg").stat().st_size > 1000


def test_the_users_own_style_is_left_alone(model):
    import matplotlib

    with matplotlib.rc_context({"font.size": 33, "axes.facecolor": "black"}):
        styled = io.BytesIO()
        plot_layers(model, styled)
        assert matplotlib.rcParams["font.size"] == 33
    plain = io.BytesIO()
    plot_layers(model, plain)
    assert styled.getvalue() == plain.getvalue()


def test_errors(model, model_path, flipped, tmp_path, monkeypatch):
    target = tmp_path / "x.png"
    with pytest.raises(InputError, match=r"x\.gif: the ending of a figure must be one of \.png, \.svg, \.pdf"):
        plot_layers(model, tmp_path / "x.gif")
    with pytest.raises(InputError, match="no figure format 'gif'"):
        plot_layers(model, io.BytesIO(), format="gif")
    buffer = io.BytesIO()
    write_files(buffer, [PlainTensor("a", DTYPES["F32"], (2,), lambda: np.ones(2, np.float32))], {}, {}, Encoding())
    with pytest.raises(InputError, match="no quantized weights to plot; it holds 1 other tensor"):
        plot_layers(buffer.getvalue(), target)
    with pytest.raises(CorruptFileError):
        plot_layers(flipped(model, 8 * len(model) - 8 * 700), target)
    assert not target.exists()
    target.write_bytes(b"precious")
    with pytest.raises(TargetExistsError):
        plot_layers(model_path, target)
    assert target.read_bytes() == b"precious"
    plot_layers(model_path, target, overwrite=True)
    assert target.read_bytes().startswith(SIGNATURES["png"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'l2fmt\[plot\]'"):
        plot_layers(model_path, io.BytesIO())
