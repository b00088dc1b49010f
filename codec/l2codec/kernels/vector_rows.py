"""The loop over rows of symbols, one symbol a lane, with the states of all lanes in vector registers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from l2codec.kernels import vector
from l2codec.kernels.vector import I32, I64, WIDTH, Form, Value

LOW_STATE = 1 << 16


class Stream(NamedTuple):
    """What the loop has of one stream: pointers, and numbers (i64)."""

    words: Value
    n_words: Value
    position: Value
    states: Value
    classes: Value
    out: Value


def row_decoder(form: Form, lanes: int, n_streams: int, several: bool) -> Any:
    """Return the intrinsic that decodes rows of `lanes` symbols, of one stream or of several in turns.

    Its arguments are `slots`, the probability bits, how many rows there are, and a tuple of what makes up a `Stream`,
    for one after the other; the classes count if `several`. It updates the states and returns (rows decoded, position
    of each stream). It stops early where a row might take more words than a stream has left, whatever its states are.
    """

    def decode(typing, slots, bits, n_rows, streams):
        result = types.UniTuple(types.int64, 1 + n_streams)

        def generate(context, builder, signature, arguments):
            def pointer(kind, value):
                return (
                    context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                )

            parts = iter(map(pointer, streams, cgutils.unpack_tuple(builder, arguments[3])))
            each = [Stream(*(next(parts) for _ in Stream._fields)) for _ in range(n_streams)]
            tables = context.make_array(slots)(context, builder, arguments[0])
            stride = builder.extract_value(tables.shape, 1) if slots.ndim == 2 else None
            loop = _Loop(builder, form, lanes, each, several, tables.data, stride, arguments[1])
            return cgutils.pack_array(builder, loop.build(arguments[2]))

        return result(slots, types.int64, types.int64, streams), generate

    return intrinsic(decode)


class _Loop:
    """Builds it. What it carries from row to row are the row, the position of each stream, and all states.

    `stride` is the length of a row of wide slots, None for compact ones.
    """

    def __init__(
        self,
        b: ir.IRBuilder,
        form: Form,
        lanes: int,
        streams: Sequence[Stream],
        several: bool,
        slots: Value,
        stride: Value | None,
        bits: Value,
    ):
        self.b, self.form, self.lanes, self.streams = b, form, lanes, streams
        self.several, self.slots = several, slots
        self.bits = vector.broadcast(b, b.trunc(bits, I32))
        self.stride = None if stride is None else vector.broadcast(b, b.trunc(stride, I32))  # of wide slots
        self.slot_mask = b.lshr(vector.constant(-1), b.sub(vector.constant(32), self.bits))
        # Vectors take turns, so that no stream waits for another: the first of each stream, the second, ...
        self.vectors = [(n, lane) for lane in range(0, lanes, WIDTH) for n in range(len(streams))]

    def build(self, n_rows: Value) -> list[Value]:
        """Return (rows decoded, position of each stream)."""
        b, streams = self.b, self.streams
        states = [vector.load(b, streams[n].states, I64(lane)) for n, lane in self.vectors]
        before = b.block
        check, decode, after = (b.append_basic_block(name) for name in ("check", "decode", "after"))
        b.branch(check)

        # As many rows as the words suffice for whatever the states are go without a check; then it is done again.
        b.position_at_end(check)
        checked = self._carried(before, [I64(0), *(stream.position for stream in streams), *states])
        certain = b.sub(n_rows, checked[0])
        for stream, position in zip(streams, checked[1:], strict=False):
            rows = b.sdiv(b.sub(stream.n_words, position), I64(self.lanes))
            certain = b.select(b.icmp_signed("<", rows, certain), rows, certain)
        stop = b.add(checked[0], certain)
        b.cbranch(b.icmp_signed(">", certain, I64(0)), decode, after)

        b.position_at_end(decode)
        carried = self._carried(check, checked)
        carried_on = self._row(carried[0], carried[1 : 1 + len(streams)], carried[1 + len(streams) :])
        for phi, other, value in zip(carried, checked, carried_on, strict=True):
            phi.add_incoming(value, decode)
            other.add_incoming(value, decode)
        b.cbranch(b.icmp_signed("<", carried_on[0], stop), decode, check)

        b.position_at_end(after)
        for (n, lane), state in zip(self.vectors, checked[1 + len(streams) :], strict=True):
            vector.store(b, state, streams[n].states, I64(lane))
        return checked[: 1 + len(streams)]

    def _carried(self, block: Value, values: Sequence[Value]) -> list[Value]:
        phis = [self.b.phi(value.type) for value in values]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
        return phis

    def _row(self, row: Value, positions: Sequence[Value], states: Sequence[Value]) -> list[Value]:
        """Decode a row of each stream; return what is carried on."""
        b, form = self.b, self.form
        positions, renewed = list(positions), []
        first = b.mul(row, I64(self.lanes))
        at = [b.add(first, I64(lane)) for _, lane in self.vectors]
        # All that is looked up first, as it takes longest.
        entries = [
            self._entries(state, self.streams[n].classes, index)
            for (n, _), state, index in zip(self.vectors, states, at, strict=True)
        ]
        for (n, _), state, entry, index in zip(self.vectors, states, entries, at, strict=True):
            vector.store(b, entry[0], self.streams[n].out, index)  # a symbol is at the low end of its entry
            stepped = self._step(state, entry)
            low = b.icmp_unsigned("<", stepped, vector.constant(LOW_STATE))
            words = form.spread(b, self.streams[n].words, positions[n], low)
            positions[n] = b.add(positions[n], vector.count(b, low))
            renewed.append(b.select(low, b.or_(b.shl(stepped, vector.constant(16)), words), stepped))
        return [b.add(row, I64(1)), *positions, *renewed]

    def _entries(self, state: Value, classes: Value, index: Value) -> list[Value]:
        """Return the entries of a vector; of wide slots the symbols, and start | count << 16."""
        b, look_up = self.b, self.form.look_up
        slot = b.and_(state, self.slot_mask)
        table = vector.load(b, classes, index) if self.several else vector.constant(0)
        index_bits = 32 if self.several else 16
        if self.stride is None:
            return [look_up(b, self.slots, b.or_(slot, b.shl(table, self.bits)), index_bits, 4)]
        first = b.mul(table, self.stride)
        symbols = b.and_(look_up(b, self.slots, b.add(first, slot), index_bits, 2), vector.constant(0xFFFF))
        ends = b.add(first, b.shl(vector.constant(1), self.bits))  # of the slots of each table
        return [symbols, look_up(b, self.slots, b.add(ends, b.shl(symbols, vector.constant(1))), 32, 2)]

    def _step(self, state: Value, entry: Sequence[Value]) -> Value:
        """Return count * (state >> bits) + slot - start."""
        b, constant = self.b, vector.constant
        quotient = b.lshr(state, self.bits)
        if self.stride is not None:
            count, start = b.lshr(entry[1], constant(16)), b.and_(entry[1], constant(0xFFFF))
            return b.add(b.mul(count, quotient), b.sub(b.and_(state, self.slot_mask), start))
        less_one = b.lshr(entry[0], constant(20))  # than the count
        offset = b.and_(b.lshr(entry[0], constant(8)), constant(0xFFF))
        return b.add(b.mul(less_one, quotient), b.add(quotient, offset))
