"""The user's own code by name: found in the current folder, run, and its errors said in one sentence."""

import sys
from pathlib import Path

import pytest
from torch import nn

from l2fmt.errors import InputError
from l2fmt.inputs.module import build_module

CODE = """
import sys
import helper_of_net
from torch import nn

ready = nn.ReLU()
number = 5

class Nets:
    @staticmethod
    def small():
        return nn.Linear(2, 3)

def build():
    return nn.Linear(helper_of_net.WIDTH, 3)

def needs(width):
    return nn.Linear(width, 3)

def leaves():
    sys.exit(4)

def silent():
    raise RuntimeError

def no_module():
    return {}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A current folder with code in it; what it changes in the interpreter is undone."""
    (tmp_path / "user_net.py").write_text(CODE)
    (tmp_path / "helper_of_net.py").write_text("WIDTH = 7\n")
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "net.py").write_text("from torch import nn\n\n\ndef build():\n    return nn.ReLU()\n")
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "unreadable.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_functions_classes_and_modules_are_found():
    built = build_module("user_net:build")
    assert isinstance(built, nn.Linear) and built.in_features == 7
    assert isinstance(build_module("user_net:Nets.small"), nn.Linear)
    assert isinstance(build_module("user_package.net:build"), nn.ReLU)
    assert isinstance(build_module("torch.nn:Flatten"), nn.Flatten)
    assert build_module("user_net:ready") is build_module("user_net:ready")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("user_net", "names no code"),
        ("nets/user_net.py:build", "names no code"),
        (":build", "names no code"),
        ("user_net:", "names no code"),
        ("no_such_net:build", "no module no_such_net,"),
        ("user_package.absent:build", "no module user_package.absent,"),
        ("user_net:absent", "module user_net has no absent"),
        ("broken:build", "importing broken failed with ModuleNotFoundError: .*not_installed_anywhere"),
        ("unreadable:build", "importing unreadable failed with SyntaxError"),
        ("user_net:number", "user_net:number is a int"),
        ("user_net:needs", r"user_net:needs\(\) failed with TypeError: .*width"),
        ("user_net:leaves", r"user_net:leaves\(\) failed with SystemExit: 4"),
        ("user_net:silent", r"user_net:silent\(\) failed with RuntimeError$"),
        ("user_net:no_module", r"user_net:no_module\(\) gave a dict; expected an nn.Module"),
    ],
)
def test_what_is_wrong_is_said(spec: str, words: str):
    with pytest.raises(InputError, match=words):
        build_module(spec)
