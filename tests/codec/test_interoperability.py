"""The `range` coder against constriction, an outside oracle: our streams in its decoder and its streams in ours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2codec import FrequencyTable, TableSet, decode, encode

constriction = pytest.importorskip("constriction")


def their_model(table):
    """The exact counts: `perfect=True` minimises the cross entropy, and counts / 2**P are its minimum at 24 bits."""
    return constriction.stream.model.Categorical(table.counts / 2.0**table.probability_bits, perfect=True)


def they_encode(symbols, model):
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(symbols.astype(np.int32), model)
    return encoder.get_compressed()


@given(
    alphabet=st.sampled_from([2, 3, 31, 200, 256]),
    bits=st.integers(8, 14),
    count=st.integers(0, 2000) | st.integers(0, 5),
    concentration=st.sampled_from([0.01, 0.3, 10.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_both_ways(alphabet, bits, count, concentration, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(alphabet, concentration)) + 1e-9
    table = FrequencyTable.from_histogram(1 + rng.multinomial(10**6, p / p.sum()), bits)
    tables = TableSet([table])
    # Half of the sequences are unlikely ones: rare symbols make carries and long words.
    draw = p / p.sum() if seed % 2 else np.full(alphabet, 1 / alphabet)
    symbols = rng.choice(alphabet, count, p=draw).astype(np.uint8)
    model = their_model(table)

    ours = np.frombuffer(encode("range", symbols, tables, block_bits=30), np.uint32)
    assert np.array_equal(constriction.stream.queue.RangeDecoder(ours.copy()).decode(model, count), symbols)

    theirs = they_encode(symbols, model)
    assert np.array_equal(theirs[: ours.size], ours)
    assert np.array_equal(decode("range", theirs.tobytes(), count, tables, block_bits=30), symbols)


def test_changing_tables():
    rng = np.random.default_rng(0)
    tables = TableSet([FrequencyTable.from_histogram(rng.integers(1, 1000, 16), 12) for _ in range(5)])
    symbols = rng.integers(0, 16, 500).astype(np.uint8)
    classes = np.repeat(rng.integers(0, 5, 50), 10)
    encoder = constriction.stream.queue.RangeEncoder()
    for part, k in zip(symbols.reshape(50, 10), classes[::10], strict=True):
        encoder.encode(part.astype(np.int32), their_model(tables.tables[k]))
    from l2codec import ClassMap

    row = ClassMap((500, 1, 1), 5, 0, classes)
    assert np.array_equal(decode("range", encoder.get_compressed().tobytes(), 500, tables, row), symbols)
