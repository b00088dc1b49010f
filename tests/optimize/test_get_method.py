"""Methods by name, with settings and presets."""

import json

import pytest

from l2fmt.errors import InputError
from l2fmt.optimize import get_method
from l2fmt.optimize.base import method_names


def recorded(name: str, options: dict[str, object] | None = None) -> dict[str, object]:
    return get_method(name, options).settings


def test_methods_by_name():
    assert set(method_names()) == {"rd", "obs", "l2", "best", "pnmq", "dfq", "adaround", "rdoq"}
    for name in method_names():
        assert get_method(name).name == name
    assert get_method("l2").needs_module and not get_method("rd").needs_module
    with pytest.raises(InputError, match=r"there is no method 'l3'; the methods are rd, obs, l2, best"):
        get_method("l3")


def test_defaults():
    assert (
        recorded("l2")
        == recorded("l2", {})
        == recorded("l2", {"preset": "default"})
        == recorded("l2", {"preset": None})
    )
    assert recorded("rd") == recorded("rd", {})


def test_options_change_a_preset():
    paper, changed = recorded("l2", {"preset": "paper"}), recorded("l2", {"rounds": 2, "preset": "paper"})
    assert paper != recorded("l2") and changed == {**paper, "rounds": 2}
    options = {"preset": "fast", "seed": 7}
    get_method("l2", options)
    assert options == {"preset": "fast", "seed": 7}


@pytest.mark.parametrize("preset", ["default", "fast", "best", "paper"])
def test_what_is_recorded_makes_the_same_method(preset):
    settings = recorded("l2", {"preset": preset, "blocks": ["a", "b"]})
    assert "preset" not in settings
    assert recorded("l2", json.loads(json.dumps(settings))) == settings


def test_values_take_the_kind_of_the_default():
    settings = recorded("l2", {"weight_lr": 1, "resolution": 64, "blocks": ["a"], "augment": False})
    assert settings["weight_lr"] == 1.0 and isinstance(settings["weight_lr"], float)
    assert settings["resolution"] == 64.0 and settings["blocks"] == ("a",) and settings["augment"] is False
    assert recorded("l2", {"preset": "paper", "resolution": None})["resolution"] is None


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("l2", {"preset": "slow"}, "no preset 'slow'; its presets are .*paper"),
        ("rd", {"preset": "fast"}, "method rd has no preset 'fast'; it has no presets"),
        ("l2", {"rate": 1}, "no setting 'rate'; its settings are transform, .*seed"),
        ("rd", {"rounds": 1}, "method rd has no setting 'rounds'"),
        ("l2", {"rounds": 1.5}, "l2: rounds must be int like 5, not 1.5"),
        ("l2", {"rounds": True}, "l2: rounds must be int like 5, not True"),
        ("l2", {"rounds": "3"}, "l2: rounds must be int"),
        ("l2", {"rounds": None}, "l2: rounds must be int"),
        ("l2", {"augment": 1}, "l2: augment must be bool like True, not 1"),
        ("l2", {"weight_lr": "x"}, "l2: weight_lr must be float"),
        ("l2", {"weight_lr": float("nan")}, "l2: weight_lr must be float"),
        ("l2", {"weight_lr": float("inf")}, "l2: weight_lr must be float"),
        ("l2", {"weight_lr": None}, "l2: weight_lr must be float"),
        ("l2", {"resolution": "all"}, "l2: resolution must be a number"),
        ("l2", {"resolution": True}, "l2: resolution must be a number"),
        ("l2", {"transform": ["linear"]}, "l2: transform must be str"),
        ("l2", {"blocks": "features"}, "l2: blocks must be tuple"),
        ("l2", {"blocks": [1]}, "l2: blocks must be tuple"),
        ("l2", {"transform": "cubic"}, "l2: transform must be .*not 'cubic'"),
        ("l2", {"preset": "paper", "together": True}, "set rate_in_weights"),
        ("l2", {"weight_lr": 10**400}, "l2: weight_lr must be float"),
        ("l2", {"preset": ["fast"]}, r"no preset \['fast'\]"),
    ],
)
def test_what_is_not_allowed(method, options, words):
    with pytest.raises(InputError, match=words):
        get_method(method, options)
