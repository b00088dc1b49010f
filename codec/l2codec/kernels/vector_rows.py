"""The loop over rows of symbols, one symbol a lane, with the states of all lanes in vector registers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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


def row_decoder(form: Form, lanes: int, several: bool) -> Any:
    """Return the intrinsic that decodes rows of `lanes` symbols of a stream.

    Its arguments are `slots`, the probability bits, how many rows there are, and a tuple of what makes up a `Stream`,
    of which the classes count if `several`. It updates the states and returns (rows decoded, position). It stops early
    where a row might take more words than the stream has left, whatever its states are.
    """

    def decode(typing, slots, bits, n_rows, streams):
        def generate(context, builder, signature, arguments):
            tables = context.make_array(slots)(context, builder, arguments[0])
            stride = builder.extract_value(tables.shape, 1) if slots.ndim == 2 else None
            stream = Stream(
                *(
                    context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                    for kind, value in zip(streams, cgutils.unpack_tuple(builder, arguments[3]), strict=True)
                )
            )
            loop = LookUpLoop(builder, form, lanes, [stream], several, tables.data, stride, arguments[1])
            return cgutils.pack_array(builder, loop.build(arguments[2]))

        return types.UniTuple(types.int64, 2)(slots, types.int64, types.int64, streams), generate

    return intrinsic(decode)


def decoder_of_several(make_loop: Callable[..., "RowLoop"], lanes: int, n_streams: int) -> Any:
    """Return the intrinsic that decodes rows of several of the four streams of `rans_decode_four_plain`, in turns.

    It takes the number of the first of them, how many rows all have, and the arguments of that kernel; it updates
    positions and states, and returns the rows decoded. It stops as `row_decoder` does. Only for compact slots: with
    wide ones it does nothing. `make_loop` is given the builder, the streams, slots, search and probability bits.
    """

    def decode(typing, first, n_rows, words, at, states, slots, search, classes, bits, out):
        def generate(context, b, signature, arguments):
            if slots.ndim == 2:
                return I64(0)
            first, rows, bits = arguments[0], arguments[1], arguments[8]
            words, at, states, slots_, search, classes, out = (
                context.make_array(signature.args[i])(context, b, arguments[i]) for i in (2, 3, 4, 5, 6, 7, 9)
            )
            streams, places = [], []
            for n in range(n_streams):
                number = b.add(first, I64(n))
                place, end, begin = (b.gep(at.data, [b.add(number, I64(4 * row))]) for row in range(3))
                of_classes = b.gep(classes.data, [b.mul(number, b.extract_value(classes.shape, 1))])
                of_states = b.gep(states.data, [b.mul(number, I64(lanes))])
                of_out = b.gep(out.data, [b.load(begin)])
                streams.append(Stream(words.data, b.load(end), b.load(place), of_states, of_classes, of_out))
                places.append(place)
            done, *positions = make_loop(b, streams, slots_.data, search.data, bits).build(rows)
            for place, position in zip(places, positions, strict=True):
                b.store(position, place)
            return done

        given = (types.int64, types.int64, words, at, states, slots, search, classes, types.int64, out)
        return types.int64(*given), generate

    return intrinsic(decode)


class RowLoop(ABC):
    """Builds a loop. What it carries from row to row are the row, the position of each stream, and all states.

    `width` is how many states a vector holds.
    """

    def __init__(self, b: ir.IRBuilder, lanes: int, streams: Sequence[Stream], width: int):
        self.b, self.lanes, self.streams, self.width = b, lanes, streams, width
        # Vectors take turns, so that no stream waits for another: the first of each stream, the second, ...
        self.vectors = [(n, lane) for lane in range(0, lanes, width) for n in range(len(streams))]

    @abstractmethod
    def row(self, row: Value, positions: Sequence[Value], states: Sequence[Value]) -> list[Value]:
        """Decode a row of each stream; return what is carried on."""

    def build(self, n_rows: Value) -> list[Value]:
        """Return (rows decoded, position of each stream)."""
        b, streams = self.b, self.streams
        kind = ir.VectorType(I32, self.width).as_pointer()
        places = [b.bitcast(b.gep(streams[n].states, [I64(lane)]), kind) for n, lane in self.vectors]
        states = [b.load(place, align=4) for place in places]
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
        carried_on = self.row(carried[0], carried[1 : 1 + len(streams)], carried[1 + len(streams) :])
        decoded = b.block  # a row may have blocks of its own
        for phi, other, value in zip(carried, checked, carried_on, strict=True):
            phi.add_incoming(value, decoded)
            other.add_incoming(value, decoded)
        b.cbranch(b.icmp_signed("<", carried_on[0], stop), decode, check)

        b.position_at_end(after)
        for state, place in zip(checked[1 + len(streams) :], places, strict=True):
            b.store(state, place, align=4)
        return checked[: 1 + len(streams)]

    def _carried(self, block: Value, values: Sequence[Value]) -> list[Value]:
        phis = [self.b.phi(value.type) for value in values]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
        return phis


class LookUpLoop(RowLoop):
    """Looks symbols up in memory. `stride` is the length of a row of wide slots, None for compact ones."""

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
        super().__init__(b, lanes, streams, WIDTH)
        self.form, self.several, self.slots = form, several, slots
        self.bits = vector.broadcast(b, b.trunc(bits, I32))
        self.stride = None if stride is None else vector.broadcast(b, b.trunc(stride, I32))  # of wide slots
        self.slot_mask = b.lshr(vector.constant(-1), b.sub(vector.constant(32), self.bits))

    def row(self, row: Value, positions: Sequence[Value], states: Sequence[Value]) -> list[Value]:
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
