"""The networks of `benchmarks.imagenet`, from torchvision, timm or the user's own code, with their weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.accuracy.common import load_strict, read_tensors
from l2fmt.errors import InputError, MissingDependencyError, MissingFileError
from l2fmt.inputs.module import build_module, run_user_code

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin", ".tar")

# The paper's networks: library, its name for the network, and the published weights taken by default. torchvision has
# no RegNet-X of 600 MF, and no weights for the MNASNet of twice the width.
MODELS = {
    "resnet18": ("torchvision", "resnet18", "IMAGENET1K_V1"),
    "resnet50": ("torchvision", "resnet50", "IMAGENET1K_V1"),
    "mobilenetv2": ("torchvision", "mobilenet_v2", "IMAGENET1K_V1"),
    "regnetx_600m": ("timm", "regnetx_006", "pycls_in1k"),
    "regnetx_3200m": ("timm", "regnetx_032", "pycls_in1k"),
    "mnasnet": ("torchvision", "mnasnet2_0", ""),
    "vit_b_16": ("timm", "vit_base_patch16_224", "augreg2_in21k_ft_in1k"),
}


@dataclass(frozen=True)
class Network:
    """A float32 module in eval mode, the name of its weights, and the mean and deviation that its inputs have."""

    name: str
    module: nn.Module
    weights: str
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD


def build(name: str, weights: str = "", factory: str = "") -> Network:
    """Return a network of `MODELS`, or what `factory`, package.module:name, makes; with published or local weights.

    `weights` is the file of a state dict, or a name that the library knows: it may then download them. Raises
    InputError, MissingDependencyError, MissingFileError.
    """
    file = Path(weights) if weights.endswith(CHECKPOINTS) else None
    if file and not file.is_file():
        raise MissingFileError(f"the weights {weights} do not exist")
    if factory:
        if weights and not file:
            raise InputError(f"{weights!r}: the weights of a --model-factory must be a {', '.join(CHECKPOINTS)} file")
        network = Network(name, build_module(factory), "as built")
    else:
        if name not in MODELS:
            raise InputError(f"there is no model {name!r}; choose from {', '.join(MODELS)}, or give a --model-factory")
        library, known, published = MODELS[name]
        wanted = "" if file else weights or published
        if not (wanted or file):
            raise InputError(f"{library} has no weights for {name}; give a file with --weights")
        network = (_from_timm if library == "timm" else _from_torchvision)(name, known, wanted)
    if not file:
        return _ready(network, network.module.state_dict(), network.weights)
    return _ready(network, run_user_code(lambda: read_tensors(file), f"reading {file}"), file.name)


def _ready(network: Network, tensors: dict[str, Tensor], weights: str) -> Network:
    what = f"loading {weights} into {network.name}"
    module = run_user_code(lambda: load_strict(network.module, tensors, ("num_batches_tracked",)), what)
    return replace(network, module=module.requires_grad_(True), weights=weights)


def _from_torchvision(name: str, known: str, weights: str) -> Network:
    models = _library("torchvision.models", name)
    if known == "mnasnet2_0":
        make = lambda: models.MNASNet(2.0)  # noqa: E731
    else:
        make = lambda: models.get_model(known, weights=weights or None)  # noqa: E731
    return Network(name, run_user_code(make, f"torchvision's {known} with weights {weights or 'from a file'}"), weights)


def _from_timm(name: str, known: str, weights: str) -> Network:
    timm = _library("timm", name)
    full = f"{known}.{weights}" if weights else known
    module = run_user_code(lambda: timm.create_model(full, pretrained=bool(weights)), f"timm's {full}")
    return Network(name, module, weights, module.pretrained_cfg["mean"], module.pretrained_cfg["std"])


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise MissingDependencyError(f"the model {name} comes from {library}: pip install {library}") from error
