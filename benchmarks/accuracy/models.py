"""The registry of models with real weights and data: where each is, how it is scored, and its full-precision score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from . import data, minilm, mobilenet, resnet_cifar, yolov5


class Evaluate(Protocol):
    """Score tensors over the test data, or over a fixed, spread subset of `limit` items; the primary metric first."""

    def __call__(self, tensors: Mapping[str, Tensor], limit: int | None = None) -> dict[str, float]: ...


@dataclass(frozen=True)
class EvalModel:
    """One model that can be scored from its plain tensors.

    Args:
        primary: the metric that comparisons quote, a key of `full_precision` and of what `evaluate` returns.
        full_precision: what the checkpoint as published scores, in percent or x100.
        checkpoint: returns the path of the .safetensors file; raises DataNotFoundError where it is absent.
        build: returns the float32 module in eval mode with the given tensors, for methods that calibrate.
        evaluate: scores tensors of any float dtype; raises RuntimeError for a missing, unknown or misshapen tensor.
    """

    name: str
    primary: str
    full_precision: dict[str, float]
    checkpoint: Callable[[], Path]
    build: Callable[[Mapping[str, Tensor]], nn.Module]
    evaluate: Evaluate


def _resnet(depth: int, top1: float) -> EvalModel:
    return EvalModel(
        name=f"resnet{depth}",
        primary="top1",
        full_precision={"top1": top1},
        checkpoint=lambda: data.data_file(f"cifar10/resnet{depth}.safetensors"),
        build=resnet_cifar.build,
        evaluate=resnet_cifar.evaluate,
    )


def _all_models() -> list[EvalModel]:
    return [
        _resnet(20, 91.73),
        _resnet(32, 92.63),
        _resnet(56, 93.39),
        EvalModel(
            name="mobilenetv1_075",
            primary="top1",
            full_precision={"top1": 83.2, "top5": 95.7},
            checkpoint=lambda: data.data_file("imagenet/mobilenetv1_075.safetensors"),
            build=mobilenet.build,
            evaluate=mobilenet.evaluate,
        ),
        EvalModel(
            name="yolov5n",
            primary="map50_95",
            full_precision={"map50_95": 34.4, "map50": 53.0},
            checkpoint=lambda: data.data_file("coco/yolov5n.safetensors"),
            build=yolov5.build_compared,
            evaluate=yolov5.evaluate,
        ),
        EvalModel(
            name="minilm",
            primary="spearman",
            full_precision={"spearman": 82.03, "spearman_dev": 86.72},
            checkpoint=lambda: minilm.model_folder() / "model.safetensors",
            build=minilm.build,
            evaluate=minilm.evaluate,
        ),
    ]


MODELS: dict[str, EvalModel] = {model.name: model for model in _all_models()}
