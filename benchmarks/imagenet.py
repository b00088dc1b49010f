"""Accuracy on ImageNet by the protocol of the L2 paper: 1,000 training pictures calibrate, the validation set scores.

    python -m benchmarks.imagenet resnet18 --data /data/imagenet --methods rd l2 --ratios 10 12 15 -o imagenet.csv

For whoever has ImageNet, as train/nXXXX/*.JPEG and val/nXXXX/*.JPEG, and torchvision or timm. Columns and resuming are
those of `benchmarks.accuracy.sweep`; the tag names the weights, how calibration pictures were cut, and how many
validation pictures were scored if not all. Full precision is scored in the same way. The paper used checkpoints that
neither library publishes: to compare with its figures, give them with --weights.

`benchmarks/imagenet_pictures.py` says how pictures are cut. The paper's code cuts a calibration picture anew whenever
it draws it; here each has one cut, so that calibration data are a fixed set. A run's seed chooses the pictures, too.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import l2fmt
from benchmarks.accuracy.__main__ import positive
from benchmarks.accuracy.common import percent, top_k_hits
from benchmarks.accuracy.rows import FIELDS, Row, Run, append, claim, key_of, read_rows, read_setting
from benchmarks.accuracy.sweep import CALIBRATION_COUNT, calibrates, guarded, plan, weights_ratio
from benchmarks.environment import environment
from benchmarks.imagenet_models import MODELS, Network, build
from benchmarks.imagenet_pictures import batches, central_view, choose, list_pictures, random_view, spread
from l2fmt.errors import InputError, L2Error
from l2fmt.inputs.module import run_user_code
from l2fmt.optimize import method_names

PROGRESS_SECONDS = 5.0


class Benchmark:
    """A network, the pictures under `data`, and how they are used: what rows have in common.

    Args:
        augment: cut calibration pictures at random, as for training, instead of centrally.
        limit: score so many validation pictures at even distances instead of all.
    """

    def __init__(
        self,
        network: Network,
        data: Path,
        *,
        augment: bool = True,
        limit: int | None = None,
        device: str = "cpu",
        batch: int = 64,
        workers: int = 2,
    ) -> None:
        module = run_user_code(lambda: network.module.to(device), f"moving {network.name} to {device}")
        self.network = replace(network, module=module)
        self._data, self._augment, self._limit, self._device = data, augment, limit, device
        self._loading = {"size": batch, "workers": workers}
        self._full: float | None = None
        self.calibration = lru_cache(maxsize=1)(self._calibration)  # kept for the ratios that follow

    def tag(self, method: str) -> str:
        """Say what the rows of a method depend on besides their settings."""
        return self._tag(calibrates(method))

    def _tag(self, calibrated: bool) -> str:
        cut = ["random cuts" if self._augment else "central cuts"] if calibrated else []
        return ", ".join([self.network.weights, *cut, *([f"{self._limit} scored"] if self._limit else [])])

    def _calibration(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs float32 [count, 3, 224, 224] and classes int64 [count] of training pictures."""
        chosen = choose(list_pictures(self._data / "train"), count, seed)
        view = random_view if self._augment else central_view
        loaded = batches(chosen, view, self.network.mean, self.network.std, seed=seed, **self._loading)
        inputs, labels = zip(*loaded, strict=True)
        return torch.cat(inputs), torch.cat(labels)

    def top1(self, module: nn.Module, what: str) -> float:
        """Return the percentage of validation pictures whose class a module puts first; progress goes to stderr."""
        pictures = spread(list_pictures(self._data / "val"), self._limit)
        hits = done = 0
        said = time.monotonic()
        loaded = batches(pictures, central_view, self.network.mean, self.network.std, **self._loading)
        for inputs, labels in loaded:
            with torch.inference_mode():
                logits = run_user_code(lambda x=inputs: module(x.to(self._device)).float().cpu(), f"running {what}")
            if labels.max() >= logits.shape[1]:
                raise InputError(f"{self._data}/val has class {labels.max()}; {what} knows {logits.shape[1]} classes")
            hits += top_k_hits(logits, labels.numpy(), (1,))[0]
            done += len(labels)
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                print(f"{what}: {100 * done // len(pictures)} % scored", file=sys.stderr)
        return percent(hits, len(pictures))

    def measure(self, run: Run, rows: Sequence[Row], keep: Path | None = None) -> Row:
        """Pack, verify, load and score one row; a method's L2Error becomes a row with a note and no value.

        `rows` are those there are; with `keep`, the file stays in that folder. Raises InputError, MissingFileError.
        """
        made_with = environment()
        given: dict[str, Any] = {"target_ratio": run.ratio, "method": run.method}
        given |= {"options": run.settings} if run.settings else {}
        if calibrates(run.method) and run.calibration_count:  # the module itself is the source
            given["calibration"] = self.calibration(run.calibration_count, run.seed or 0)
        full = self.full_precision(rows)
        row = dict.fromkeys(FIELDS, "") | run.key
        row |= {"metric": "top1", "full_precision": f"{full:.2f}", "commit": str(made_with["commit"])}
        row |= {"machine": f"{made_with['processor']}, {made_with['cores']} cores, {self._device}"}
        row |= {"threads": str(torch.get_num_threads())}
        decoded = deepcopy(self.network.module)
        with tempfile.TemporaryDirectory() as temporary:
            path = (keep or Path(temporary)) / run.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                result = l2fmt.pack(self.network.module, path, overwrite=True, **given)
                l2fmt.verify(path)
                l2fmt.load_model(decoded, path)
                inspection = l2fmt.inspect(path, sparsity=False)
            except L2Error as error:
                return row | {"note": " ".join(str(error).split())}
        value = self.top1(decoded, f"{run.model} at {result.ratio:.2f}x")
        phases = {name: round(seconds, 2) for name, seconds in result.phases.items()}
        return row | {
            "ratio": f"{result.ratio:.3f}",
            "weights_ratio": f"{weights_ratio(inspection):.3f}",
            "file_bytes": str(result.file_bytes),
            "estimated_bytes": str(result.estimated_bytes or ""),
            "value": f"{value:.2f}",
            "drop": f"{full - value:.2f}",
            "seconds": f"{result.seconds:.1f}",
            "phases": json.dumps(phases) if phases else "",
        }

    def full_precision(self, rows: Sequence[Row]) -> float:
        """Return the accuracy of the weights as given: what one of the rows says of these weights, else measured."""
        name, tags = self.network.name, (self._tag(False), self._tag(True))
        known = (float(row["full_precision"]) for row in rows if row["model"] == name and row["tag"] in tags)
        if self._full is None and (found := next(known, None)) is not None:
            self._full = found
        if self._full is None:
            self._full = self.top1(self.network.module, f"{name} in full precision")
            print(f"{name}, {tags[0]}: top1 {self._full:.2f} in full precision", file=sys.stderr)
        return self._full


def sweep(benchmark: Benchmark, runs: Sequence[Run], output: Path, keep: Path | None = None) -> None:
    """Measure the rows that `output` has not, one at a time; a row that another process is at is left to it."""
    for number, run in enumerate(runs, 1):
        with claim(output, run) as free:
            rows = read_rows(output)
            if not free or key_of(run.key) in map(key_of, rows):
                continue
            row = benchmark.measure(run, rows, keep)
            append(output, row)
        result = row["note"] or f"{row['ratio']}x, top1 {row['value']} ({-float(row['drop']):+.2f}), {row['seconds']} s"
        print(f"[{number}/{len(runs)}] {run.model}, {run.method}: {result}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imagenet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help=f"{', '.join(MODELS)}; with --model-factory any name")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="with train and val")
    parser.add_argument("--weights", default="", metavar="NAME|FILE", help="the library's name, or a state dict")
    parser.add_argument("--model-factory", default="", metavar="MODULE:FACTORY", help="code that builds the network")
    parser.add_argument("--methods", nargs="+", default=["rd"], choices=method_names(), metavar="METHOD")
    parser.add_argument("--ratios", nargs="+", type=float, required=True, metavar="RATIO", help="of whole files")
    parser.add_argument("--preset", default="", help="of methods that train (default: the method's own)")
    parser.add_argument("--set", nargs="+", type=read_setting, default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of methods that train")
    parser.add_argument(
        "--calibration-count", type=int, default=CALIBRATION_COUNT, metavar="N", help="training pictures"
    )
    parser.add_argument("--no-augment", action="store_true", help="cut calibration pictures as those for scores")
    parser.add_argument("--limit", type=positive, metavar="N", help="score N validation pictures (default: all)")
    parser.add_argument("--device", default="cpu", help="where the network runs, such as cuda")
    parser.add_argument("--batch", type=positive, default=64, metavar="N", help="pictures scored at once (default: 64)")
    parser.add_argument("--workers", type=positive, default=4, metavar="N", help="threads that read (default: 4)")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="processor threads (default: 2)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the packed files there")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.csv")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)

    def work() -> None:
        if min(given.ratios) <= 0:
            raise InputError(f"a ratio must be positive, not {min(given.ratios):g}")
        benchmark = Benchmark(
            build(given.model, given.weights, given.model_factory),
            given.data,
            augment=not given.no_augment,
            limit=given.limit,
            device=given.device,
            batch=given.batch,
            workers=given.workers,
        )
        runs = [
            run
            for method in given.methods
            for run in plan(
                [given.model],
                [method],
                given.ratios,
                preset=given.preset,
                options=dict(given.set) if calibrates(method) else {},
                tag=benchmark.tag(method),
                seeds=given.seeds,
                calibration_count=given.calibration_count,
            )
        ]
        sweep(benchmark, runs, given.output, given.keep)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
