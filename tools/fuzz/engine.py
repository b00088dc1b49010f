"""Fuzz one target with atheris: python -m tools.fuzz.engine TARGET FOLDER SECONDS (started by the campaign).

Ends when the time is up, or before, when memory runs short: atheris keeps some of every input.

What an input did is told by errors that are not promised, which are written to FOLDER/finds and do not end the run, and
by the end of this process: `Journal` then has the input that was being run.
"""

import faulthandler
import hashlib
import mmap
import os
import random
import re
import resource
import signal
import struct
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 13  # of an input
_CPU_SECONDS = 20  # for an input; both decoders take a hundredth of that
_MORE_MEMORY = 512 << 20  # of address space, beyond what there is after the seeds have been run
_OFTEN = 256  # inputs, after which memory is looked at
_HEAD = struct.Struct("<QQQ")


class Journal:
    """Counts of inputs run and accepted, and the input being run, in a file that outlives the process."""

    def __init__(self, path: Path):
        size = _HEAD.size + MOST_BYTES
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def begin(self, data: bytes) -> None:
        """Note an input that is about to be run."""
        run, accepted, _ = _HEAD.unpack_from(self._map)
        self._map[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._map, 0, run + 1, accepted, len(data))

    def end(self, accepted: bool) -> None:
        """Note that it has been run."""
        run, before, _ = _HEAD.unpack_from(self._map)
        _HEAD.pack_into(self._map, 0, run, before + accepted, 0)

    def read(self) -> tuple[int, int, bytes]:
        """Return how many inputs were run and accepted, and the one that was not run to its end."""
        run, accepted, length = _HEAD.unpack_from(self._map)
        return run, accepted, self._map[_HEAD.size : _HEAD.size + length]


def main() -> None:
    """Fuzz until the time is up."""
    atheris: Any = import_module("atheris")  # which only a fuzzing environment has

    with atheris.instrument_imports(include=["l2fmt", "l2codec"], exclude=["l2codec.kernels"]):
        from tools.fuzz.oracle import small_machine
        from tools.fuzz.targets import TARGETS

    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    count = allowed = 0
    target, journal = TARGETS[name], Journal(folder / f"{name}.journal")
    corpus = folder / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        if len(seed) <= MOST_BYTES:
            (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)

    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % _OFTEN == 0 and _address_space() > allowed - _MORE_MEMORY // 2:
            os._exit(0)  # everything is in files; an exception would count as a find
        journal.begin(data)
        signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
        accepted = False
        try:
            accepted = target.run(data)
        except Exception as error:
            keep(folder, name, data, error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        journal.end(accepted)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        try:
            changed = target.mutate(data, random.Random(seed))
        except Exception as error:  # a defect of the mutation, which must not go unseen either
            keep(folder, name, data, error)
            return data
        return changed if len(changed) <= most else data

    with small_machine():
        for seed in target.seeds[:50]:
            target.run(seed)  # loads what loads with use
        allowed = _address_space() + _MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        faulthandler.enable()
        faulthandler.register(signal.SIGPROF, chain=True)  # says where, and lets the signal end the process
        others = [f"-handle_{signal_name}=0" for signal_name in ("segv", "bus", "abrt", "ill", "fpe", "int", "term")]
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={MOST_BYTES}",
            "-len_control=0",
            "-mutate_depth=2",
            "-timeout=1000000",
            *others,
        ]
        options += [f"-artifact_prefix={folder}/", "-rss_limit_mb=0", "-print_final_stats=1", str(corpus)]
        atheris.Setup([sys.argv[0], *options], run, custom_mutator=mutate)
        atheris.Fuzz()


def _address_space() -> int:
    """Return the bytes of address space that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def keep(folder: Path, target: str, data: bytes, error: Exception) -> None:
    """Write the first input that led to an error to the folder `finds`, with what is known of the error."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = re.sub(r"\d+", "", f"{type(error).__name__} {place.filename} {place.name} {error}")[:200]
    keep_as(folder, target, what, data, "".join(traceback.format_exception(error)))


def keep_as(folder: Path, target: str, what: str, data: bytes, text: str) -> None:
    """Write an input and a text to the folder `finds`, unless there is one for the same thing."""
    path = folder / "finds" / target / hashlib.sha1(what.encode()).hexdigest()[:8]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
