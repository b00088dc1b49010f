"""Fitting of class maps: planted structure is found, little data gets little model, and the result is deterministic."""

import numpy as np
import pytest

from l2codec import CodecError, FrequencyTable, TableSet, assign_classes, code_length, decode, encode, fit_classes

ORIGIN, ALPHABET = 40, 81


def laplace(scale, rng):
    values = np.rint(rng.laplace(0, scale))
    return (np.clip(values, -ORIGIN, ORIGIN) + ORIGIN).astype(np.uint8)


def planted(shape, rng):
    """Symbols whose scale is a product of row, column and position scales."""
    scale = np.ones(shape)
    for axis, n in enumerate(shape):
        scale = scale * np.exp2(rng.normal(0, 0.7, n)).reshape([-1 if a == axis else 1 for a in range(3)])
    return laplace(scale, rng).ravel()


def entropy_bits(symbols):
    hist = np.bincount(symbols)
    hist = hist[hist > 0]
    return float((hist * np.log2(hist.sum() / hist)).sum())


def side_bits(tables, maps):
    vectors = [v for m in maps for v in (m.row, m.column, m.position) if v is not None]
    ids = np.concatenate([np.empty(0, np.int64), *vectors]).astype(np.int64)
    return 8 * len(tables.to_bytes()) + entropy_bits(ids + 128) if ids.size else 8 * len(tables.to_bytes())


def test_planted_scales_are_found():
    rng = np.random.default_rng(0)
    shapes = [(64, 48, 9), (128, 100, 1), (10, 10, 9)]
    sequences = [(planted(shape, rng), shape) for shape in shapes]
    tables, maps = fit_classes(sequences, ALPHABET, ORIGIN)
    bits = sum(code_length(s, tables, m) for (s, _), m in zip(sequences, maps, strict=True))
    assert bits + side_bits(tables, maps) < 0.945 * sum(
        entropy_bits(s) for s, _ in sequences
    )  # 0.918 if all scales were known
    for (symbols, _), classes in zip(sequences, maps, strict=True):
        data = encode("rans", symbols, tables, classes, lanes=4)
        assert np.array_equal(decode("rans", data, symbols.size, tables, classes, lanes=4), symbols)
        for vector in (classes.row, classes.column, classes.position):
            assert vector is None or np.abs(vector).max() <= 31
    again = fit_classes(sequences, ALPHABET, ORIGIN)
    assert again[0] == tables
    assert all(np.array_equal(a.slice(0, a.size), b.slice(0, b.size)) for a, b in zip(maps, again[1], strict=True))


def test_ragged_rows_get_their_scales():
    rng = np.random.default_rng(1)
    lengths = np.array([500, 0, 3000, 10, 2000])
    scales = np.repeat([0.3, 1, 8, 1, 1.5], lengths)
    symbols = laplace(scales, rng)
    tables, (classes,) = fit_classes([(symbols, lengths)], ALPHABET, ORIGIN)
    assert classes.column is None and classes.position is None
    assert classes.row_lengths is not None
    assert np.array_equal(classes.row_lengths, lengths)
    assert code_length(symbols, tables, classes) < 0.91 * entropy_bits(symbols)  # 0.906 if all scales were known


def test_a_large_model_is_sampled():
    rng = np.random.default_rng(5)
    scale = np.exp2(rng.normal(0, 0.7, (3000, 1))) * np.exp2(rng.normal(0, 0.7, (1, 1500)))
    symbols = laplace(scale, rng).ravel()
    tables, (classes,) = fit_classes([(symbols, (3000, 1500, 1))], ALPHABET, ORIGIN, passes=6)
    assert classes.row is not None
    assert classes.column is not None
    assert code_length(symbols, tables, classes) + side_bits(tables, [classes]) < 0.93 * entropy_bits(symbols)


def test_classes_for_given_tables():
    rng = np.random.default_rng(0)
    shape = (64, 48, 9)
    symbols = planted(shape, rng)
    tables, (fitted,) = fit_classes([(symbols, shape)], ALPHABET, ORIGIN)
    assigned = assign_classes(symbols, shape, tables)
    assert code_length(symbols, tables, assigned) < 1.02 * code_length(symbols, tables, fitted)
    lengths = np.array([10, symbols.size - 10])
    assert assign_classes(symbols, lengths, tables).size == symbols.size
    assert assign_classes(symbols[:0], (0, 3, 1), tables).size == 0


def test_assigned_classes_can_code_what_they_must():
    tables = TableSet([FrequencyTable([255, 1, 0], 8), FrequencyTable([1, 1, 254], 8), FrequencyTable([0, 256, 0], 8)])
    symbols = np.repeat(np.array([0, 2, 1], np.uint8), 20)
    symbols[::20] = 1
    classes = assign_classes(symbols, (3, 20, 1), tables)
    assert np.isfinite(code_length(symbols, tables, classes))


def test_structureless_symbols_get_one_table():
    symbols = laplace(np.ones(20_000), np.random.default_rng(2))
    tables, (classes,) = fit_classes([(symbols, (200, 100, 1))], ALPHABET, ORIGIN)
    assert len(tables) == 1
    assert classes.is_constant


@pytest.mark.parametrize(
    "sequences", [[], [(np.empty(0, np.uint8), (0, 5, 1))], [(np.empty(0, np.uint8), np.array([0, 0]))]]
)
def test_nothing_to_fit(sequences):
    tables, maps = fit_classes(sequences, ALPHABET, ORIGIN)
    assert len(tables) == 1
    assert [m.size for m in maps] == [0] * len(sequences)


def test_one_value_and_wide_alphabets():
    tables, (classes,) = fit_classes([(np.full(100, 7, np.uint8), (10, 10, 1))], 8, 0)
    assert code_length(np.full(100, 7, np.uint8), tables, classes) == 0
    symbols = np.random.default_rng(3).integers(0, 3000, 5000).astype(np.uint16)
    tables, (classes,) = fit_classes([(symbols, (50, 100, 1))], 3000, 1500, probability_bits=14)
    assert np.isfinite(code_length(symbols, tables, classes))


def test_arguments_are_checked():
    symbols = np.zeros(6, np.uint8)
    for arguments in (
        ([(symbols, (2, 2, 1))], 8, 0),
        ([(symbols + 8, (2, 3, 1))], 8, 0),
        ([(symbols.astype(np.int32), (2, 3, 1))], 8, 0),
        ([(symbols.reshape(2, 3), (2, 3, 1))], 8, 0),
    ):
        with pytest.raises(CodecError):
            fit_classes(*arguments)
    for n_tables in (0, 33):
        with pytest.raises(CodecError):
            fit_classes([(symbols, (2, 3, 1))], 8, 0, n_tables=n_tables)
