"""Decoding of interleaved rANS with vectors: rows by vectors, what is left over by `rans_decode_plain`."""

from typing import Any

from l2codec import processor
from l2codec.kernels._compiler import kernel
from l2codec.kernels.rans_plain import rans_decode_plain
from l2codec.kernels.vector import Avx2, Avx512, Form
from l2codec.kernels.vector_rows import row_decoder

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
    of_one_class, of_several = (row_decoder(form, lanes, 1, several) for several in (False, True))

    @kernel
    def rows(words, position, states, slots, classes, bits, n_rows, out):
        stream = (words, words.size, position, states, classes, out)
        if classes.size > 0:
            return of_several(slots, bits, n_rows, stream)
        return of_one_class(slots, bits, n_rows, stream)

    return rows


def decoder_of_two(form: Form, rans_decode: Any) -> Any:
    """Return `rans_decode_two` for a form: 32 lanes of two streams, so that one's work fills the other's waits.

    For one table only: with several, which no longer fit the nearest cache, there is little to gain.
    """
    rows = row_decoder(form, MOST_LANES, 2, several=False)

    @kernel
    def rans_decode_two(words, position, states, out, words2, position2, states2, out2, slots, no_classes, bits, ends):
        """Decode two streams of one table as `rans_decode` does each; put both results into `ends`, int64[2]."""
        done = 0
        if states.size == MOST_LANES and states2.size == MOST_LANES:
            first = (words, words.size, position, states, no_classes, out)
            second = (words2, words2.size, position2, states2, no_classes, out2)
            done, position, position2 = rows(slots, bits, min(out.size, out2.size) // MOST_LANES, first + second)
            done *= MOST_LANES
        ends[0] = rans_decode(words, position, states, slots, no_classes, bits, out[done:])
        ends[1] = rans_decode(words2, position2, states2, slots, no_classes, bits, out2[done:])

    return rans_decode_two


_avx512, _avx2 = Avx512(processor.gathers_slowly()), Avx2(processor.gathers_slowly())
rans_decode_avx512, rans_decode_avx2 = decoder(_avx512), decoder(_avx2)
rans_decode_two_avx512 = decoder_of_two(_avx512, rans_decode_avx512)
rans_decode_two_avx2 = decoder_of_two(_avx2, rans_decode_avx2)
