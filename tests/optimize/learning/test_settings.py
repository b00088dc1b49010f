"""The settings of the method: what they allow, the phases they make, and the presets."""

from dataclasses import fields

import pytest

from l2fmt.errors import InputError
from l2fmt.optimize.learning.settings import PRESETS, Settings


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings(name):
    made = Settings(**PRESETS[name])
    assert sum(count for _, count in made.phases()) > 0


def test_the_default_preset_is_the_default():
    assert Settings(**PRESETS["default"]) == Settings()


def test_the_preset_of_the_paper():
    paper = Settings(**PRESETS["paper"])
    assert (paper.transform, paper.kernel, paper.resolution) == ("joint", "cosine", 64)
    assert (paper.rounds, paper.transform_iterations, paper.weight_iterations, paper.batch_size) == (5, 300, 1000, 32)
    assert paper.phases() == [("transforms", 300), ("weights", 1000)] * 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transform": "cubic"}, "transform must be linear, joint, log, exp, not 'cubic'"),
        ({"start": "zero"}, "start must be rd, obs, range"),
        ({"kernel": "box"}, "kernel must be cosine, linear, triangle"),
        ({"control": "pid"}, "control must be balance, gate"),
        ({"vectors": "exact"}, "vectors must be rounded, uniform"),
        ({"rounds": 0}, "rounds must be positive, not 0"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"relaxation": 0.0}, "relaxation must be positive"),
        ({"rate_weight": -1.0}, "rate_weight must be positive"),
        ({"resolution": 0.0}, "resolution must be positive"),
        ({"weight_iterations": -1}, "weight_iterations must be 0 or more"),
        ({"weight_lr": -0.1}, "weight_lr must be 0 or more"),
        ({"label_weight": -0.1}, "label_weight must be 0 or more"),
        ({"settle_iterations": -1}, "settle_iterations must be 0 or more"),
        ({"rate_in_weights": False}, "set rate_in_weights"),
    ],
)
def test_what_is_not_allowed(change, words):
    with pytest.raises(InputError, match=f"^l2: .*{words}"):
        Settings(**change)


def test_phases():
    together = Settings(rounds=2, transform_iterations=3, weight_iterations=4)
    assert together.phases() == [("all", 14)]
    turns = Settings(together=False, rounds=2, transform_iterations=3, weight_iterations=4)
    assert turns.phases() == [("transforms", 3), ("weights", 4)] * 2
    weights = Settings(together=False, rounds=2, transform_iterations=0, weight_iterations=4)
    assert weights.phases() == [("weights", 4)] * 2


def test_every_setting_is_explained():
    explained = Settings.__doc__ or ""
    assert not [field.name for field in fields(Settings) if field.name not in explained]
