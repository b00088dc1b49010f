"""The loop over rows for streams whose likely symbols fit a search in registers, with AVX-512.

No table is read from memory, but the search takes long: several streams in turns fill the waits of each other. The
tables, and what they leave to a look-up, are those of `l2codec.search`.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from l2codec.kernels.vector import I8, I32, I64, Value, call
from l2codec.kernels.vector_rows import LOW_STATE, RowLoop, Stream, decoder_of_several

LANES, HALF = 32, 16
LEVELS = 5  # of the search: for 2**5 symbols
HEADER = 32  # words before the first level
SIZE_OF_8 = HEADER + sum(max(8 << level, LANES) for level in range(LEVELS))  # words of what is searched for 8 tables

I16 = ir.IntType(16)
STATES = ir.VectorType(I32, HALF)
SHORTS = ir.VectorType(I16, LANES)


def search_decoder(n_tables: int) -> Any:
    """Return the intrinsic that decodes rows of 32 symbols of four streams, with 8 tables or 16."""

    def make_loop(b: ir.IRBuilder, streams: Sequence[Stream], slots: Value, search: Value, bits: Value) -> RowLoop:
        return _SearchLoop(b, streams, n_tables, slots, search, bits)

    return decoder_of_several(make_loop, LANES, 4)


class _SearchLoop(RowLoop):
    def __init__(
        self, b: ir.IRBuilder, streams: Sequence[Stream], n_tables: int, slots: Value, tables: Value, bits: Value
    ):
        super().__init__(b, LANES, streams, HALF)
        self.n_tables, self.slots, self.tables = n_tables, slots, tables
        self.bits, self.short_bits = (_all_lanes(b, kind, b.trunc(bits, kind.element)) for kind in (STATES, SHORTS))
        self.n_slots = b.shl(_constant(SHORTS, 1), self.short_bits)
        # LLVM must not know what `one` is, or it makes more of adding it under a mask than one instruction.
        self.first, self.unlikely, self.one = (_all_lanes(b, SHORTS, b.load(b.gep(tables, [I64(i)]))) for i in range(3))
        # Where unlikely symbols are put right: symbols, offsets, counts and slots of a row.
        self.room = [cgutils.alloca_once(b, SHORTS) for _ in range(4)]

    def row(self, row: Value, positions: Sequence[Value], states: Sequence[Value]) -> list[Value]:
        b, n = self.b, len(self.streams)
        at = b.mul(row, I64(LANES))
        halves = list(zip(states[:n], states[n:], strict=True))
        # Each step for all streams before the next one, so that none waits.
        slots = [self._slots(*both) for both in halves]
        symbols, offsets, counts = self._put_right(slots, self._search(slots, at), at)
        stepped = []
        for stream, symbol, offset, count, both in zip(self.streams, symbols, offsets, counts, halves, strict=True):
            self._store(b.add(symbol, self.first), stream.out, at)
            quotients = [b.lshr(state, self.bits) for state in both]
            stepped.append([b.add(b.mul(_half(b, count, h), q), _half(b, offset, h)) for h, q in enumerate(quotients)])
        moved, renewed = [], []
        for stream, both, position in zip(self.streams, stepped, positions, strict=True):
            for state in both:
                low = b.icmp_unsigned("<", state, _constant(STATES, LOW_STATE))
                words = self._words(stream, position, low)
                renewed.append(b.select(low, b.or_(b.shl(state, _constant(STATES, 16)), words), state))
                position = b.add(position, b.zext(call(b, "llvm.ctpop.i16", I16, b.bitcast(low, I16)), I64))
            moved.append(position)
        return [b.add(row, I64(1)), *moved, *renewed[::2], *renewed[1::2]]

    def _slots(self, first: Value, second: Value) -> Value:
        """Return the slots of all lanes: the low bits of their states."""
        b = self.b
        even = ir.Constant(ir.VectorType(I32, LANES), list(range(0, 2 * LANES, 2)))
        low = b.shuffle_vector(b.bitcast(first, SHORTS), b.bitcast(second, SHORTS), even)
        return b.and_(low, b.sub(self.n_slots, _constant(SHORTS, 1)))

    def _search(self, slots: list[Value], at: Value) -> list[list[Value]]:
        """Return for each stream symbols, as numbers below 32, offsets of the slots, and counts of the symbols."""
        b = self.b
        places = [self._classes(stream, at) for stream in self.streams]  # in a level: class, then the way there
        starts: list[Value] = [_constant(SHORTS, 0) for _ in slots]
        ends: list[Value] = [self.n_slots for _ in slots]
        base = HEADER
        for level in range(LEVELS):
            found = [self._look_up(base, self.n_tables << level, place) for place in places]
            base += self.n_tables << level if self.n_tables << level > LANES else LANES
            for n, (slot, start) in enumerate(zip(slots, found, strict=True)):
                beyond = b.icmp_unsigned(">=", slot, start)
                twice = b.add(places[n], places[n])
                places[n] = b.select(beyond, b.add(twice, self.one), twice)
                starts[n] = b.select(beyond, start, starts[n])
                ends[n] = b.select(beyond, ends[n], start)
        found = zip(places, slots, starts, ends, strict=True)
        path = _constant(SHORTS, (1 << LEVELS) - 1)
        return [[b.and_(place, path), b.sub(slot, start), b.sub(end, start)] for place, slot, start, end in found]

    def _classes(self, stream: Stream, at: Value) -> Value:
        b = self.b
        kind = ir.VectorType(I8, LANES).as_pointer()
        return b.zext(b.load(b.bitcast(b.gep(stream.classes, [at]), kind), align=1), SHORTS)

    def _look_up(self, base: int, size: int, index: Value) -> Value:
        """Return items of the `size` words of the tables from `base` on."""
        b = self.b
        kind = SHORTS.as_pointer()
        registers = [
            b.load(b.bitcast(b.gep(self.tables, [I64(base + first)]), kind), align=2) for first in range(0, size, LANES)
        ]
        if len(registers) == 1:
            return call(b, "llvm.x86.avx512.permvar.hi.512", SHORTS, registers[0], index)
        name = "llvm.x86.avx512.vpermi2var.hi.512"
        found = [
            call(b, name, SHORTS, first, index, second)
            for first, second in zip(registers[::2], registers[1::2], strict=True)
        ]
        bit = 2 * LANES
        while len(found) > 1:
            upper = b.icmp_unsigned("!=", b.and_(index, _constant(SHORTS, bit)), _constant(SHORTS, 0))
            found = [b.select(upper, second, first) for first, second in zip(found[::2], found[1::2], strict=True)]
            bit *= 2
        return found[0]

    def _put_right(self, slots: list[Value], found: list[list[Value]], at: Value) -> list[list[Value]]:
        """Return symbols of all streams, offsets and counts, those looked up that the search does not tell apart."""
        b, streams = self.b, range(len(self.streams))
        wrong = [b.and_(b.add(values[0], self.one), self.unlikely) for values in found]
        masks = [b.bitcast(b.icmp_unsigned("==", each, _constant(SHORTS, 0)), I32) for each in wrong]
        any_wrong = reduce(b.or_, masks)
        before = b.block
        with b.if_then(b.icmp_unsigned("!=", any_wrong, I32(0)), likely=False):
            right = [self._looked_up(masks[n], slots[n], self.streams[n], at, found[n]) for n in streams]
            after = b.block
        result = []
        for kind in range(3):
            phis = [b.phi(SHORTS) for _ in streams]
            for n, phi in enumerate(phis):
                phi.add_incoming(found[n][kind], before)
                phi.add_incoming(right[n][kind], after)
            result.append(phis)
        return result

    def _looked_up(self, wrong: Value, slots: Value, stream: Stream, at: Value, found: Sequence[Value]) -> list[Value]:
        """Return (symbols, offsets, counts) with those of a mask looked up."""
        b = self.b
        index = b.or_(slots, b.shl(self._classes(stream, at), self.short_bits))
        for value, room in zip([*found, index], self.room, strict=True):
            b.store(value, room)
        items = [b.bitcast(room, I16.as_pointer()) for room in self.room]
        before = b.block
        head, body, done = (b.append_basic_block(name) for name in ("next", "look_up", "looked_up"))
        b.branch(head)
        b.position_at_end(head)
        left = b.phi(I32)
        left.add_incoming(wrong, before)
        b.cbranch(b.icmp_unsigned("!=", left, I32(0)), body, done)
        b.position_at_end(body)
        lane = call(b, "llvm.cttz.i32", I32, left, ir.Constant(ir.IntType(1), 1))
        symbol, offset, count, slot = (b.gep(item, [lane]) for item in items)
        entry = b.load(b.gep(self.slots, [b.zext(b.load(slot), I64)]))
        # Less what is added to all symbols.
        first = b.load(self.tables)
        b.store(b.sub(b.trunc(b.and_(entry, I32(0xFF)), I16), first), symbol)
        b.store(b.trunc(b.and_(b.lshr(entry, I32(8)), I32(0xFFF)), I16), offset)
        b.store(b.trunc(b.add(b.lshr(entry, I32(20)), I32(1)), I16), count)
        left.add_incoming(b.and_(left, b.sub(left, I32(1))), body)
        b.branch(head)
        b.position_at_end(done)
        return [b.load(room) for room in self.room[:3]]

    def _words(self, stream: Stream, position: Value, mask: Value) -> Value:
        """Return the next words of a stream, the first in the first lane of a mask and so on."""
        b = self.b
        place = b.bitcast(b.gep(stream.words, [position]), ir.VectorType(I16, HALF).as_pointer())
        words = b.zext(b.load(place, align=2), STATES)
        return call(b, "llvm.x86.avx512.mask.expand.v16i32", STATES, words, _constant(STATES, 0), mask)

    def _store(self, symbols: Value, out: Value, at: Value) -> None:
        b = self.b
        kind = ir.VectorType(out.type.pointee, LANES)
        narrow = symbols if kind == SHORTS else b.trunc(symbols, kind)
        b.store(narrow, b.bitcast(b.gep(out, [at]), kind.as_pointer()), align=kind.element.width // 8)


def _half(b: ir.IRBuilder, shorts: Value, number: int) -> Value:
    """Return one half of the lanes of a vector, widened."""
    lanes = ir.Constant(ir.VectorType(I32, HALF), list(range(HALF * number, HALF * (number + 1))))
    return b.zext(b.shuffle_vector(shorts, shorts, lanes), STATES)


def _constant(kind: Any, number: int) -> Value:
    return ir.Constant(kind, [number] * kind.count)


def _all_lanes(b: ir.IRBuilder, kind: Any, number: Value) -> Value:
    first = b.insert_element(ir.Constant(kind, ir.Undefined), number, I32(0))
    return b.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))
