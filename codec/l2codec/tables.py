"""Integer frequency tables and sets of them (spec/entropy-coding.md 2)."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from l2codec import _quantize, _table_bytes, prefix_codes
from l2codec.compiled import Kernel
from l2codec.errors import CodecError
from l2codec.search import search_tables

_fill_slots = Kernel("tables", "fill_slots")

MIN_PROBABILITY_BITS, MAX_PROBABILITY_BITS = 8, 14
MAX_ALPHABET = 1 << 16
MAX_TABLES = 64


class FrequencyTable:
    """An immutable table of symbol counts that sum to `2**probability_bits` (spec 2).

    `counts` is a read-only uint16 array with one count a symbol; a symbol of count 0 cannot be coded.
    """

    def __init__(self, counts: npt.ArrayLike, probability_bits: int):
        check_probability_bits(probability_bits)
        given = np.asarray(counts)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise CodecError(f"counts must be a 1-D integer array, not {given.ndim}-D {given.dtype}")
        if not 1 <= given.size <= MAX_ALPHABET:
            raise CodecError(f"an alphabet has 1 to {MAX_ALPHABET} symbols, not {given.size}")
        total = 1 << probability_bits
        if int(given.min()) < 0 or int(given.max()) > total:
            raise CodecError(f"counts must lie in [0, {total}]; found {given.min()} to {given.max()}")
        if (found := int(given.sum(dtype=np.int64))) != total:
            raise CodecError(f"counts must sum to 2**{probability_bits} = {total}, not {found}")
        self.counts = np.array(given, np.uint16)
        self.counts.flags.writeable = False
        self.probability_bits = int(probability_bits)

    @classmethod
    def from_histogram(cls, hist: npt.ArrayLike, probability_bits: int) -> "FrequencyTable":
        """Return the table of least code length for `hist` (A occurrence numbers); used symbols get at least 1."""
        check_probability_bits(probability_bits)
        return cls(_quantize.optimal_counts(_check_histogram(hist), probability_bits), probability_bits)

    @classmethod
    def dyadic_from_histogram(cls, hist: npt.ArrayLike, probability_bits: int) -> "FrequencyTable":
        """Return the dyadic table of least code length: an optimal prefix code of at most `probability_bits` bits."""
        check_probability_bits(probability_bits)
        return cls(_quantize.dyadic_counts(_check_histogram(hist), probability_bits), probability_bits)

    @property
    def alphabet(self) -> int:
        """The number of symbols, A."""
        return self.counts.size

    @cached_property
    def is_dyadic(self) -> bool:
        """Whether every non-zero count is a power of two (spec 2.2)."""
        counts = self.counts.astype(np.int64)
        return not np.any(counts & (counts - 1))

    def cost_bits(self) -> np.ndarray:
        """Return the code length of each symbol in bits, float64[A], infinite where the count is 0."""
        with np.errstate(divide="ignore"):
            return self.probability_bits - np.log2(self.counts.astype(np.float64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrequencyTable):
            return NotImplemented
        return self.probability_bits == other.probability_bits and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.probability_bits, self.counts.tobytes()))

    def __repr__(self) -> str:
        return f"FrequencyTable({self.counts.tolist()}, {self.probability_bits})"


class TableSet:
    """Tables that share an alphabet and probability bits; the class of a symbol selects one (spec 2).

    `origin` is the symbol around which the serialised form is ordered, usually that of the value 0.
    """

    def __init__(self, tables: Sequence[FrequencyTable], origin: int = 0):
        self.tables = tuple(tables)
        if not 1 <= len(self.tables) <= MAX_TABLES:
            raise CodecError(f"a table set has 1 to {MAX_TABLES} tables, not {len(self.tables)}")
        self.alphabet = self.tables[0].alphabet
        self.probability_bits = self.tables[0].probability_bits
        if any((t.alphabet, t.probability_bits) != (self.alphabet, self.probability_bits) for t in self.tables):
            raise CodecError("the tables of a set must share their alphabet and probability bits")
        if not 0 <= origin < self.alphabet:
            raise CodecError(f"the origin must lie in [0, {self.alphabet}), not {origin}")
        self.origin = int(origin)

    def to_bytes(self) -> bytes:
        """Return the one serialised form of the set (spec 2.1)."""
        return _table_bytes.write_counts([table.counts.tolist() for table in self.tables], self.origin)

    @classmethod
    def from_bytes(
        cls, data: bytes | memoryview, n_tables: int, alphabet: int, probability_bits: int, origin: int
    ) -> "TableSet":
        """Parse a serialised set; work is bounded by its length and `n_tables * alphabet`.

        Raises CorruptStreamError for anything but the canonical form, CodecError for parameters out of range.
        """
        check_probability_bits(probability_bits)
        if not 1 <= n_tables <= MAX_TABLES:
            raise CodecError(f"a table set has 1 to {MAX_TABLES} tables, not {n_tables}")
        if not 1 <= alphabet <= MAX_ALPHABET:
            raise CodecError(f"an alphabet has 1 to {MAX_ALPHABET} symbols, not {alphabet}")
        if not 0 <= origin < alphabet:
            raise CodecError(f"the origin must lie in [0, {alphabet}), not {origin}")
        counts = _table_bytes.read_counts(bytes(data), n_tables, alphabet, probability_bits, origin)
        return cls([FrequencyTable(row, probability_bits) for row in counts], origin)

    def cost_bits(self) -> np.ndarray:
        """Return the code length of each symbol in each table in bits, float64[K, A], infinite where the count is 0."""
        return np.stack([table.cost_bits() for table in self.tables])

    @cached_property
    def is_dyadic(self) -> bool:
        """Whether every table is dyadic (spec 2.2)."""
        return all(table.is_dyadic for table in self.tables)

    @cached_property
    def used(self) -> np.ndarray:
        """Which symbols can be coded, bool[A]: those that have a count in some table."""
        return np.any(self._counts, axis=0)

    def __len__(self) -> int:
        return len(self.tables)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TableSet):
            return NotImplemented
        return self.origin == other.origin and self.tables == other.tables

    def __hash__(self) -> int:
        return hash((self.origin, self.tables))

    def __repr__(self) -> str:
        return f"TableSet({list(self.tables)!r}, origin={self.origin})"

    # What the kernels look symbols up in, made on first use and kept with the set. All are flat: class-major.

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.stack([table.counts for table in self.tables])

    @cached_property
    def slots(self) -> np.ndarray:
        """For decoding by slot: uint64[K << P] = symbol | count << 16 | (slot - start) << 32."""
        slots = np.empty(len(self) << self.probability_bits, np.uint64)
        _fill_slots(self._counts, slots)
        return slots

    @cached_property
    def rans_slots(self) -> np.ndarray:
        """For rANS: uint32[K << P] = symbol | (slot - start) << 8 | (count - 1) << 20; where that is too narrow,
        `wide_slots`.
        """
        if self.alphabet > 256 or self.probability_bits > 12:
            return self.wide_slots
        slots = np.empty(len(self) << self.probability_bits, np.uint32)
        _fill_slots(self._counts, slots)
        return slots

    @cached_property
    def wide_slots(self) -> np.ndarray:
        """For rANS: uint16[K, 2**P + 2 * A], of each table the symbol of each slot, then each start and count.

        Every symbol takes two lookups, but in a quarter of the memory of `slots`, which nearer caches hold.
        """
        counts, size = self._counts, 1 << self.probability_bits
        wide = np.empty((len(self), size + 2 * self.alphabet), np.uint16)
        for row, of_table in zip(wide, counts, strict=True):
            row[:size] = np.repeat(np.arange(self.alphabet, dtype=np.uint16), of_table)
        wide[:, size::2] = np.cumsum(counts, axis=1, dtype=np.uint16) - counts
        wide[:, size + 1 :: 2] = counts
        return wide

    @cached_property
    def search(self) -> np.ndarray:
        """For rANS with several tables: what `l2codec.search` makes of them, uint16, empty if look-ups are faster."""
        return search_tables(self._counts, self.probability_bits, self.origin)

    @cached_property
    def leaders(self) -> np.ndarray:
        """The symbol of highest count of each table: uint64[K] = symbol | count << 16 | start << 32."""
        counts = self._counts.astype(np.uint64)
        symbols = counts.argmax(axis=1)
        tables = np.arange(len(self))
        starts = (np.cumsum(counts, axis=1) - counts)[tables, symbols]
        return symbols.astype(np.uint64) | counts[tables, symbols] << np.uint64(16) | starts << np.uint64(32)

    @cached_property
    def intervals(self) -> np.ndarray:
        """For encoding by interval: uint32[K * A] = start | count << 16."""
        counts = self._counts.astype(np.uint32)
        starts = np.cumsum(counts, axis=1, dtype=np.uint32) - counts
        return (starts | counts << np.uint32(16)).ravel()

    @cached_property
    def windows(self) -> np.ndarray:
        """For decoding prefix codes by the next P bits: uint32[K << P] = symbol | length << 16."""
        return np.concatenate([prefix_codes.windows(t.counts, self.probability_bits) for t in self.tables])

    def bursts(self, table: int) -> tuple[np.ndarray, np.ndarray]:
        """For decoding several symbols by the next P bits: uint8[2**P, 8], and uint16[2**P] = how many | bits << 8.

        The alphabet has at most 256 symbols; `table` is the number of one table.
        """
        if table not in self._bursts:
            size = 1 << self.probability_bits
            windows = self.windows[table * size : (table + 1) * size]
            self._bursts[table] = prefix_codes.bursts(windows, self.probability_bits)
        return self._bursts[table]

    @cached_property
    def _bursts(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    @cached_property
    def codes(self) -> np.ndarray:
        """For encoding prefix codes: uint32[K * A] = code word | length << 16; 2**31 where the count is 0."""
        self.require_dyadic()
        return np.concatenate([prefix_codes.code_words(t.counts, self.probability_bits) for t in self.tables])

    def require_dyadic(self) -> None:
        """Raise CodecError unless every table is dyadic."""
        if not self.is_dyadic:
            raise CodecError("huffman needs dyadic tables: every non-zero count a power of two")


def check_probability_bits(probability_bits: int) -> None:
    if not MIN_PROBABILITY_BITS <= probability_bits <= MAX_PROBABILITY_BITS:
        raise CodecError(
            f"probability bits must lie in [{MIN_PROBABILITY_BITS}, {MAX_PROBABILITY_BITS}], not {probability_bits}"
        )


def _check_histogram(hist: npt.ArrayLike) -> np.ndarray:
    given = np.asarray(hist)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not 1 <= given.size <= MAX_ALPHABET:
        raise CodecError(f"a histogram must be a 1-D integer array of 1 to {MAX_ALPHABET} entries")
    if int(given.min()) < 0 or int(given.max()) >= 1 << 48:
        raise CodecError(f"the entries of a histogram must lie in [0, 2**48); found {given.min()} to {given.max()}")
    return given.astype(np.int64)
