"""`l2fmt demo`."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from l2fmt.cli import _output

T = TypeVar("T")

_RATIO = 8


@click.command(short_help="Pack and measure a small network.")
def demo() -> None:
    """Pack a small network that comes with this package, load it back, and measure its accuracy.

    A convolutional net for handwritten digits, tested on 500 images it was not trained on. Takes a few seconds.
    """
    _output.data("l2fmt stores neural networks in small files that decode to the same bits everywhere.")
    _output.data("Here is one: a convolutional net for handwritten digits, and 500 images it has not seen.")
    _output.data()
    from l2fmt import api, report
    from l2fmt.demo import digits
    from l2fmt.torch import load_file, save_file

    state = digits.load_state()
    original = sum(tensor.nbytes for tensor in state.values())
    with tempfile.TemporaryDirectory(prefix="l2fmt-demo-") as folder:
        runs: list[tuple[str, Callable[[Path], Any]]] = [
            ("lossless", lambda path: save_file(state, path)),
            ("default", lambda path: api.pack(state, path)),
            (f"ratio {_RATIO}", lambda path: api.pack(state, path, target_ratio=_RATIO)),
        ]
        rows = [("as trained", _output.count(original), "1.00", f"{digits.accuracy(state):.1%}", "", "")]
        for name, write in runs:
            path = Path(folder) / f"{name.replace(' ', '-')}.l2c"
            packing, _ = _timed(lambda write=write, path=path: write(path))
            loading, decoded = _timed(lambda path=path: load_file(path))
            size = path.stat().st_size
            accuracy = f"{digits.accuracy(decoded):.1%}"
            times = (f"{packing:.2f} s", f"{loading:.2f} s")
            rows.append((name, _output.count(size), f"{original / size:.2f}", accuracy, *times))
        headings = ("weights", "bytes", "ratio", "correct digits", "pack", "load")
        _output.table(headings, rows, "<>>>>>")
        identical = sum(row.status == "identical" for row in report.diff(state, Path(folder) / "lossless.l2c"))
        found = report.inspect(Path(folder) / f"ratio-{_RATIO}.l2c")
        report.verify(Path(folder) / f"ratio-{_RATIO}.l2c")
    _output.data()
    _output.data(
        "The ratio is that of the whole file, header and tables included. Accuracy is of weights loaded from the file;"
    )
    _output.data("no training data were used. First times include compiling the kernels, which is remembered.")
    _output.data(f"Lossless: {identical} of {len(state)} tensors came back bit for bit.")
    _output.data()
    quantized = [tensor for tensor in found.tensors if tensor.kind == "weights"]
    weights = found.parts["weights"]
    _output.data(
        f"At ratio {_RATIO}, {_output.count(weights)} of {_output.count(found.file_bytes)} bytes are the symbols of "
        f"{len(quantized)} weight tensors; `l2fmt inspect` shows where the rest goes."
    )
    _output.data("Next: l2fmt pack MODEL.safetensors -o MODEL.l2c --target-ratio 8 && l2fmt inspect MODEL.l2c")


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result
