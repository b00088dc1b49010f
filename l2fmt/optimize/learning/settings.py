"""The settings of method `l2`, and what is wrong with them."""

from dataclasses import dataclass, fields
from typing import Any

from l2fmt.errors import InputError
from l2fmt.optimize.learning.counter import KERNELS
from l2fmt.optimize.learning.quantizers import transform_names

RATE_WEIGHT = 0.1
"""Of the rate at first, where nothing says what it should be."""


@dataclass(frozen=True)
class Settings:
    """How `l2` trains; the defaults are the recommended settings with the length of the paper's schedule.

    Transform and rate:
        transform: joint (prune and quantize, Eq. 11), linear, log or exp.
        start: "rd" or "obs", steps and codes of that method at the target size, or "range", 256 steps over the range of
            each tensor, as published.
        kernel: of the counter: cosine, linear or triangle. resolution: range of a tensor's codes over the counter's
            relaxation, as published; None: the same `relaxation`, in symbols, for all.
        query_path: let the rate's gradient also pass through the place where the table is read.
        control: "balance" holds the rate at the target; "gate" is the published rule: full weight above the target,
            a hundredth of it below.
        rate_weight: weight of the rate, in units of the target, beside the relative squared error of the outputs;
            "balance" only begins there. None: what a bit should save at the start's distance; 0.1 where training starts
            from ranges, or has labels.
        rate_in_weights: whether the rate counts while weights are trained.

    Schedule:
        together: train transforms, weights and vectors at once, instead of in turns.
        rounds, transform_iterations, weight_iterations: so many iterations of each, so many times.
        transform_lr: of the logarithms of the parameters. weight_lr: of weights, in steps of their tensor at the start
            (with start "range": in root mean squares). vector_lr: of vectors, in medians of their magnitudes.
            cosine: let them fall to 0.
        settle_iterations: of training the vectors alone, when the codes are final; they cost no bytes.

    Data and distance:
        batch_size; augment: shift pictures by up to an eighth and mirror half of them.
        blocks: names of modules whose outputs are compared, by default found in the module tree; block_weight: of their
            mean distance beside the final output's. heads: whether the outputs of the last layers with weights count
            as final ones too, as what follows them may be of any scale. label_weight: of the cross-entropy with labels.

    The rest:
        vectors: "rounded" to a short mantissa, as the file keeps them, or "uniform", quantized with a step each.
        fold_statistics: move the statistics of batch norms into their scale and bias: running means become 0 and
            variances 1.
        reestimate_statistics: take them from the compressed model before training.
        mixed_precision: on a GPU. seed: of the order of samples and their augmentation.
    """

    transform: str = "linear"
    start: str = "rd"
    kernel: str = "cosine"
    resolution: float | None = None
    relaxation: float = 0.5
    query_path: bool = True
    control: str = "balance"
    rate_weight: float | None = None
    rate_in_weights: bool = True
    together: bool = True
    rounds: int = 5
    transform_iterations: int = 300
    weight_iterations: int = 1000
    transform_lr: float = 0.003
    weight_lr: float = 0.003
    vector_lr: float = 0.003
    cosine: bool = True
    settle_iterations: int = 0
    batch_size: int = 32
    augment: bool = True
    blocks: tuple[str, ...] = ()
    block_weight: float = 1.0
    heads: bool = True
    label_weight: float = 0.0
    vectors: str = "rounded"
    fold_statistics: bool = True
    reestimate_statistics: bool = False
    mixed_precision: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "transform": transform_names(),
            "start": ("rd", "obs", "range"),
            "kernel": tuple(KERNELS),
            "control": ("balance", "gate"),
            "vectors": ("rounded", "uniform"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"l2: {name} must be {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("rate_weight", "resolution", "relaxation", "rounds", "batch_size"):
            value = getattr(self, name)
            self._check(name, value is None or value > 0, "positive")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and field.name != "seed":
                self._check(field.name, value >= 0, "0 or more")
        if self.together and not self.rate_in_weights:
            raise InputError("l2: weights trained together with transforms always feel the rate; set rate_in_weights")

    def _check(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"l2: {name} must be {what}, not {getattr(self, name)}")

    def phases(self) -> list[tuple[str, int]]:
        """Return the phases in order, each (what is trained: "transforms", "weights" or "all", iterations)."""
        if self.together:
            return [("all", self.rounds * (self.transform_iterations + self.weight_iterations))]
        turn = [("transforms", self.transform_iterations), ("weights", self.weight_iterations)]
        return [phase for phase in turn if phase[1]] * self.rounds


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"rounds": 1, "transform_iterations": 0, "weight_iterations": 1500},
    "best": {"rounds": 10},
    # The paper's method: its schedule, rates, counter and rule; in units that don't depend on the size of the model.
    "paper": {
        "transform": "joint",
        "start": "range",
        "resolution": 64.0,
        "control": "gate",
        "rate_weight": 4.0,
        "rate_in_weights": False,
        "together": False,
        "transform_lr": 0.02,
        "weight_lr": 0.0003,
        "vector_lr": 0.0003,
        "cosine": False,
        "vectors": "uniform",
    },
}
