"""`compress`, and `pack` with a module and calibration data, as users call them: a network of digits, end to end."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

import l2fmt
from l2fmt.cli import main
from l2fmt.errors import InputError
from l2fmt.optimize.search import TOLERANCE

pytest.importorskip("sklearn", reason="needs the digits of scikit-learn")
from l2fmt.demo import digits

RATIO = 15
OPTIONS: dict[str, Any] = {"rounds": 1, "transform_iterations": 0, "weight_iterations": 200, "settle_iterations": 5}
SHORT = OPTIONS | {"weight_iterations": 4, "settle_iterations": 0}
NOISE = 0.006  # three pictures of the 500


@pytest.fixture(scope="module")
def network() -> digits.DigitsNet:
    net = digits.DigitsNet()
    net.load_state_dict(digits.load_state())
    return net


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return digits.split()[0][0][:512]


class Watched:
    """A module in modes that differ, with a frozen tensor, a gradient and a hook, and how it was."""

    def __init__(self, network: digits.DigitsNet) -> None:
        self.module = deepcopy(network).train()
        self.module.features[1].eval()
        self.module.classifier.bias.requires_grad_(False)
        self.module.classifier.weight.grad = torch.ones_like(self.module.classifier.weight)
        self.hook = self.module.classifier.register_forward_hook(lambda *_: None)
        self.modes = [m.training for m in self.module.modules()]
        self.tensors = {
            name: (t.data_ptr(), t.clone(), t.requires_grad)
            for name, t in self.module.state_dict(keep_vars=True).items()
        }


@pytest.fixture(scope="module")
def watched(network) -> Watched:
    return Watched(network)


@pytest.fixture(scope="module")
def result(watched, images) -> l2fmt.PackResult:
    return l2fmt.compress(watched.module, images, target_ratio=RATIO, method="l2", options=OPTIONS)


def test_the_size_is_met_and_was_expected(result, network):
    original = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    assert result.original_bytes == original and result.file_bytes == len(result.data)
    target = int(original / RATIO)
    assert target * (1 - TOLERANCE) <= result.file_bytes <= target
    assert result.estimated_bytes == pytest.approx(result.file_bytes, rel=0.01)
    assert result.notes == [] and result.quantized == 4


def test_the_network_still_works(result, network):
    trained = digits.accuracy(l2fmt.load(result.data))
    data_free = digits.accuracy(l2fmt.load(l2fmt.pack(network, target_ratio=RATIO).data or b""))
    assert trained >= data_free - NOISE
    assert trained >= digits.accuracy(network.state_dict()) - 0.05


def test_the_file_loads_everywhere(result, network, images, tmp_path: Path):
    found, state = l2fmt.load(result.data), network.state_dict()
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
    path = tmp_path / "digits.l2c"
    path.write_bytes(result.data)
    assert l2fmt.verify(path)
    assert all(torch.equal(t, found[name]) for name, t in l2fmt.load_file(path).items())
    fresh = digits.DigitsNet().eval()
    assert l2fmt.load_model(fresh, path) == ([], [])
    with torch.inference_mode():
        difference = (fresh(images) - deepcopy(network).eval()(images)).square().mean()
        assert 0 < float(difference) < 0.3 * float(fresh(images).var())


def test_the_file_says_how_it_was_made(result, images):
    with l2fmt.container.Reader(result.data) as reader:
        metadata = dict(reader.metadata)
    settings = json.loads(metadata["l2fmt.settings"])
    assert metadata["l2fmt.method"] == settings["method"] == "l2" and settings["target_ratio"] == RATIO
    assert {key: settings["options"][key] for key in OPTIONS} == OPTIONS
    assert settings["calibration"]["samples"] == len(images) and len(settings["calibration"]["sha256"]) == 64
    assert settings == json.loads(json.dumps(result.settings))
    assert set(result.phases) == {"start", "comparison", "all", "landing", "settling"}
    assert 0 < sum(result.phases.values()) <= result.seconds


def test_the_module_is_left_as_it_is(result, watched):
    net = watched.module
    for name, tensor in net.state_dict(keep_vars=True).items():
        pointer, values, needs = watched.tensors[name]
        assert tensor.data_ptr() == pointer and torch.equal(tensor, values) and tensor.requires_grad == needs
    assert [m.training for m in net.modules()] == watched.modes
    assert net.classifier.weight.grad is not None and (net.classifier.weight.grad == 1).all()
    assert net.features[0][0].weight.grad is None
    hooks = [h for m in net.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks)]
    assert hooks == [watched.hook.id]


def without_counters() -> dict[str, torch.Tensor]:
    return {name: t for name, t in digits.load_state().items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def packed_file(images, tmp_path_factory) -> Path:
    """The file that weights in a file, without counters of batches, and a module of other weights give."""
    folder, net = tmp_path_factory.mktemp("packed"), digits.DigitsNet()
    source, target = folder / "digits.safetensors", folder / "digits.l2c"
    safetensors.torch.save_file(without_counters(), source)
    before = deepcopy(net.state_dict())
    packed = l2fmt.pack(
        *(source, target), method="l2", module=net, calibration=images, target_ratio=RATIO, options=SHORT | {"seed": 3}
    )
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert target.stat().st_size == packed.file_bytes and packed.data is None
    return target


def test_weights_in_a_file_and_the_module_to_run(packed_file):
    found = l2fmt.load_file(packed_file)
    assert found.keys() == without_counters().keys() != digits.load_state().keys()
    assert digits.accuracy(found) > 0.8


def change(name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = dict(digits.load_state())
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("source", "arguments", "found"),
    [
        (digits.load_state, {}, "runs the model: give the module"),
        (digits.load_state, {"module": digits.DigitsNet()}, "needs calibration data"),
        (lambda: change("classifier.bias", None), {}, "does not fit the DigitsNet: it lacks 'classifier.bias'"),
        (lambda: change("more", torch.ones(3)), {}, "does not fit the DigitsNet: the model has no 'more'"),
        (lambda: change("classifier.bias", torch.ones(9)), {}, r"'classifier.bias' has shape \[9\] .* and \[10\] in"),
        (digits.load_state, {"calibration": torch.zeros(5, 64)}, "cannot run on the calibration data"),
        (digits.load_state, {"calibration": 3}, "no calibration data"),
        (digits.load_state, {"options": {"preset": "slow"}}, "no preset 'slow'"),
        (digits.load_state, {"options": {"speed": 3}}, "no setting 'speed'"),
        (digits.load_state, {"lossless": True, "target_ratio": None}, "lossless packing has no options"),
    ],
)
def test_what_cannot_be_used(source, arguments, found, images):
    if "module" not in arguments and "give the module" not in found:
        arguments = {"module": digits.DigitsNet(), "calibration": images} | arguments
    arguments = {"method": "l2", "target_ratio": RATIO, "options": SHORT} | arguments
    with pytest.raises(InputError, match=found):
        l2fmt.pack(source(), **arguments)


def test_bits_instead_of_the_default_ratio():
    assert l2fmt.compress(nn.Linear(64, 64), torch.randn(20, 64), bits=5, method="l2", options=SHORT).data


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["pack", *map(str, arguments)])


def test_the_command_line_gives_the_same_file(packed_file, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    safetensors.torch.save_file(without_counters(), "digits.safetensors")
    np.save("inputs.npy", images.numpy())
    command = ["digits.safetensors", "--model", "l2fmt.demo.digits:DigitsNet", "--calibration", "inputs.npy"]
    command += ["--method", "l2", "--target-ratio", RATIO, "--checkpoint", "run.pt"]
    for name, value in SHORT.items():
        command += ["--set", f"{name}={value}"]
    done = run(*command, "--seed", 3, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert RATIO <= summary["ratio"] <= RATIO * (1 + 2 * TOLERANCE)
    estimated = summary["estimated_bytes"]  # null where so short a training is undone
    assert estimated is None or estimated == pytest.approx(summary["file_bytes"], rel=0.03)
    assert Path("digits.l2c").read_bytes() == packed_file.read_bytes()
    done = run(*command, "--seed", 3, "--set", "speed=1", "--force")
    assert done.exit_code == 1 and done.stderr.startswith("error: method l2 has no setting 'speed'")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "digits.l2c",
        "digits.safetensors",
        "inputs.npy",
        "run.pt",
    ]
