"""What vector processors do for the decoder, as LLVM IR: look up the entries of lanes, and hand out words to lanes.

A `Form` is a kind of processor. Vectors have 8 lanes of 32 bits, on processors with longer ones too: four short ones
in flight decode 32 lanes faster than two long ones. Where LLVM's general intrinsics change their names or arguments
with its version, those made for the processor are called.
"""

from abc import ABC, abstractmethod
from typing import Any

from llvmlite import ir
from numba.core import cgutils

I8, I32, I64 = (ir.IntType(bits) for bits in (8, 32, 64))
Value = Any  # of llvmlite.ir

WIDTH = 8  # lanes of a vector
VECTOR = ir.VectorType(I32, WIDTH)


class Form(ABC):
    """`single_loads` says whether entries are fetched one by one, as some processors gather more slowly than that."""

    def __init__(self, single_loads: bool):
        self.single_loads = single_loads

    @abstractmethod
    def spread(self, b: ir.IRBuilder, words: Value, index: Value, mask: Value) -> Value:
        """Return words from `index` on, the first in the first lane of the mask and so on, other lanes holding 0.

        As many words are read as there are lanes.
        """

    def look_up(self, b: ir.IRBuilder, table: Value, indices: Value, index_bits: int, scale: int) -> Value:
        """Return the 32 bits at byte `scale * index` of a table, for each lane.

        Indices are below `2**index_bits`, 16 or 32.
        """
        table = b.bitcast(table, I8.as_pointer())
        if self.single_loads:
            return _load_one_by_one(b, b.bitcast(table, ir.IntType(8 * scale).as_pointer()), indices, index_bits)
        return call(b, "llvm.x86.avx2.gather.d.d.256", VECTOR, constant(0), table, indices, constant(-1), I8(scale))


class Avx512(Form):
    """AVX-512, which has an instruction to spread the items of a vector, of short ones too."""

    def spread(self, b: ir.IRBuilder, words: Value, index: Value, mask: Value) -> Value:
        name = f"llvm.x86.avx512.mask.expand.v{WIDTH}i32"
        return call(b, name, VECTOR, load(b, words, index), constant(0), mask)


class Avx2(Form):
    """AVX2, which has no instruction for words, but one to permute."""

    def spread(self, b: ir.IRBuilder, words: Value, index: Value, mask: Value) -> Value:
        # A lane gets the word whose number is how many lanes before it the mask has: a table in the machine code.
        ranks = [bin(lanes & ((1 << lane) - 1)).count("1") for lanes in range(1 << WIDTH) for lane in range(WIDTH)]
        table = ir.Constant(ir.ArrayType(I8, len(ranks)), ranks)
        pointer = b.bitcast(cgutils.global_constant(b.module, "ranks", table), I8.as_pointer())
        sources = load(b, pointer, b.mul(b.zext(b.bitcast(mask, I8), I64), I64(WIDTH)))
        spread = call(b, "llvm.x86.avx2.permd", VECTOR, load(b, words, index), sources)
        return b.select(mask, spread, constant(0))


def constant(number: int) -> Value:
    """Return the vector with a number in every lane."""
    return ir.Constant(VECTOR, [number] * WIDTH)


def broadcast(b: ir.IRBuilder, number: Value) -> Value:
    """Return the vector with an i32 in every lane."""
    first = b.insert_element(ir.Constant(VECTOR, ir.Undefined), number, I32(0))
    return b.shuffle_vector(first, first, constant(0))


def load(b: ir.IRBuilder, array: Value, index: Value) -> Value:
    """Return the items from `index` on of an array of integers of at most 32 bits, widened."""
    items = b.load(_part(b, array, index), align=array.type.pointee.width // 8)
    return items if items.type == VECTOR else b.zext(items, VECTOR)


def store(b: ir.IRBuilder, items: Value, array: Value, index: Value) -> None:
    """Store items from `index` of an array on, cut to its size of items."""
    part = _part(b, array, index)
    narrow = part.type.pointee
    b.store(items if narrow == VECTOR else b.trunc(items, narrow), part, align=narrow.element.width // 8)


def count(b: ir.IRBuilder, mask: Value) -> Value:
    """Return how many lanes a mask has, i64."""
    return b.zext(call(b, f"llvm.ctpop.i{WIDTH}", I8, b.bitcast(mask, I8)), I64)


def _part(b: ir.IRBuilder, array: Value, index: Value) -> Value:
    return b.bitcast(b.gep(array, [index]), ir.VectorType(array.type.pointee, WIDTH).as_pointer())


def _load_one_by_one(b: ir.IRBuilder, items: Value, indices: Value, index_bits: int) -> Value:
    # As it takes long to get them out of a vector, indices leave it several at a time.
    n_packed = 64 // index_bits
    narrow = indices if index_bits == 32 else b.trunc(indices, ir.VectorType(ir.IntType(index_bits), WIDTH))
    packed = b.bitcast(narrow, ir.VectorType(I64, WIDTH // n_packed))
    result = ir.Constant(VECTOR, ir.Undefined)
    for lane in range(WIDTH):
        index = b.lshr(b.extract_element(packed, I32(lane // n_packed)), I64(lane % n_packed * index_bits))
        index = b.and_(index, I64((1 << index_bits) - 1))
        item = b.load(b.bitcast(b.gep(items, [index]), I32.as_pointer()), align=2)
        result = b.insert_element(result, item, I32(lane))
    return result


def call(b: ir.IRBuilder, name: str, result: ir.Type, *arguments: Value) -> Value:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)
