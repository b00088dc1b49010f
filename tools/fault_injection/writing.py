"""Faults while a model is written: it must be the old one or the whole new one, or its writer must have said no."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from l2fmt.errors import FileAccessError
from tools.fault_injection import injection
from tools.fault_injection.injection import REFUSED, TYPED, WRITTEN, WritingCalls, check, in_child
from tools.fault_injection.models import Model, found_at, make_model, strays

_OLD, _NEW = make_model(1, "raw"), make_model(2, "raw")  # to fit tables takes longer than to write
_MODELS = {"old": _OLD, "new": _NEW}
_CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)


class _Target:
    """A path in a folder, with the old model or with nothing before each fault."""

    def __init__(self, folder: Path, *, shards: bool):
        self.folder, self.path, self.shards = folder, folder / "model.l2c", shards

    def prepare(self, existing: bool) -> None:
        """Empty the folder and write the old model to it, if there is to be one."""
        for entry in list(self.folder.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if existing:
            _OLD.write(self.path, shards=self.shards)

    def write(self, model: Model = _NEW) -> None:
        model.write(self.path, shards=self.shards)

    def outcome(self, existing: bool, after: str) -> str:
        """Return "old" or "new", or "refused" for shards whose renaming was cut off; raise for anything else."""
        found = found_at(self.path, _MODELS)
        if not existing and found == "refused":
            return "old"  # nothing was there, and nothing is
        cut_off = found == "refused" and any(self.folder.glob(".l2fmt-*/old-*"))  # the old shards are in there
        check(found in ("old", "new") or (self.shards and cut_off), f"the target is {found}", after)
        return found

    def calls(self, existing: bool) -> int:
        """Return how many system calls writing takes."""
        self.prepare(existing)
        with WritingCalls() as calls:
            self.write()
        check(self.outcome(existing, "no fault") == "new", "the new model is there", "no fault")
        return calls.count


def kills_at_every_call(folder: Path, count: int, seed: int, *, shards: bool = False) -> Counter[str]:
    """Kill a writer before each of its system calls in turn, at most `count` of them, over a model and over nothing."""
    target, outcomes = _Target(folder, shards=shards), Counter()
    for existing in (True, False):
        for at in _some(target.calls(existing), count, seed):
            after = f"SIGKILL at call {at}"
            target.prepare(existing)

            def write(at: int = at) -> None:
                with WritingCalls(injection.killed_at(at)):
                    target.write()

            check(in_child(write) == -signal.SIGKILL, "the writer is dead", after)
            outcomes[target.outcome(existing, after)] += 1
            outcomes["strays"] += len(strays(folder))
            target.write()
            check(target.outcome(existing, after) == "new", "the next writer succeeds", after)
    return outcomes


def kills_of_shards(folder: Path, count: int, seed: int) -> Counter[str]:
    """Do the same to a model of several files: never is it a mixture of both."""
    return kills_at_every_call(folder, count, seed, shards=True)


def kills_at_any_time(folder: Path, count: int, seed: int) -> Counter[str]:
    """Kill a writer that writes without end, at random moments."""
    target, outcomes, generator = _Target(folder, shards=False), Counter(), random.Random(seed)
    target.prepare(True)

    def write() -> None:
        while True:
            target.write(_NEW)
            target.write(_OLD)

    def kill(child: int) -> None:
        time.sleep(generator.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)

    for number in range(count):
        after = f"random SIGKILL {number}"
        check(in_child(write, kill) == -signal.SIGKILL, "the writer is dead", after)
        outcomes[target.outcome(True, after)] += 1
        for stray in strays(folder):
            outcomes["strays"] += 1
            stray.unlink()
    return outcomes


def errors_at_every_call(folder: Path, count: int, seed: int, *, shards: bool = False) -> Counter[str]:
    """Let each system call of a writer fail in turn, at most `count` of them, by each of several errors."""
    target, outcomes = _Target(folder, shards=shards), Counter()
    for existing in (True, False):
        for at in _some(target.calls(existing), count, seed):
            for code in _CODES:
                after = f"{errno.errorcode[code]} at call {at}"
                target.prepare(existing)
                try:
                    with WritingCalls(injection.failing_at(at, code)):
                        target.write()
                except FileAccessError as error:
                    outcomes["typed errors"] += 1
                    check(target.path.stem in str(error), "the error names the file", after)
                found = target.outcome(existing, after)
                outcomes[found] += 1
                # Once the new model is there, what could not be deleted may stay.
                check(not strays(folder) or found == "new", f"{strays(folder)} are left", after)
    return outcomes


def errors_in_shards(folder: Path, count: int, seed: int) -> Counter[str]:
    """Do the same to a model of several files."""
    return errors_at_every_call(folder, count, seed, shards=True)


def file_size_limits(folder: Path, count: int, seed: int) -> Counter[str]:
    """Let the system refuse files beyond a random size (RLIMIT_FSIZE)."""
    target, outcomes = _Target(folder, shards=False), Counter()
    for size in _some(len(_NEW.data) + 1, count, seed):
        after = f"a limit of {size} bytes a file"
        target.prepare(True)

        def write(size: int = size) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            target.write()

        ending = in_child(write)
        check(ending == (WRITTEN if size >= len(_NEW.data) else REFUSED), f"the writer ended with {ending}", after)
        outcomes["typed errors"] += ending == REFUSED
        outcomes[target.outcome(True, after)] += 1
        check(not strays(folder), f"{strays(folder)} are left", after)
    return outcomes


def full_disk(folder: Path, count: int, seed: int) -> Counter[str]:
    """Fill a small disk of memory to a random byte before writing; needs the right to mount one, else does nothing."""
    outcomes, disk = Counter(), folder / "disk"
    disk.mkdir()
    kilobytes = 4 * len(_NEW.data) // 1024
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "l2fmt-faults", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        return outcomes
    target = _Target(disk, shards=False)
    try:
        for left in _some(3 * len(_NEW.data), count, seed):
            after = f"a disk with {left} bytes left"
            target.prepare(True)
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / "filler").write_bytes(bytes(max(free - left, 0)))
            try:
                target.write()
            except TYPED:
                outcomes["typed errors"] += 1
                check(target.outcome(True, after) == "old", "the old model is there", after)
            outcomes[target.outcome(True, after)] += 1
            check(not strays(disk), f"{strays(disk)} are left", after)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return outcomes


def _some(total: int, count: int, seed: int) -> list[int]:
    """Return at most `count` of the numbers below `total`, all of them if there are no more."""
    return sorted(random.Random(seed).sample(range(total), min(count, total)))
