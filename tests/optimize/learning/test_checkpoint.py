"""The file of a training run: whole, its own, and written when Ctrl-C comes."""

import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
import torch

from l2fmt.errors import FileAccessError, InputError, L2Error
from l2fmt.optimize.learning.checkpoint import Checkpoint, interruptible


def state() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {"done": 3, "weights": {"a": torch.randn(50, 40, generator=generator)}, "estimate": [1.5, 2.0], "loss": 0.25}


def test_what_was_saved_returns(tmp_path: Path):
    path = tmp_path / "run.pt"
    assert Checkpoint(str(path), "me").load() is None
    Checkpoint(str(path), "me").save({"done": 1})
    Checkpoint(str(path), "me").save(state())
    found = Checkpoint(str(path), "me").load()
    assert found is not None and found["done"] == 3 and found["estimate"] == [1.5, 2.0]
    assert torch.equal(found["weights"]["a"], state()["weights"]["a"])  # type: ignore[index]
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Checkpoint(None, "me").save(state())
    assert Checkpoint(None, "me").load() is None and not list(tmp_path.iterdir())


def test_another_run_is_refused_and_keeps_its_file(tmp_path: Path):
    path = tmp_path / "run.pt"
    Checkpoint(str(path), "me").save(state())
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"run\.pt belongs to another run \(.*\); remove it, or name another file"):
        Checkpoint(str(path), "you").load()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip" * 100, pickle.dumps({"identity": "me"})])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.pt is no checkpoint"):
        Checkpoint(str(path), "me").load()


@pytest.mark.parametrize("content", [[1], {"identity": "me"}, {"identity": "me", "state": 3}])
def test_other_files_of_torch_are_refused(tmp_path: Path, content):
    path = tmp_path / "run.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match="no checkpoint of a training run"):
        Checkpoint(str(path), "me").load()


def test_nothing_is_unpickled(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"identity": "me", "state": {"x": Bomb()}}, tmp_path / "run.pt")
    with pytest.raises(InputError, match="no checkpoint"):
        Checkpoint(str(tmp_path / "run.pt"), "me").load()
    assert not (tmp_path / "exploded").exists()


def test_a_file_cut_short_is_refused(tmp_path: Path):
    path = tmp_path / "run.pt"
    Checkpoint(str(path), "me").save(state())
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(L2Error, match=r"run\.pt"):
            Checkpoint(str(path), "me").load()


def test_a_damaged_tensor_is_refused(tmp_path: Path):
    path = tmp_path / "run.pt"
    Checkpoint(str(path), "me").save(state())
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(state()["weights"]["a"].numpy().tobytes()[:64]) + 10] ^= 1  # type: ignore[index]
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"run\.pt is damaged: the checksum of .* is wrong"):
        Checkpoint(str(path), "me").load()


def test_places_that_cannot_be_used(tmp_path: Path):
    with pytest.raises(FileAccessError, match="no folder"):
        Checkpoint(str(tmp_path / "nowhere" / "run.pt"), "me")
    with pytest.raises(FileAccessError, match="is a directory"):
        Checkpoint(str(tmp_path), "me")


def test_the_first_interrupt_sets_the_event_and_the_second_interrupts():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interruptible() as event:
        assert not event.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert event.wait(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            event.clear()
            event.wait(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_returns_after_an_error():
    with pytest.raises(ValueError), interruptible():
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_caller_stays():
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interruptible() as event:
            os.kill(os.getpid(), signal.SIGINT)
            event.wait(0.01)
            assert seen == [signal.SIGINT] and not event.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    found: list[object] = []

    def work() -> None:
        with interruptible() as event:
            found.append(event.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
