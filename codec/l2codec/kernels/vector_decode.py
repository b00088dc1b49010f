"""Decoding of interleaved rANS with vectors: rows by vectors, what is left over by `rans_decode_plain`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2codec import processor
from l2codec.kernels._compiler import kernel
from l2codec.kernels.rans_plain import rans_decode_plain
from l2codec.kernels.vector import Avx2, Avx512, Form, Value
from l2codec.kernels.vector_rows import LookUpLoop, RowLoop, Stream, decoder_of_several, row_decoder
from l2codec.kernels.vector_search import SIZE_OF_8, search_decoder

MOST_LANES = 32


def decoder(form: Form) -> Any:
    """Return `rans_decode` for a form; streams of fewer lanes than a vector are left to the plain kernel."""
    rows_of_32, rows_of_16, rows_of_8 = (_rows(form, lanes) for lanes in (MOST_LANES, 16, 8))

    @kernel
    def rans_decode(words, position, states, slots, classes, bits, out):
        lanes = states.size
        n_rows = out.size // lanes
        done = 0
        if lanes == MOST_LANES:
            done, position = rows_of_32(words, position, states, slots, classes, bits, n_rows, out)
        elif lanes == 16:
            done, position = rows_of_16(words, position, states, slots, classes, bits, n_rows, out)
        elif lanes == 8:
            done, position = rows_of_8(words, position, states, slots, classes, bits, n_rows, out)
        done *= lanes
        rest = classes[min(done, classes.size) :]
        return rans_decode_plain(words, position, states, slots, rest, bits, out[done:])

    return rans_decode


def _rows(form: Form, lanes: int) -> Any:
    of_one_class, of_several = (row_decoder(form, lanes, several) for several in (False, True))

    @kernel
    def rows(words, position, states, slots, classes, bits, n_rows, out):
        stream = (words, words.size, position, states, classes, out)
        if classes.size > 0:
            return of_several(slots, bits, n_rows, stream)
        return of_one_class(slots, bits, n_rows, stream)

    return rows


def decoder_of_four(form: Form, rans_decode: Any, rows_by_search: Any) -> Any:
    """Return `rans_decode_four` for a form, where 32 lanes of several streams fill the waits of each other.

    All four by a search, where there are tables for one. Else two at a time, but only with one table: with several,
    which no longer fit the nearest cache, there is little to gain.
    """

    def make_loop(b: Value, streams: Sequence[Stream], slots: Value, search: Value, bits: Value) -> RowLoop:
        return LookUpLoop(b, form, MOST_LANES, streams, False, slots, None, bits)

    rows_of_two = decoder_of_several(make_loop, MOST_LANES, 2)

    @kernel
    def rans_decode_four(words, at, states, slots, search, classes, bits, out):
        """Do what `rans_decode_four_plain` does."""
        lanes, n_classes = states.shape[1], classes.shape[1]
        rows = min(min(at[3, 0] - at[2, 0], at[3, 1] - at[2, 1]), min(at[3, 2] - at[2, 2], at[3, 3] - at[2, 3]))
        if lanes == MOST_LANES and search.size > 0:
            rows = rows_by_search(rows // MOST_LANES, words, at, states, slots, search, classes, bits, out)
        else:
            rows = 0
        for n in range(4):
            if lanes == MOST_LANES and n_classes == 0 and n % 2 == 0:
                rows = min(at[3, n] - at[2, n], at[3, n + 1] - at[2, n + 1]) // MOST_LANES
                rows = rows_of_two(n, rows, words, at, states, slots, search, classes, bits, out)
            rest = out[at[2, n] + rows * lanes : at[3, n]]
            part = classes[n, min(rows * lanes, n_classes) : min(at[3, n] - at[2, n], n_classes)]
            at[0, n] = rans_decode(words[: at[1, n]], at[0, n], states[n], slots, part, bits, rest)

    return rans_decode_four


@kernel
def _no_rows(rows, words, at, states, slots, search, classes, bits, out):
    """Take the place of `_rows_by_search` where vectors are too short for it."""
    return np.int64(0)


@kernel
def _rows_by_search(rows, words, at, states, slots, search, classes, bits, out):
    """Decode as many rows of four streams as their words suffice for; return how many."""
    if search.size == SIZE_OF_8:
        return _with_8_tables(0, rows, words, at, states, slots, search, classes, bits, out)
    return _with_16_tables(0, rows, words, at, states, slots, search, classes, bits, out)


_with_8_tables, _with_16_tables = (search_decoder(tables) for tables in (8, 16))

_avx512, _avx2 = Avx512(processor.gathers_slowly()), Avx2(processor.gathers_slowly())
rans_decode_avx512, rans_decode_avx2 = decoder(_avx512), decoder(_avx2)
rans_decode_four_avx512 = decoder_of_four(_avx512, rans_decode_avx512, _rows_by_search)
rans_decode_four_avx2 = decoder_of_four(_avx2, rans_decode_avx2, _no_rows)
