"""benchmarks/bench_gpu.py, whose cases run here at tiny sizes on the simulated device."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import bench_gpu, gpu_files, gpu_machine
from l2fmt.cuda import DeviceStore, Place
from l2fmt.memory import TorchFramework
from tests.cuda.device import ShimDevice


class Simulated:
    """The simulated device as one to be measured, and the clock on the wall."""

    device = torch.device("cpu")

    def __init__(self):
        self._codec = ShimDevice()

    def open(self):
        return self._codec

    def milliseconds(self, function):
        start = time.perf_counter()
        function()
        self._codec.wait()
        return 1e3 * (time.perf_counter() - start) + 1e-9

    def synchronize(self):
        self._codec.wait()

    def load(self, path: Path):
        with DeviceStore(path, TorchFramework(), Place(self.device, self.open)) as store:
            return store.get_all()


def test_every_case(monkeypatch):
    monkeypatch.setattr(gpu_machine, "CACHE_BYTES", 4096)
    monkeypatch.setattr(bench_gpu, "OVERHEAD", 0.4)
    monkeypatch.setattr(gpu_files, "INTERVAL", 8)
    monkeypatch.setattr(gpu_machine, "WARM_SECONDS", 0)
    sizes = {"small": [1000], "several": [700, 4096, 9], "long": [3 * 4096]}
    models: Mapping[str, list[tuple[int, ...]]] = {"model": [(20, 30), (40, 20, 3, 3)]}
    rows = json.loads(json.dumps(list(bench_gpu.measure(Simulated(), sizes, [4], models, 2, 4096, 1600, 1 << 16))))
    assert rows.pop(0)["case"] == "copy"
    assert [(row.get("size"), row["case"], row.get("to", row.get("file"))) for row in rows] == [
        *(("small", "decode", "u8"), ("small", "decode", "bf16"), ("small", "encode", None)),
        *(("several", "decode", "u8"), ("several", "decode", "bf16")),
        *(("long", "decode", "u8"), ("long", "decode", "bf16"), ("long", "encode", None)),
        *(("0.0016 M, class map", "decode", "u8"), ("0.0016 M, class map", "decode", "bf16")),
        ("0.0016 M, class map", "encode", None),
        *((None, "kernels", file) for file in ("l2c", "points.l2c")),
        *((None, "load", file) for file in ("l2c", "points.l2c", "pt", "safetensors")),
    ]
    assert all(row["ms"] > 0 and (row["case"] == "load" or row["share"] > 0) for row in rows)


def test_results_are_kept_as_they_come(monkeypatch, tmp_path, capsys):
    def measure(*arguments):
        yield {"case": "copy", "GB/s": 1.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_gpu, "Gpu", lambda: SimpleNamespace(name="none"))
    monkeypatch.setattr(bench_gpu, "measure", measure)
    monkeypatch.setattr("sys.argv", ["bench_gpu", "-o", str(tmp_path / "new" / "gpu.json")])
    with pytest.raises(KeyboardInterrupt):
        bench_gpu.main()
    written = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert written["results"] == [{"case": "copy", "GB/s": 1.0}] and written["environment"]["commit"]
    assert capsys.readouterr().out == "case copy, GB/s 1\n"


def test_a_wrong_result_is_noticed(monkeypatch):
    monkeypatch.setattr(gpu_machine, "CACHE_BYTES", 1)
    monkeypatch.setattr(bench_gpu.Symbols, "equals", lambda *arguments: False)
    with pytest.raises(AssertionError, match="other values"):
        list(bench_gpu.measure(Simulated(), {"small": [1000]}, [4], {}, 1, 4096, 1600, 1 << 10))


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench_gpu"])
    assert bench_gpu.main() == 2
    assert "no CUDA device" in capsys.readouterr().err
