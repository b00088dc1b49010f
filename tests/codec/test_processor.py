"""The choice of a form of the rANS decoder: by the processor's features, or by L2FMT_KERNEL."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

import pytest

from l2codec import KernelError, processor
from l2codec.processor import FORMS, chosen_kernel, why


@pytest.fixture(autouse=True)
def nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (processor.VARIABLE, *processor.NUMBA_TARGET):
        monkeypatch.delenv(name, raising=False)


def has(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(features))


def test_the_quickest_form_that_the_processor_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for form, needed in FORMS.items():
        has(monkeypatch, *needed)
        assert chosen_kernel() == form


def test_one_feature_less_is_a_slower_form(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, *(FORMS["avx512"] - {"avx512vl"}))
    assert chosen_kernel() == "avx2"
    assert why() == "avx512 would need avx512vl"
    has(monkeypatch, "neon")
    assert chosen_kernel() == "plain"
    assert "avx2 would need avx2, popcnt" in why()


def test_why_the_quickest() -> None:
    assert isinstance(why(), str)
    assert chosen_kernel() in FORMS


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_asked_for(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    has(monkeypatch, *FORMS["avx512"])
    monkeypatch.setenv("L2FMT_KERNEL", form)
    assert chosen_kernel() == form
    assert why() == "L2FMT_KERNEL asks for it"


@pytest.mark.parametrize(("asked", "reason"), [("sse", "does not exist"), ("avx512", "needs avx512bw, avx512dq")])
def test_a_form_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, asked: str, reason: str) -> None:
    has(monkeypatch, *FORMS["avx2"])
    monkeypatch.setenv("L2FMT_KERNEL", asked)
    with pytest.raises(KernelError, match=f"'{asked}', which {reason}.*; allowed here: avx2, plain$"):
        chosen_kernel()


@pytest.mark.parametrize("variable", processor.NUMBA_TARGET)
def test_no_vectors_where_numba_is_told_its_target(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    has(monkeypatch, *FORMS["avx512"])
    monkeypatch.setenv(variable, "0")
    assert chosen_kernel() == "plain"
    assert why() == f"{variable} is set"


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_is_of_the_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    if processor.missing(form):
        pytest.skip(f"{form} needs {', '.join(processor.missing(form))}")
    monkeypatch.setenv("L2FMT_KERNEL", form)
    spec: Any = find_spec("l2codec.kernels.rans_decode")
    chosen = module_from_spec(spec)  # another one than other tests use
    spec.loader.exec_module(chosen)
    module = import_module("l2codec.kernels.rans_plain" if form == "plain" else "l2codec.kernels.vector_decode")
    assert chosen.rans_decode is getattr(module, f"rans_decode_{form}")
    assert chosen.rans_decode_four is getattr(module, f"rans_decode_four_{form}")


def test_an_unknown_form_is_an_error_when_it_is_used_not_before() -> None:
    script = """
import numpy as np, l2codec
tables = l2codec.TableSet([l2codec.FrequencyTable([256], 8)])
print("imported")
l2codec.decode("rans", bytes(3) + bytes([1]) * 5, 4, tables)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "L2FMT_KERNEL": "fast"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "imported\n"
    assert "l2codec.errors.KernelError: L2FMT_KERNEL is 'fast', which does not exist; allowed here: " in done.stderr
