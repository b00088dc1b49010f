"""Every error this package raises on purpose: one tree under `L2Error`, each kind also the built-in a caller would
expect.

The `code` of a format error is the stable name that conformance vectors use (spec/security.md).
"""


class L2Error(Exception):
    """Base of every error raised by l2fmt; `exit_code` is what the command line returns for it."""

    code = "error"
    exit_code = 1


class FormatError(L2Error, ValueError):
    """The bytes of a file cannot be accepted."""

    code = "format"
    exit_code = 3


class CorruptFileError(FormatError):
    """The file violates the format: a wrong checksum, a truncation, an inconsistent structure."""

    code = "corrupt"


class LimitExceededError(FormatError):
    """The file claims more of a resource than `Limits` allows.

    `limit`: the field of `Limits` that refused it.
    """

    code = "limit"

    def __init__(self, message: str, limit: str | None = None):
        super().__init__(message)
        self.limit = limit


class UnsupportedError(FormatError):
    """A well-formed file that needs a newer reader, an unknown feature or a missing capability."""

    code = "unsupported"
    exit_code = 4


class InputError(L2Error, ValueError):
    """A model, tensor or option given by the caller cannot be used."""

    code = "input"


class TargetError(InputError):
    """The requested size, bits or error cannot be reached; the message says what can.

    `reachable`: the nearest size in bytes that can, if a size was asked for.
    """

    code = "target"

    def __init__(self, message: str, reachable: int | None = None):
        super().__init__(message)
        self.reachable = reachable


class MissingTensorError(L2Error, KeyError):
    """No tensor of that name is in the file."""

    code = "missing-tensor"

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(L2Error, ImportError):
    """An optional package is needed for this call."""

    code = "missing-dependency"


class FileAccessError(L2Error, OSError):
    """The operating system refused to read or write a path."""

    code = "file-access"


class MissingFileError(FileAccessError, FileNotFoundError):
    """A path does not exist."""

    code = "missing-file"


class TargetExistsError(FileAccessError, FileExistsError):
    """The output exists and overwriting was not asked for."""

    code = "target-exists"
