"""The oracle: spec/entropy-coding.md in plain Python integers, slow and obvious, sharing no code with the kernels.

A table is a sequence of counts here, `model` the list of the tables of a block's symbols, one a symbol.
"""

from collections.abc import Sequence
from functools import lru_cache

from l2codec.errors import CorruptStreamError, ImpossibleSymbolError

Table = Sequence[int]


def corrupt_unless(condition: bool, message: str) -> None:
    if not condition:
        raise CorruptStreamError(message)


# Section 2.1: table sets


def visiting_order(alphabet: int, origin: int) -> list[int]:
    return sorted(range(alphabet), key=lambda s: (abs(s - origin), s < origin))


def write_tables(tables: Sequence[Table], origin: int) -> bytes:
    bits: list[int] = []

    def write(value: int, width: int) -> None:
        bits.extend(value >> i & 1 for i in range(width))

    for counts in tables:
        remaining = sum(counts)
        symbols = visiting_order(len(counts), origin)
        while remaining > 0:
            count = counts[symbols.pop(0)]
            write(count, remaining.bit_length())
            remaining -= count
            if count == 0:
                zeros = 0
                while counts[symbols[0]] == 0:
                    symbols.pop(0)
                    zeros += 1
                k = (zeros + 1).bit_length() - 1
                write(1 << k, k + 1)  # k zero bits, a one bit
                write(zeros + 1, k)
    bits.extend([0] * (-len(bits) % 8))
    return bytes(sum(bit << j for j, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8))


def read_tables(data: bytes, n_tables: int, alphabet: int, probability_bits: int, origin: int) -> list[list[int]]:
    bits = [byte >> i & 1 for byte in data for i in range(8)]

    def read(width: int) -> int:
        corrupt_unless(len(bits) >= width, "truncated")
        value = sum(bits.pop(0) << i for i in range(width))
        return value

    tables = []
    for _ in range(n_tables):
        counts = [0] * alphabet
        remaining = 1 << probability_bits
        symbols = visiting_order(alphabet, origin)
        may_be_zero = True
        while remaining > 0:
            corrupt_unless(len(symbols) > 0, "no symbols left")
            count = read(remaining.bit_length())
            corrupt_unless(count <= remaining, "count too large")
            corrupt_unless(count > 0 or may_be_zero, "run of zeros not maximal")
            counts[symbols.pop(0)] = count
            remaining -= count
            may_be_zero = count > 0
            if count == 0:
                k = 0
                while read(1) == 0:
                    k += 1
                    corrupt_unless(k <= 16, "run of zeros too long")
                zeros = (1 << k) + read(k) - 1
                corrupt_unless(zeros <= len(symbols), "run of zeros too long")
                del symbols[:zeros]
        tables.append(counts)
    corrupt_unless(len(bits) < 8 and not any(bits), "bits left over")
    return tables


# Section 3: classes


def class_list(classes, count: int) -> list[int]:
    """Return the class of every symbol for a ClassMap or the one class of all."""
    if isinstance(classes, int):
        return [classes] * count

    def offset(vector, index: int) -> int:
        return 0 if vector is None else int(vector[index])

    def clipped(value: int) -> int:
        return min(max(value, 0), classes.n_tables - 1)

    if classes.row_lengths is not None:
        lengths = classes.row_lengths.tolist()
        return [
            clipped(classes.base + offset(classes.row, r)) for r, length in enumerate(lengths) for _ in range(length)
        ]
    rows, columns, positions = classes.shape
    return [
        clipped(classes.base + offset(classes.row, r) + offset(classes.column, k) + offset(classes.position, p))
        for r in range(rows)
        for k in range(columns)
        for p in range(positions)
    ]


# Section 4: streams and blocks


def encode(name: str, symbols, tables, classes, lanes: int, block_bits: int, width: int | None) -> bytes:
    symbols = [int(s) for s in symbols]
    if name == "raw":
        return encode_raw(symbols, width or 0)
    counts = [tuple(t.counts.tolist()) for t in tables.tables]
    model = [counts[c] for c in class_list(classes, len(symbols))]
    for symbol, table in zip(symbols, model, strict=True):
        if symbol >= len(table) or table[symbol] == 0:
            raise ImpossibleSymbolError(f"symbol {symbol} has no count")
    length = 1 << block_bits
    blocks = []
    for i in range(0, len(symbols), length):
        part = symbols[i : i + length], model[i : i + length], tables.probability_bits
        if name == "rans":
            blocks.append(encode_rans(*part, lanes))
        else:
            blocks.append({"range": encode_range, "huffman": encode_huffman}[name](*part))
    lengths = b"".join(len(block).to_bytes(4, "little") for block in blocks) if len(blocks) > 1 else b""
    return lengths + b"".join(blocks)


def decode(
    name: str, data: bytes, count: int, tables, classes, lanes: int, block_bits: int, width: int | None
) -> list[int]:
    if name == "raw":
        return decode_raw(data, count, width or 0)
    counts = [tuple(t.counts.tolist()) for t in tables.tables]
    length = 1 << block_bits
    n_blocks = -(-count // length)
    lengths = [len(data)] * n_blocks
    if n_blocks > 1:
        corrupt_unless(len(data) >= 4 * n_blocks, "truncated block lengths")
        lengths = [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(n_blocks)]
        data = data[4 * n_blocks :]
    corrupt_unless(sum(lengths) == len(data), "blocks do not fill the stream")
    model = [counts[c] for c in class_list(classes, count)]
    symbols: list[int] = []
    for i, size in enumerate(lengths):
        part = data[:size], model[i * length : (i + 1) * length], tables.probability_bits
        data = data[size:]
        if name == "rans":
            symbols += decode_rans(*part, lanes)
        else:
            symbols += {"range": decode_range, "huffman": decode_huffman}[name](*part)
    return symbols


def find(table: Table, slot: int) -> tuple[int, int]:
    """Return the symbol with start <= slot < start + count, and its start."""
    start = 0
    for symbol, count in enumerate(table):
        if slot < start + count:
            return symbol, start
        start += count
    raise AssertionError("counts sum to 2**P")


# Section 5: raw


def encode_raw(symbols: Sequence[int], width: int) -> bytes:
    number = 0
    for i, symbol in enumerate(symbols):
        if symbol >> width:
            raise ImpossibleSymbolError(f"symbol {symbol} does not fit {width} bits")
        number |= symbol << i * width
    return number.to_bytes((len(symbols) * width + 7) // 8, "little")


def decode_raw(data: bytes, count: int, width: int) -> list[int]:
    corrupt_unless(len(data) == (count * width + 7) // 8, "wrong length")
    number = int.from_bytes(data, "little")
    corrupt_unless(number >> count * width == 0, "padding not zero")
    return [number >> i * width & (1 << width) - 1 for i in range(count)]


# Section 6: rans


def encode_rans(symbols: Sequence[int], model: Sequence[Table], probability_bits: int, lanes: int) -> bytes:
    states = [1 << 16] * lanes
    words: list[int] = []
    for i in reversed(range(len(symbols))):
        count, start = model[i][symbols[i]], sum(model[i][: symbols[i]])
        x = states[i % lanes]
        if x >= count << (32 - probability_bits):
            words.insert(0, x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // count << probability_bits) + x % count + start
    return b"".join(x.to_bytes(4, "little") for x in states) + b"".join(w.to_bytes(2, "little") for w in words)


def decode_rans(block: bytes, model: Sequence[Table], probability_bits: int, lanes: int) -> list[int]:
    corrupt_unless(len(block) >= 4 * lanes and len(block) % 2 == 0, "wrong length")
    states = [int.from_bytes(block[4 * i : 4 * i + 4], "little") for i in range(lanes)]
    words = [int.from_bytes(block[i : i + 2], "little") for i in range(4 * lanes, len(block), 2)]
    corrupt_unless(min(states) >= 1 << 16, "state too small")
    symbols = []
    for i, table in enumerate(model):
        x = states[i % lanes]
        slot = x % (1 << probability_bits)
        symbol, start = find(table, slot)
        x = table[symbol] * (x >> probability_bits) + slot - start
        if x < 1 << 16:
            corrupt_unless(len(words) > 0, "words end early")
            x = (x << 16) + words.pop(0)
        states[i % lanes] = x
        symbols.append(symbol)
    corrupt_unless(all(x == 1 << 16 for x in states), "wrong final state")
    corrupt_unless(not words, "words left over")
    return symbols


# Section 7: range


def encode_range(symbols: Sequence[int], model: Sequence[Table], probability_bits: int) -> bytes:
    low, width, words = 0, 2**64 - 1, 1
    for symbol, table in zip(symbols, model, strict=True):
        scale = width >> 24
        low += scale * (sum(table[:symbol]) << (24 - probability_bits))
        width = scale * (table[symbol] << (24 - probability_bits))
        if width < 1 << 32:
            low, width, words = low << 32, width << 32, words + 1
    number = -(-low // 2**32)
    return b"".join((number >> 32 * i & 0xFFFFFFFF).to_bytes(4, "little") for i in reversed(range(words)))


def decode_range(block: bytes, model: Sequence[Table], probability_bits: int) -> list[int]:
    corrupt_unless(len(block) % 4 == 0, "wrong length")
    words = [int.from_bytes(block[i : i + 4], "little") for i in range(0, len(block), 4)]
    supply = iter(words)
    width, point = 2**64 - 1, next(supply, 0) << 32 | next(supply, 0)
    taken, symbols = 0, []
    for table in model:
        scale = width >> 24
        corrupt_unless(point < scale << 24, "point outside the range")
        symbol, start = find(table, point // scale >> (24 - probability_bits))
        point -= scale * (start << (24 - probability_bits))
        width = scale * (table[symbol] << (24 - probability_bits))
        if width < 1 << 32:
            width, point, taken = width << 32, point << 32 | next(supply, 0), taken + 1
        symbols.append(symbol)
    corrupt_unless(len(words) in (taken + 1, taken + 2), "wrong number of words")
    corrupt_unless(point < 1 << 33, "wrong final point")
    return symbols


# Section 8: huffman


@lru_cache
def code_words(table: Table, probability_bits: int) -> dict[str, int]:
    """Return the canonical code: a string of 0 and 1 for each used symbol."""
    lengths = {s: probability_bits - (c.bit_length() - 1) for s, c in enumerate(table) if c}
    words, value, previous = {}, 0, 0
    for symbol in sorted(lengths, key=lambda s: (lengths[s], s)):
        value <<= lengths[symbol] - previous
        previous = lengths[symbol]
        words[f"{value:0{previous}b}" if previous else ""] = symbol
        value += 1
    return words


def encode_huffman(symbols: Sequence[int], model: Sequence[Table], probability_bits: int) -> bytes:
    bits = ""
    for symbol, table in zip(symbols, model, strict=True):
        bits += next(word for word, s in code_words(table, probability_bits).items() if s == symbol)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def decode_huffman(block: bytes, model: Sequence[Table], probability_bits: int) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in block)
    at, symbols = 0, []
    for table in model:
        words = code_words(table, probability_bits)
        length = next((n for n in range(probability_bits + 1) if bits[at : at + n] in words), None)
        if length is None or at + length > len(bits):
            raise CorruptStreamError("a code word runs beyond the block")
        symbols.append(words[bits[at : at + length]])
        at += length
    corrupt_unless(len(bits) - at < 8 and "1" not in bits[at:], "bits left over")
    return symbols
