"""The serialised form of table sets (spec/entropy-coding.md 2.1): a string of bits, least significant bit first."""

from collections.abc import Sequence

import numpy as np

from l2codec.errors import CorruptStreamError


def centre_out(alphabet: int, origin: int) -> np.ndarray:
    """Return all symbols in the order origin, origin + 1, origin - 1, ..., int64[alphabet]."""
    distance = np.arange(1, alphabet)
    both = np.stack([origin + distance, origin - distance], axis=1).ravel()
    return np.concatenate([[origin], both[(both >= 0) & (both < alphabet)]])


def write_counts(counts: Sequence[Sequence[int]], origin: int) -> bytes:
    """Serialise counts, one sequence a table."""
    order = centre_out(len(counts[0]), origin).tolist()
    bits = []
    for table in counts:
        remaining, at = sum(table), 0
        while remaining:
            count = table[order[at]]
            bits.append(_low_bit_first(count, remaining.bit_length()))
            remaining -= count
            at += 1
            if count == 0:
                run = 0
                while table[order[at]] == 0:
                    run, at = run + 1, at + 1
                width = (run + 1).bit_length() - 1
                bits.append("0" * width + "1" + _low_bit_first(run + 1, width))
    text = "".join(bits)
    return int(text[::-1], 2).to_bytes((len(text) + 7) // 8, "little")


def read_counts(data: bytes, n_tables: int, alphabet: int, probability_bits: int, origin: int) -> np.ndarray:
    """Parse counts, uint16[n_tables, alphabet]; every count and every run takes at least one bit of `data`.

    In Python, because looking at a file loads no kernels.
    """
    order = centre_out(alphabet, origin)
    result = np.zeros((n_tables, alphabet), np.uint16)
    size, position = 8 * len(data), 0  # in bits
    for number, table in enumerate(result):
        visited, found = [], []
        remaining, at = 1 << probability_bits, 0
        after_run = False
        while remaining:
            if at >= alphabet:
                raise CorruptStreamError(f"table {number}: {remaining} counts remain after the last symbol")
            # At least 57 bits, more than a count of 15 and a run of 33 take; beyond the end they are 0.
            window = int.from_bytes(data[position >> 3 : (position >> 3) + 8], "little") >> (position & 7)
            width = remaining.bit_length()
            count = window & ((1 << width) - 1)
            position += width
            if count > remaining:
                raise CorruptStreamError(f"table {number}: a count of {count} exceeds the {remaining} that remain")
            if count == 0 and after_run:
                raise CorruptStreamError(f"table {number}: a run of zero counts is not maximal")
            after_run = count == 0
            remaining -= count
            if count:
                visited.append(at)
                found.append(count)
                at += 1
            else:  # this zero and those that follow it, as an Elias gamma code
                window >>= width
                zeros = (window & -window).bit_length() - 1
                if not 0 <= zeros <= 16:
                    raise CorruptStreamError("a table set holds a run of zero counts that is truncated or too long")
                at += 1 << zeros | window >> zeros + 1 & ((1 << zeros) - 1)
                position += 2 * zeros + 1
            if position > size:
                raise CorruptStreamError("a table set is truncated")
        table[order[visited]] = found
    if size - position >= 8:
        raise CorruptStreamError(f"a table set is followed by {(size - position) // 8} further bytes")
    if position < size and data[-1] >> (position & 7):
        raise CorruptStreamError("the unused bits of a table set are not zero")
    return result


def _low_bit_first(value: int, width: int) -> str:
    return f"{value & ((1 << width) - 1):0{width}b}"[::-1] if width else ""
