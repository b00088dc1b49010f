"""`l2fmt demo`."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from l2fmt.cli import _output
from l2fmt.cli._progress import Progress

_RATIOS = (20, 40)
# Some seconds of training each. Not augmented: a mirrored digit is no digit.
_L2_OPTIONS: dict[str, Any] = {"preset": "fast", "weight_iterations": 400, "augment": False}
_HEADINGS = ("weights", "bytes", "ratio", "correct digits", "data", "pack", "load")


@click.command(short_help="Pack and measure a small network.")
def demo() -> None:
    """Pack a small network that comes with this package, load it back, and measure its accuracy.

    A convolutional net for handwritten digits, packed without loss, by the method rd, which needs no data, and by l2,
    which trains on images; tested on 500 images that nothing was trained on. Takes less than a minute.
    """
    _output.data("l2fmt stores neural networks in small files that decode to the same bits")
    _output.data("everywhere. Here is one: a convolutional net for handwritten digits, and 500")
    _output.data("images it has not seen. Method l2 trains, for some seconds a file.")
    _output.data()
    from l2fmt import api, report
    from l2fmt.demo import digits
    from l2fmt.torch import load_file

    state = digits.load_state()
    net = digits.DigitsNet()
    net.load_state_dict(state)
    images, _ = digits.split()[0]
    packs: dict[str, Callable[..., api.PackResult]] = {
        "lossless": partial(api.pack, state, lossless=True),
        "default": partial(api.pack, state),
    }
    for ratio in _RATIOS:
        packs[f"rd, ratio {ratio}"] = partial(api.pack, state, target_ratio=ratio)
        packs[f"l2, ratio {ratio}"] = partial(
            api.compress, net, images, target_ratio=ratio, method="l2", options=_L2_OPTIONS
        )
    original = sum(tensor.nbytes for tensor in state.values())
    rows = [("as trained", _output.count(original), "1.00", f"{digits.accuracy(state):.1%}", "", "", "")]
    with tempfile.TemporaryDirectory(prefix="l2fmt-demo-") as folder, _one_thread():
        with Progress() as progress:
            for name, pack in packs.items():
                path = Path(folder) / f"{name}.l2c"
                result = pack(target=path, progress=lambda stage, done, name=name: progress(f"{name}: {stage}", done))
                start = time.perf_counter()
                decoded = load_file(path)
                times = (f"{result.seconds:.2f} s", f"{time.perf_counter() - start:.2f} s")
                size, accuracy = _output.count(result.file_bytes), f"{digits.accuracy(decoded):.1%}"
                samples = result.settings.get("calibration", {}).get("samples")
                data = f"{_output.count(samples)} images" if samples else "none"
                rows.append((name, size, f"{result.ratio:.2f}", accuracy, data, *times))
        _output.table(_HEADINGS, rows, "<>>>>>>")
        identical = sum(row.status == "identical" for row in report.diff(state, Path(folder) / "lossless.l2c"))
        last = Path(folder) / f"{list(packs)[-1]}.l2c"
        found = report.inspect(last)
        report.verify(last)
    _output.data()
    _output.data("The ratio is that of the whole file, header and tables included. Accuracy is of")
    _output.data("weights loaded from the file; one image is 0.2 %. Data are what packing looked")
    _output.data("at: the images of the training set, without labels; rd needs none. The first")
    _output.data("times include compiling kernels, which is remembered.")
    _output.data(f"Lossless: {identical} of {len(state)} tensors came back bit for bit.")
    _output.data()
    quantized = sum(tensor.kind == "weights" for tensor in found.tensors)
    symbols, size = _output.count(found.parts["weights"]), _output.count(found.file_bytes)
    _output.data(f"Of the {size} bytes of the last file, {symbols} are the symbols of {quantized} weight tensors;")
    _output.data("`l2fmt inspect` shows where the rest goes. Next:")
    _output.data("  l2fmt pack MODEL.safetensors -o MODEL.l2c --target-ratio 8")
    _output.data("  l2fmt inspect MODEL.l2c")
    _output.data("and with l2, add --method l2 --model PACKAGE.MODULE:FACTORY --calibration DATA.")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: the net is so small that threads spend their time waiting for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
