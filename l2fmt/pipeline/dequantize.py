"""The words that symbols stand for, as the codec takes them (spec/transforms.md)."""

import numpy as np

from l2codec import TableSet, Values
from l2fmt.container.entries import Group
from l2fmt.errors import CorruptFileError
from l2fmt.transforms import Codebook, from_float32, from_parameters


def field_values(group: Group, words: np.ndarray) -> list[Values]:
    """Return the values of the streams of transform `bits`: the first sets `words`, the others add their bits."""
    shift, *widths = group.parameters
    result = []
    for width in widths:
        result.append(Values(words, shift, join=bool(result)))
        shift += width
    return result


def quantized_values(
    group: Group,
    alphabet: int,
    tables: TableSet | None,
    row_scale: np.ndarray | None,
    column_scale: np.ndarray | None,
    words: np.ndarray,
) -> Values:
    """Return the values of the one stream of a quantized group; `tables` are None for coder `raw`.

    Raises CorruptFileError for values that the specification refuses.
    """
    codebook = _codebook(group, alphabet, tables)
    valid = np.isfinite(codebook) if tables is None else None
    if row_scale is None and column_scale is None:
        return Values(words, from_float32(codebook, group.dtype).view(words.dtype), valid=valid)
    shape = (group.layout.rows, group.layout.columns, group.layout.positions)
    return Values(words, codebook, row_scale, column_scale, shape, bfloat16=group.dtype.name == "BF16", valid=valid)


def _codebook(group: Group, alphabet: int, tables: TableSet | None) -> np.ndarray:
    """Return the float32 value of every symbol the stream can hold; those that no table codes may be anything."""
    if tables is None and not group.symbols:
        return np.empty(0, np.float32)  # a codebook may then be empty
    transform, offset = from_parameters(group.transform, group.parameters)
    if isinstance(transform, Codebook):
        values = transform.table
    else:
        with np.errstate(over="ignore"):
            values = transform.values(np.arange(alphabet) - offset)
    if tables is not None and not np.isfinite(values[tables.used]).all():
        raise CorruptFileError(f"{group.label}: its codebook has a value that is not finite")
    return values
