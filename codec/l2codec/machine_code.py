"""Machine code of kernels: from files of an earlier process if there are any, else compiled, and then kept in files.

A file is an object file after a digest of it and of all that it depends on: the processor, the versions of what
compiles, the source. It is code that runs with the rights of the user. As with the caches of Python and of Numba, the
folder is trusted exactly as far as nobody else can write to it: it is made private, and what others own or may write
to is left alone. The digest is only to find files that are damaged, cut short or of another machine, which are never
loaded.
"""

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int32, c_int64
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from l2codec import processor

RETURNED, RETURNED_NONE = 0, 1  # what the functions of l2codec.kernels._compiler return

Entry = Callable[[bytes, c_int64], int]
"""(values of the arguments, result) -> RETURNED, RETURNED_NONE or an error."""

announcing = True
"""Whether to say on stderr, once a process, that kernels are being compiled."""

compiled: list[str] = []
"""The kernels that this process has compiled, with the types of their arguments."""

not_kept: list[str] = []
"""Why some of them could not be written to the cache after all, as on a full disk."""

_PROTOTYPE = CFUNCTYPE(c_int32, c_char_p, POINTER(c_int64))  # a call of it is made without the GIL
_KERNELS = Path(__file__).parent / "kernels"
_VARIABLES = ("NUMBA_BOUNDSCHECK", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT")
_DIGEST_BYTES = 32
_KEY_DIGITS = 16  # in the name of a folder
_UNUSED_SECONDS = 90 * 24 * 3600  # after which a folder is removed


def entry_point(module: str, name: str, argument_types: Sequence[str]) -> Entry:
    """Return the function that calls a kernel, as `l2codec.kernels._compiler.object_file` describes it.

    Raises KernelError if L2FMT_KERNEL asks for what this processor cannot run, or Numba may not compile.
    """
    return _code.entry_point(module, name, argument_types)


def cache_problem() -> str | None:
    """Return why machine code cannot be kept for later processes, None if it can; makes its folder."""
    return _cache().prepare()


def cache_folder() -> Path:
    """Return the folder in which this user's machine code is kept, whether it exists or not."""
    if chosen := os.environ.get("L2FMT_CACHE_DIR"):
        return Path(chosen)
    home = os.path.expanduser("~")
    bases = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": os.path.join(home, "Library", "Caches")}
    return Path(bases.get(sys.platform) or os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "l2fmt")


class _Code:
    """The machine code that has been loaded into this process. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._cache: Cache | None = None

    def entry_point(self, module: str, name: str, argument_types: Sequence[str]) -> Entry:
        symbol = ".".join((module, name, *argument_types))
        with self._lock:
            if symbol not in self._entries:
                self._cache = cache = self._cache or _cache()
                code = cache.read(symbol)
                if code is None:
                    code = self._compile(module, name, argument_types, symbol, cache)
                self._entries[symbol] = _load(code, symbol)
            return self._entries[symbol]

    def _compile(self, module: str, name: str, argument_types: Sequence[str], symbol: str, cache: "Cache") -> bytes:
        problem = cache.prepare()
        if announcing and not compiled and sys.stderr is not None:
            how = "once (some 10 s in all); `l2fmt warmup` does it beforehand"
            if problem:
                how = f"which cannot be kept: {problem}; L2FMT_CACHE_DIR may name another folder"
            with suppress(OSError, ValueError):  # of a stderr that has been closed
                print(f"l2fmt: compiling its kernels for this processor, {how}", file=sys.stderr, flush=True)
        compiler = import_module("l2codec.kernels._compiler")
        function = getattr(import_module(f"l2codec.kernels.{module}"), name)
        code = compiler.object_file(function, argument_types, symbol)
        compiled.append(symbol)
        if not problem:
            cache.write(symbol, code)
        return code


def _load(code: bytes, symbol: str) -> Entry:
    """Return what an object file defines."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine()
    # One engine a file, as in a shared one the names that Numba gives to inner functions could mean those of another.
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    entry: Any = _PROTOTYPE(engine.get_function_address(symbol))
    entry.engine = engine  # which owns the code
    return entry


def _cache() -> "Cache":
    sources = [path.read_bytes() for path in sorted(_KERNELS.glob("*.py"))]
    return Cache("kernels", b"\n".join([_environment().encode(), *sources]) if sources else b"")


class Cache:
    """The files for one processor and one version of the source and of what compiles it: all that `key` is made of.

    They are in a folder of their own, whose time of change is that of its last use: folders that nothing uses any
    more, as after an update, are removed when a new one is made. What another process still reads it has in memory.
    """

    def __init__(self, kind: str, key: bytes) -> None:
        self._key = key
        self._folder = cache_folder() / kind / sha256(key).hexdigest()[:_KEY_DIGITS]
        self._complete = bool(key)  # not if the package is in an archive, say
        with suppress(OSError):
            os.utime(self._folder)

    def read(self, symbol: str) -> bytes | None:
        """Return the object file that defines a symbol, None if there is none that can be trusted."""
        with suppress(OSError):
            if self._complete and _is_ours(os.stat(self._folder)):
                with open(self._path(symbol), "rb") as file:
                    content = file.read() if _is_ours(os.fstat(file.fileno())) else b""
                digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
                return code if digest == self._digest(symbol, code) else None
        return None

    def prepare(self) -> str | None:
        """Make the folder; return why nothing can be kept in it, None if it can."""
        if not self._complete:
            return "the source of the kernels is not in files"
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _remove_unused(self._folder.parent)
            if not _is_ours(os.stat(self._folder)):
                return f"others can write to {self._folder}"
        except OSError as error:
            return str(error)
        return None if os.access(self._folder, os.W_OK) else f"{self._folder} is read-only"

    def write(self, symbol: str, code: bytes) -> None:
        """Keep an object file for later processes; on a full disk, say, it is not kept."""
        path = self._path(symbol)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)  # of a process that was killed
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self._digest(symbol, code) + code)
            os.replace(temporary, path)
        except OSError as error:
            not_kept.append(str(error))
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _path(self, symbol: str) -> Path:
        return self._folder / f"{symbol}.o"

    def _digest(self, symbol: str, code: bytes) -> bytes:
        return sha256(b"%b\n%b\n%b" % (self._key, symbol.encode(), code)).digest()


def _environment() -> str:
    """Return all but the source that machine code depends on."""
    import llvmlite
    from llvmlite import binding

    numba = find_spec("numba")  # its version, without importing it
    version = Path(numba.origin).with_name("_version.py").read_text() if numba and numba.origin else ""
    variables = [f"{name}={os.environ.get(name, '')}" for name in _VARIABLES]
    host = [binding.get_process_triple(), binding.get_host_cpu_name(), *sorted(processor.features())]
    python = [sys.version, str(object.__basicsize__)]
    return "\n".join([*python, llvmlite.__version__, version, *host, *variables, processor.chosen_kernel()])


def _remove_unused(kernels: Path) -> None:
    """Remove the folders of other keys, and nothing else, that have not been used for long."""
    for folder in kernels.iterdir():
        with suppress(OSError):  # another process removes them, too
            status = folder.lstat()
            unused = time.time() - status.st_mtime > _UNUSED_SECONDS
            if unused and _is_ours(status) and re.fullmatch(f"[0-9a-f]{{{_KEY_DIGITS}}}", folder.name):
                shutil.rmtree(folder)


def _is_ours(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it; on Windows its place has to do."""
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


_code = _Code()


def _after_fork() -> None:
    global _code
    _code = _Code()  # another thread may have been in the midst of compiling; entry points that are held go on working


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
