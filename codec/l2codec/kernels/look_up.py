"""Words of symbols, looked up in a table; with AVX-512 in registers, where the likeliest symbols are.

As float32 they may be multiplied by scales on the way.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from l2codec.kernels._compiler import kernel
from l2codec.processor import chosen_kernel

WINDOW = 64  # words that registers hold: those of symbols `window` to `window + 64`
REGISTER_BITS = 512


@kernel
def look_up(symbols, table, window, out):
    """Set `out[i]` to `table[symbols[i]]`; `table` has at least 64 words from `window` on."""
    done: Any = _by_vectors(symbols, table, window, out, None, None)
    for i in range(np.uint64(done), np.uint64(symbols.size)):
        out[i] = table[np.uint64(symbols[i])]


@kernel
def look_up_scaled(symbols, table, window, scale, columns, out):
    """As `look_up` for the bits of float32: times `scale`, then times `columns[i]` unless `columns` is None."""
    done: Any = _by_vectors(symbols, table, window, out, scale, columns)
    for i in range(np.uint64(done), np.uint64(symbols.size)):
        out[i] = _scaled(table[np.uint64(symbols[i])], scale, columns, i)


def _scaled(word, scale, columns, i):
    """Return the bits of a float32 times its scales."""


@overload(_scaled)
def _scaled_by(word, scale, columns, i):
    def by_row(word, scale, columns, i):
        return np.float32(np.uint32(word).view(np.float32) * scale).view(np.uint32)

    def by_both(word, scale, columns, i):
        product = np.float32(np.uint32(word).view(np.float32) * scale)
        return np.float32(product * columns[i]).view(np.uint32)

    return by_row if columns == types.none else by_both


def _by_vectors(symbols, table, window, out, scale, columns):
    """Look up as many symbols as make up whole vectors; return how many."""


@overload(_by_vectors)
def _by_vectors_of_type(symbols, table, window, out, scale, columns):
    if chosen_kernel() == "avx512" and out.dtype.bitwidth in (16, 32):
        permute: Any = _permute
        return lambda symbols, table, window, out, scale, columns: permute(symbols, table, window, out, scale, columns)
    return lambda symbols, table, window, out, scale, columns: 0


@intrinsic
def _permute(_: Any, symbols: Any, table: Any, window: Any, out: Any, scale: Any, columns: Any) -> Any:
    word = ir.IntType(out.dtype.bitwidth)
    lanes = REGISTER_BITS // word.width
    vector, reals = ir.VectorType(word, lanes), ir.VectorType(ir.FloatType(), lanes)
    name = "llvm.x86.avx512.vpermi2var." + ("d.512" if word.width == 32 else "hi.512")

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, words, target = (context.make_array(signature.args[i])(context, b, arguments[i]) for i in (0, 1, 3))
        of_columns = None if columns == types.none else context.make_array(columns)(context, b, arguments[5]).data
        size: Any = b.extract_value(source.shape, 0)
        first = arguments[2]
        permute = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3), name)

        def load(pointer: Any, items: Any) -> Any:
            align = context.get_abi_sizeof(items)
            return b.load(b.bitcast(pointer, ir.VectorType(items, lanes).as_pointer()), align=align)

        def all_lanes(value: Any) -> Any:
            kind = ir.VectorType(value.type, lanes)
            one = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))

        def scaled(found: Any, at: Any) -> Any:
            if scale == types.none:
                return found
            product = b.fmul(b.bitcast(found, reals), all_lanes(arguments[4]))
            if of_columns is not None:
                product = b.fmul(product, load(b.gep(of_columns, [at]), ir.FloatType()))
            return b.bitcast(product, vector)

        registers = [
            load(b.gep(words.data, [b.add(first, first.type(lanes * i))]), word) for i in range(WINDOW // lanes)
        ]
        lowest: Any = all_lanes(b.trunc(first, word))
        count: Any = b.udiv(size, size.type(lanes))
        with cgutils.for_range(b, count) as loop:
            at: Any = b.mul(loop.index, size.type(lanes))
            some = load(b.gep(source.data, [at]), context.get_data_type(symbols.dtype))
            wide = some if some.type == vector else b.zext(some, vector)
            index: Any = b.sub(wide, lowest)
            inside = b.icmp_unsigned("<", index, ir.Constant(vector, [WINDOW] * lanes))
            mask: Any = b.bitcast(inside, ir.IntType(lanes))
            with b.if_else(b.icmp_unsigned("==", mask, mask.type(-1)), likely=True) as (near, far):
                with near:
                    found = b.call(permute, [registers[0], index, registers[1]])
                    if len(registers) == 4:
                        other = b.call(permute, [registers[2], index, registers[3]])
                        low = b.icmp_unsigned("<", index, ir.Constant(vector, [2 * lanes] * lanes))
                        found = b.select(low, found, other)
                    found_near = b.block
                with far:
                    one_by_one: Any = ir.Constant(vector, ir.Undefined)
                    for lane in range(lanes):
                        symbol = b.zext(b.load(b.gep(source.data, [b.add(at, at.type(lane))])), at.type)
                        found_word = b.load(b.gep(words.data, [symbol]))
                        one_by_one = b.insert_element(one_by_one, found_word, ir.Constant(ir.IntType(32), lane))
                    found_far = b.block
            values = b.phi(vector)
            values.add_incoming(found, found_near)
            values.add_incoming(one_by_one, found_far)
            place = b.bitcast(b.gep(target.data, [at]), vector.as_pointer())
            b.store(scaled(values, at), place, align=word.width // 8)
        return b.mul(count, size.type(lanes))

    return types.int64(symbols, table, types.int64, out, scale, columns), generate
