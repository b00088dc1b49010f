"""Encoding of interleaved rANS with AVX-512: rows of 16 or 32 lanes, whose states stay in registers."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from l2codec.kernels._compiler import kernel
from l2codec.kernels.rans_encode import rans_encode

WIDTH = 16  # lanes of a vector
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
VECTOR, MASK, DOUBLES = (ir.VectorType(item, WIDTH) for item in (I32, I1, ir.DoubleType()))


@kernel
def rans_encode_avx512(symbols, classes, intervals, alphabet, bits, states, words):
    """Do what `rans_encode` does, for 16 or 32 lanes; the first 16 of `words` are room and never used."""
    whole = symbols.size - symbols.size % states.size
    n_classes = min(classes.size, whole)
    word = rans_encode(symbols[whole:], classes[n_classes:], intervals, alphabet, bits, states, words)
    if word < 0:
        return word - whole
    # Without classes the symbols stand in for them, and count nothing.
    of_classes, stride = (classes.ctypes.data, alphabet) if n_classes else (symbols.ctypes.data, 0)
    end = words.ctypes.data + 2 * word
    arguments = (symbols, of_classes, stride, intervals.ctypes.data, alphabet, bits, states.ctypes.data, end)
    if states.size == WIDTH:
        first = _encode_rows_of_16(*arguments, whole // states.size)
    else:
        first = _encode_rows_of_32(*arguments, whole // states.size)
    if first == 0:  # the slow kernel finds out which symbol is impossible
        return rans_encode(symbols[:whole], classes[:n_classes], intervals, alphabet, bits, states, words)
    return np.int64((first - words.ctypes.data) // 2)


def _encode_rows(n_vectors):
    """Return the intrinsic that encodes whole rows; it returns the address of the first word, 0 for a bad symbol."""

    def encode(typing, symbols, classes, stride, intervals, alphabet, bits, states, words, n_rows):
        unit = ir.VectorType(ir.IntType(symbols.dtype.bitwidth), WIDTH)

        def generate(context, builder, signature, arguments):
            at_symbols = context.make_array(symbols)(context, builder, arguments[0]).data
            return _generate(builder, n_vectors, unit, builder.ptrtoint(at_symbols, I64), *arguments[1:])

        return types.intp(symbols, *[types.intp] * 8), generate

    return intrinsic(encode)


_encode_rows_of_16: Any = _encode_rows(1)
_encode_rows_of_32: Any = _encode_rows(2)


def _generate(b, n_vectors, unit, symbols, classes, stride, intervals, alphabet, bits, states, words, n_rows):
    """Build the loop over rows, from the last one to the first; arguments are addresses and numbers, all i64."""

    def call(name, result, *arguments):
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)

    def at(address, offset, kind):
        return b.inttoptr(b.add(address, offset), kind.as_pointer())

    def splat(number):
        undefined = ir.Constant(VECTOR, ir.Undefined)
        return b.shuffle_vector(b.insert_element(undefined, number, _i32(0)), undefined, _all(0))

    last, stride, narrow = (splat(b.trunc(number, I32)) for number in (b.sub(alphabet, _i64(1)), stride, bits))
    widen, total = b.sub(_all(32), narrow), b.shl(_all(1), narrow)
    base = b.inttoptr(intervals, I8.as_pointer())
    at_states = [at(states, _i64(4 * WIDTH * v), VECTOR) for v in range(n_vectors)]
    before, loop, done = b.block, b.append_basic_block("rows"), b.append_basic_block("done")
    initial = [n_rows, words, ir.Constant(MASK, [0] * WIDTH), *(b.load(state, align=4) for state in at_states)]
    b.cbranch(b.icmp_signed(">", n_rows, _i64(0)), loop, done)

    b.position_at_end(loop)
    row, word, bad, *x = phis = [b.phi(value.type) for value in initial]
    row_left = b.sub(row, _i64(1))
    after = list(x)
    for v in reversed(range(n_vectors)):
        index = b.add(b.mul(row_left, _i64(WIDTH * n_vectors)), _i64(WIDTH * v))
        size = unit.element.width // 8
        symbol = b.zext(b.load(at(symbols, b.mul(index, _i64(size)), unit), align=size), VECTOR)
        class_ = b.zext(b.load(at(classes, index, ir.VectorType(I8, WIDTH)), align=1), VECTOR)
        bad = b.or_(bad, b.icmp_unsigned(">", symbol, last))
        symbol = b.add(call("llvm.umin.v16i32", VECTOR, symbol, last), b.mul(class_, stride))
        every = ir.Constant(MASK, [1] * WIDTH)
        interval = call("llvm.x86.avx512.mask.gather.dpi.512", VECTOR, _all(0), base, symbol, every, _i32(4))
        count = b.lshr(interval, _all(16))
        bad = b.or_(bad, b.icmp_unsigned("==", count, _all(0)))
        # A count of 2**P makes the limit 2**32 - 1: such a symbol never puts out a word.
        emit = b.icmp_unsigned(">", x[v], b.sub(b.shl(count, widen), _all(1)))
        n_words = b.zext(call("llvm.ctpop.i16", I16, b.bitcast(emit, I16)), I64)
        packed = call("llvm.x86.avx512.mask.compress.v16i32", VECTOR, x[v], _all(0), emit)
        # Turned so that the words are the last ones of the 16 that are stored; what precedes them is overwritten.
        turned = b.add(ir.Constant(VECTOR, list(range(WIDTH))), splat(b.trunc(n_words, I32)))
        packed = b.trunc(call("llvm.x86.avx512.permvar.si.512", VECTOR, packed, turned), ir.VectorType(I16, WIDTH))
        b.store(packed, at(word, _i64(-2 * WIDTH), packed.type), align=2)
        word = b.sub(word, b.mul(n_words, _i64(2)))
        state = b.select(emit, b.lshr(x[v], _all(16)), x[v])
        # Exact: a quotient that is no integer is at least 2**-14 from one, and doubles err by less than 2**-20. On
        # processors with AVX-512 this is faster than to gather reciprocals.
        divisor = b.uitofp(call("llvm.umax.v16i32", VECTOR, count, _all(1)), DOUBLES)
        quotient = b.fptoui(b.fdiv(b.uitofp(state, DOUBLES), divisor), VECTOR)
        start = b.and_(interval, _all(0xFFFF))
        after[v] = b.add(b.add(state, start), b.mul(quotient, b.sub(total, count)))
    results = [row_left, word, bad, *after]
    for phi, first, again in zip(phis, initial, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(again, loop)
    b.cbranch(b.icmp_signed(">", row_left, _i64(0)), loop, done)

    b.position_at_end(done)
    final = [b.phi(value.type) for value in results]
    for phi, first, again in zip(final, initial, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(again, loop)
    _, word, bad, *x = final
    for state, address in zip(x, at_states, strict=True):
        b.store(state, address, align=4)
    return b.select(b.icmp_unsigned("==", b.bitcast(bad, I16), ir.Constant(I16, 0)), word, _i64(0))


def _i32(value):
    return ir.Constant(I32, value)


def _i64(value):
    return ir.Constant(I64, value)


def _all(value):
    return ir.Constant(VECTOR, [value] * WIDTH)
