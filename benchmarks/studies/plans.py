"""The studies that are sweeps: which rows each measures, and which columns its table shows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.accuracy.rows import Run
from benchmarks.accuracy.sweep import CALIBRATION_COUNT, plan

RESULT = ("model", "tag", "target", "ratio", "value", "spread", "drop", "seeds", "seconds")


@dataclass(frozen=True)
class Choice:
    """What the user chose: the models, and what all rows of a study have in common; no ratios mean the study's own."""

    models: Sequence[str]
    ratios: Sequence[float] = ()
    preset: str = ""
    seeds: Sequence[int] = (0,)
    calibration_count: int = CALIBRATION_COUNT
    options: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, ratios: Iterable[float], methods: Iterable[str] = ("l2",), **changes: Any) -> list[Run]:
        """Return the rows at the ratios chosen, else at these, with settings of `plan` changed."""
        common = {"preset": self.preset, "seeds": self.seeds, "calibration_count": self.calibration_count}
        changes["options"] = {**self.options, **changes.get("options", {})}
        return plan(self.models, methods, self.ratios or ratios, **common | changes)

    def variants(
        self, ratios: Iterable[float], variants: Mapping[str, Mapping[str, Any]], method: str = "l2", **changes: Any
    ) -> list[Run]:
        """Return the rows of a method for each variant: its tag and its settings."""
        return [
            run
            for tag, options in variants.items()
            for run in self.rows(ratios, (method,), options=options, tag=tag, **changes)
        ]


@dataclass(frozen=True)
class Study:
    """A sweep that answers one question; `phases` shows each row by itself with the seconds of its phases."""

    summary: str
    runs: Callable[[Choice], list[Run]]
    columns: Sequence[str] = RESULT
    phases: bool = False


def transforms(choice: Choice) -> list[Run]:
    """Return the four transforms at 15x and 20x (L2's Table 2)."""
    return choice.variants((15, 20), {name: {"transform": name} for name in ("joint", "linear", "log", "exp")})


def kernels(choice: Choice) -> list[Run]:
    """Return three kernels at three resolutions of the counter, at 15x (L2's Table 3)."""
    settings = [(kernel, resolution) for kernel in ("cosine", "linear", "triangle") for resolution in (32, 64, 128)]
    return choice.variants((15,), {f"{k}-{r}": {"kernel": k, "resolution": r} for k, r in settings})


def calibration_size(choice: Choice) -> list[Run]:
    """Return five numbers of calibration samples at 12x (L2's supplement, Table 2)."""
    return [
        run
        for count in (256, 512, 768, 1000, 2000)
        for run in choice.rows((12,), tag=f"{count} samples", calibration_count=count)
    ]


def no_weights(choice: Choice) -> list[Run]:
    """Return l2 with and without training of weights and vectors at 10x and 15x (L2's supplement, Table 3).

    Learning rates of zero hold them for as many steps: transforms alone are trained, whether in turns or together.
    """
    return choice.variants((10, 15), {"trained": {}, "as given": {"weight_lr": 0.0, "vector_lr": 0.0}})


def improvements(choice: Choice) -> list[Run]:
    """Return l2 with each thing that differs from the publication undone by itself, at 20x; and all of them undone."""
    undone: dict[str, dict[str, Any]] = {
        "all improvements": {},
        "joint transform": {"transform": "joint"},
        "transforms and weights in turns": {"together": False, "transform_iterations": 100},
        "in turns, weights without rate": {"together": False, "transform_iterations": 100, "rate_in_weights": False},
        "start at 256 steps": {"start": "range", "transform_lr": 0.02},
        "gate for the rate": {"control": "gate", "rate_weight": 1.0},
        "relaxation by range": {"resolution": 64.0},
        "no query path": {"query_path": False},
        "statistics not folded": {"fold_statistics": False},
        "statistics re-estimated": {"reestimate_statistics": True},
        "vectors uniform": {"vectors": "uniform"},
        "final outputs only": {"block_weight": 0.0},
        "no augmentation": {"augment": False},
        "constant learning rate": {"cosine": False},
        "with labels": {"label_weight": 0.1},
        "vectors settled last": {"settle_iterations": 100},
    }
    return choice.variants((20,), undone)


def ingredients(choice: Choice) -> list[Run]:
    """Return obs from error feedback with one step for all weights, then with one thing more each time, at 15x and 20x.

    What training adds are rows of `best`, which take much longer: python -m benchmarks.accuracy.sweep --methods best.
    """
    plain: dict[str, Any] = {"step_exponent": 0.0, "rate_weight": 0.0, "passes": 0, "scales": False, "blocks": False}
    plain |= {"joint": False, "damping": 0.01, "across_rows": False, "in_order": False, "fold_statistics": False}
    plain |= {"by_importance": False, "octave_norms": False, "gradients": 1000, "paths": 1}
    added = {
        "steps by curvature": ["step_exponent"],
        "rate in rounding": ["rate_weight"],
        "scales": ["scales"],
        "outputs of blocks": ["blocks"],
        "gradients of samples": ["joint", "damping"],
        "feedback across rows": ["across_rows"],
        "layers in order": ["in_order"],
        "statistics folded": ["fold_statistics"],
        "most important first": ["by_importance"],
        "scales of norms": ["octave_norms"],
        "more gradients": ["gradients"],
        "several paths": ["paths"],
        "searched again": ["passes"],
    }
    variants = {"plain": dict(plain)}
    for tag, settings in added.items():
        for setting in settings:
            del plain[setting]
        variants[tag] = dict(plain)
    return choice.variants((15, 20), variants, "obs")


def norms(choice: Choice) -> list[Run]:
    """Return pnmq without data, tuned in five norms, from 6x to 12x (PNMQ's supplement, Table C.1)."""
    return choice.variants((6, 8, 10, 12), {f"L{m}": {"norm": m} for m in (1, 2, 4, 6, 8)}, "pnmq", calibration_count=0)


def channels(choice: Choice) -> list[Run]:
    """Return pnmq without data, with one scale a tensor and one a row, 6x to 12x (PNMQ's supplement, Table C.2)."""
    variants = {"per tensor": {}, "per channel": {"per_channel": True}}
    return choice.variants((6, 8, 10, 12), variants, "pnmq", calibration_count=0)


def rounding(choice: Choice) -> list[Run]:
    """Return pnmq without data, rounding to the nearest value and as published (its supplement, A.2), 8x to 12x."""
    variants = {name: {"rounding": name} for name in ("nearest", "published")}
    return choice.variants((8, 10, 12), variants, "pnmq", calibration_count=0)


def curve(choice: Choice) -> list[Run]:
    """Return l2 and the data-free method from 6x to 20x (L2's Figure 7)."""
    ratios = choice.ratios or range(6, 21, 2)
    bare = Choice(choice.models, ratios)
    return bare.rows(ratios, ("rd",)) + choice.rows(ratios)


def phases(choice: Choice) -> list[Run]:
    """Return one run at 12x, for the time of each of its phases."""
    return choice.rows((12,))


STUDIES = {
    "transforms": Study("transforms of weights to codes", transforms),
    "kernels": Study("kernels and resolutions of the differentiable counter", kernels),
    "calibration-size": Study("number of calibration samples", calibration_size),
    "no-weights": Study("with and without training of weights and vectors", no_weights),
    "improvements": Study("what each difference from the publication is worth", improvements),
    "ingredients": Study("what each ingredient of obs is worth", ingredients),
    "norms": Study("norms that the grids of pnmq are tuned in", norms),
    "channels": Study("grids of pnmq for tensors and for their rows", channels),
    "rounding": Study("rounding to the nearest value of pnmq's grids, and as published", rounding),
    "curve": Study("accuracy against ratio", curve, ("model", "method", *RESULT[2:])),
    "phases": Study("seconds by phase", phases, ("model", "target", "seed", "ratio", "value", "seconds"), phases=True),
}
