"""The coders by id and name (spec/registry.toml, `coders`): the one place that connects them with their modules."""

from l2codec.errors import UnknownCoderError

CODERS = {"raw": 0, "rans": 1, "range": 2, "huffman": 3}
_NAMES = {number: name for name, number in CODERS.items()}


def available_coders() -> tuple[str, ...]:
    """Return the names of all coders."""
    return tuple(CODERS)


def coder_name(coder: str | int) -> str:
    """Return the name of a coder given by name or id; raises UnknownCoderError."""
    name = _NAMES.get(coder) if isinstance(coder, int) else coder
    if name not in CODERS:
        known = ", ".join(f"{name} ({number})" for name, number in CODERS.items())
        raise UnknownCoderError(f"there is no coder {coder!r}; the coders are {known}")
    return name
