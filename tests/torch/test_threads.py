"""Loading with any number of threads: the same tensors, the same errors, no thread left, bounded work in flight."""

import _thread
import time

import numpy as np
import pytest
import torch

import l2fmt.numpy
import l2fmt.store
from l2codec.threads import run
from l2fmt.container import Reader
from l2fmt.errors import CorruptFileError, InputError
from l2fmt.torch import load, load_file, safe_open, save

THREADS = (1, 2, 3, 8)


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {f"w{i}": torch.randn(600, 700, generator=generator) for i in range(4)}
    made |= {f"v{i}": torch.randn(50, generator=generator) for i in range(9)}
    return made | {"half": made["w0"].half(), "tied": made["w1"], "count": torch.arange(40000)}


@pytest.fixture(scope="module")
def data(tensors):
    return save(tensors)


@pytest.mark.parametrize("threads", THREADS)
def test_tensors_do_not_depend_on_threads(tensors, data, threads):
    found = load(data, threads=threads)
    assert list(found) == list(load(data, threads=1))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert found["tied"] is found["w1"]
    arrays = l2fmt.numpy.load(data, threads=threads)
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in tensors.items())
    with safe_open(data, threads=threads) as file:
        assert torch.equal(file.get_tensor("w2"), tensors["w2"]) and torch.equal(file.get_tensor("v3"), tensors["v3"])
    halves = load_file(memoryview(data), dtype=torch.float16, threads=threads)  # pyright: ignore[reportArgumentType]
    assert torch.equal(halves["w3"], tensors["w3"].half())


@pytest.mark.parametrize("threads", THREADS)
def test_the_first_damaged_tensor_is_named_and_no_thread_is_left(data, threads):
    damaged = bytearray(data)
    with Reader(data) as reader:
        groups = reader.index.groups[1], reader.index.groups[3]
        for group in groups:
            damaged[group.offset + 1000] ^= 1
    before = _thread._count()
    for _ in range(5):
        with pytest.raises(CorruptFileError) as caught:
            load(bytes(damaged), threads=threads)
        assert groups[0].label in str(caught.value)
        assert ended(before)


def ended(before: int) -> bool:
    """Whether no more threads run than before; one that has done its work may take a moment to be gone."""
    for _ in range(100):
        if _thread._count() <= before:
            return True
        time.sleep(0.01)
    return False


def test_one_thread_starts_none(data, monkeypatch):
    def refuse(*_):
        raise AssertionError("a thread was started")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    load(data, threads=1)
    load(save({"small": torch.ones(100)}), threads=8)  # so little is not worth a thread


def test_threads_are_those_of_torch(data, monkeypatch):
    found = []
    monkeypatch.setattr(l2fmt.store, "run", lambda units, threads: found.append(threads) or run(units, threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    load(data)
    load(data, threads=2)
    assert found == [3, 2]
    with pytest.raises(InputError, match="at least one thread"):
        load(data, threads=0)


def unit(log, number, steps, fails=()):
    def step(at):
        time.sleep(0.001 * ((number * 7 + at * 3) % 4))
        log.append((number, at))
        if at in fails:
            raise ValueError(f"{number}.{at}")

    def begin():
        step("begin") if "begin" in fails else log.append((number, "begin"))
        return [lambda at=at: step(at) for at in range(steps)], lambda: log.append((number, "last"))

    return begin


def test_every_step_is_done_once_and_the_last_one_last():
    for threads in THREADS:
        log = []
        run((unit(log, number, number % 5) for number in range(20)), threads)
        assert sorted(map(str, log)) == sorted(
            str((number, at)) for number in range(20) for at in ["begin", *range(number % 5), "last"]
        )
        for number in range(20):
            own = [at for n, at in log if n == number]
            assert own[0] == "begin" and own[-1] == "last"
        begun = unfinished = 0
        for _, at in log:
            unfinished += (at == "begin") - (at == "last")
            begun = max(begun, unfinished)
        assert begun <= threads


@pytest.mark.parametrize("threads", THREADS)
def test_the_first_error_in_order_is_raised_and_what_precedes_it_is_done(threads):
    for _ in range(5):
        log = []
        units = [
            unit(log, 0, 3),
            unit(log, 1, 6, (3, 5)),
            unit(log, 2, 1, (0,)),
            unit(log, 3, 1),
            unit(log, 4, 2, (0,)),
        ]
        before = _thread._count()
        with pytest.raises(ValueError, match=r"1\.3"):
            run(iter(units), threads)
        assert ended(before)
        assert {(0, "last"), (1, 0), (1, 1), (1, 2)} <= set(log)


def test_an_interrupt_stops_all_threads():
    log = []

    def interrupted():
        raise KeyboardInterrupt

    units = [unit(log, 0, 2), lambda: ([interrupted] * 3, interrupted), *(unit(log, n, 5) for n in range(2, 50))]
    before = _thread._count()
    with pytest.raises(KeyboardInterrupt):
        run(iter(units), 3)
    assert ended(before) and (49, "last") not in log


def test_the_system_may_refuse_threads(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    log = []
    run([unit(log, 0, 3), unit(log, 1, 3)], 4)
    assert (1, "last") in log
