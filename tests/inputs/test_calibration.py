"""Calibration data of every kind in memory: the same batches whatever they come in, and clear refusals."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from l2fmt.errors import InputError
from l2fmt.inputs import calibration, columns
from l2fmt.inputs.calibration import Batch, CalibrationSet

N = 23
X = torch.arange(N * 6, dtype=torch.float32).reshape(N, 2, 3)
Y = torch.arange(N)


def whole(data: CalibrationSet) -> Batch:
    """Return all samples of a set of one shape."""
    (batch,) = data.in_order(data.count)
    return batch


def first_of(batches: Iterator[Batch], count: int) -> list[Tensor]:
    return [batch.args[0] for batch in itertools.islice(batches, count)]


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((4,), float(i)) for i in itertools.count())


class Texts(Dataset):
    """Samples of different lengths, with the length as label."""

    lengths = (3, 5, 3, 4, 5, 3, 3)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        length = self.lengths[index]
        return {"ids": torch.full((length,), index), "mask": torch.ones(length)}, length


def reused_buffer() -> Iterator[np.ndarray]:
    buffer = np.empty((1, 2, 3), np.float32)
    for sample in X:
        buffer[0] = sample.numpy()
        yield buffer


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.numpy(),
        X.double().numpy()[::-1][::-1],
        X.numpy().astype(">f4"),
        X.clone().requires_grad_(),
        TensorDataset(X),
        DataLoader(TensorDataset(X), batch_size=5),
        [X[:5], X[5:].numpy()],
        X.split(4),
        (batch for batch in X.split(7)),
        reused_buffer,
        lambda: iter(X.split(7)),
        lambda: X,
        CalibrationSet.of(X),
    ],
    ids=str,
)
def test_every_kind_of_inputs_is_the_same_set(data: Any):
    found = CalibrationSet.of(data)
    batch = whole(found)
    assert torch.equal(batch.args[0], X) and len(batch.args) == 1
    assert (batch.kwargs, batch.labels, found.count, found.has_labels, found.notes) == ({}, None, N, False, [])
    assert found.digest == CalibrationSet.of(X).digest


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.tolist()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=6),
        [(X[:9], Y[:9]), [X[9:], Y[9:].numpy()]],
    ],
    ids=str,
)
def test_every_kind_of_pair_has_labels(data: Any):
    found = CalibrationSet.of(data)
    batch = whole(found)
    assert found.has_labels and batch.labels is not None and torch.equal(batch.labels, Y)
    assert torch.equal(batch.args[0], X)
    assert found.digest == CalibrationSet.of((X, Y)).digest != CalibrationSet.of(X).digest


def test_mappings_are_keyword_arguments():
    for name in columns.LABELS:
        batch = whole(CalibrationSet.of({"left": X, "right": Y, name: Y + 1}))
        assert batch.args == () and list(batch.kwargs) == ["left", "right"]
        assert batch.labels is not None and torch.equal(batch.labels, Y + 1)
    batch = whole(CalibrationSet.of([({"left": X}, Y)]))
    assert torch.equal(batch.kwargs["left"], X) and batch.labels is not None
    assert whole(CalibrationSet.of({"left": X, "y": None})).labels is None


def test_several_positional_arguments():
    batch = whole(CalibrationSet.of(((X, Y), Y + 1)))
    assert torch.equal(batch.args[0], X) and torch.equal(batch.args[1], Y) and batch.labels is not None


@pytest.mark.parametrize(
    ("given", "handed_out"),
    [
        (torch.float64, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.uint8, torch.uint8),
        (torch.int32, torch.int32),
        (torch.int64, torch.int64),
        (torch.bool, torch.bool),
    ],
)
def test_floats_are_float32_and_the_rest_is_as_given(given: torch.dtype, handed_out: torch.dtype):
    batch = whole(CalibrationSet.of(torch.ones(3, 2).to(given)))
    assert batch.args[0].dtype == handed_out and (batch.args[0] == 1).all()


def test_shuffled_is_endless_and_deterministic():
    data = CalibrationSet.of((X, Y))
    batches = list(itertools.islice(data.shuffled(5, torch.Generator().manual_seed(3)), 12))
    again = list(itertools.islice(data.shuffled(5, torch.Generator().manual_seed(3)), 12))
    other = first_of(data.shuffled(5, torch.Generator().manual_seed(4)), 12)
    assert all(torch.equal(a.args[0], b.args[0]) for a, b in zip(batches, again, strict=True))
    assert not all(torch.equal(a.args[0], b) for a, b in zip(batches, other, strict=True))
    orders = []
    for epoch in range(3):  # 4 batches of 5, and 3 samples left out
        labels = [batch.labels for batch in batches[4 * epoch : 4 * epoch + 4]]
        order = torch.cat([label for label in labels if label is not None])
        assert len(order) == 20 == len(set(order.tolist()))
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2]
    for batch in batches:
        assert batch.labels is not None and torch.equal(batch.args[0], X[batch.labels])


def test_a_batch_larger_than_the_set_is_the_set():
    sizes = [len(tensor) for tensor in first_of(CalibrationSet.of(X).shuffled(100, torch.Generator()), 3)]
    assert sizes == [N] * 3


def test_in_order_is_one_pass():
    batches = list(CalibrationSet.of((X, Y)).in_order(10))
    assert [len(batch.args[0]) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.args[0] for batch in batches]), X)


def test_a_sample_has_as_many_as_asked_for_however_small_the_batches_are():
    data = CalibrationSet.of([torch.zeros(1, length) for length in range(1, 30)] + [torch.zeros(30, 40)])
    assert [batch.count for batch in data.sample(10, 59, 0)] == [1] * 29 + [10] * 3
    drawn = list(data.sample(10, 20, 0))
    assert 20 <= sum(batch.count for batch in drawn) < 30 and len(drawn) > 2
    assert {batch.args[0].shape for batch in drawn} != {batch.args[0].shape for batch in data.sample(10, 20, 1)}


def test_samples_of_different_shapes_never_share_a_batch():
    data = CalibrationSet.of(Texts())
    assert data.count == 7 and data.has_labels
    found = [(batch.kwargs["ids"][:, 0].tolist(), batch.kwargs["ids"].shape[1]) for batch in data.in_order(3)]
    assert found == [([0, 2, 5], 3), ([6], 3), ([1, 4], 5), ([3], 4)]
    epoch = list(itertools.islice(data.shuffled(3, torch.Generator()), 3))
    assert sorted(batch.kwargs["ids"].shape[1] for batch in epoch) == [3, 4, 5]
    assert all(batch.labels is not None and (batch.labels == batch.kwargs["ids"].shape[1]).all() for batch in epoch)
    padded = [torch.zeros(4, 7), torch.ones(4, 9), torch.full((4, 8), 2.0)]
    shapes = [tuple(tensor.shape) for tensor in first_of(CalibrationSet.of(padded).shuffled(4, torch.Generator()), 3)]
    assert sorted(shapes) == [(4, 7), (4, 8), (4, 9)]


def test_a_loader_without_end_ends_at_the_limit():
    assert CalibrationSet.of(DataLoader(Endless(), batch_size=3), 10).count == 10
    data = CalibrationSet.of(Endless())
    assert data.count == columns.DRAWN == 4096
    assert data.notes == ["of the calibration data the first 4,096 samples are used"]
    assert whole(CalibrationSet.of((X for _ in itertools.count()), 30)).args[0].shape == (30, 2, 3)


def test_a_limit_takes_samples_at_even_distances():
    for data in ((X, Y), TensorDataset(X, Y)):
        found = CalibrationSet.of(data, 4)
        labels = whole(found).labels
        assert labels is not None and labels.tolist() == [0, 5, 11, 17]
        assert found.notes == ["4 of 23 calibration samples are used, at even distances"]
        assert CalibrationSet.of(data, N).notes == []
        with pytest.raises(InputError, match="at least one"):
            CalibrationSet.of(data, 0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    for module in (calibration, columns):
        monkeypatch.setattr(module, "MAX_BYTES", 5 * X[0].nbytes + 1)
    for data in (X, TensorDataset(X), X.split(3), X.split(1)):
        found = CalibrationSet.of(data)
        assert found.count == 5 and len(found.notes) == 1
    for module in (calibration, columns):
        monkeypatch.setattr(module, "MAX_BYTES", 8)
    for data in (X, TensorDataset(X), X.split(3)):
        with pytest.raises(InputError, match="bytes"):
            CalibrationSet.of(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no sample"),
        (torch.empty(0, 3), "no samples"),
        ([torch.empty(0, 3)], "batch 0 has no samples"),
        (TensorDataset(torch.empty(0, 3)), "no sample"),
        ({}, "no inputs"),
        ({"labels": Y}, "no inputs"),
        (torch.tensor(3.0), r"input 0 no dimension"),
        ((X, Y[:-1]), r"differing lengths \(input 0 23, labels 22\)"),
        ({"a": X, "b": X[1:]}, r"differing lengths \('a' 23, 'b' 22\)"),
        ({"a": X, "y": Y, "label": Y}, "2 sets of labels"),
        ([(X, Y, Y)], "batch 0 has 3 parts"),
        ([X, (X, Y)], "batch 1 has input 0, labels, those before it input 0"),
        ([{"a": X}, {"b": X}], "batch 1 has 'b', those before it 'a'"),
        (["text"], "batch 0: input 0 is a str"),
        ({"a": 5}, "'a' is a int"),
        ((X, ["cat"] * N), "labels are no numbers"),
        ((X, "cat"), "labels is a str"),
        (np.array(["a", "b"]), "array of <U1"),
        (np.array([object()]), "array of object"),
        (X.to_sparse(), "without dense elements"),
        (X.to("meta"), "without dense elements"),
        (torch.tensor([1.0, float("nan"), 2.0]), "input 0 holds values that are not finite"),
        ([X, X / 0], "batch 1: input 0 holds values that are not finite"),
        (torch.tensor([1e300], dtype=torch.float64), "not finite numbers of float32"),
        (5, "a int is no calibration data"),
        ("folder", "a str is no calibration data"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_said(data: Any, words: str):
    with pytest.raises(InputError, match=words):
        CalibrationSet.of(data)


def test_the_digest_is_of_the_content():
    digests = [CalibrationSet.of(data).digest for data in (X, X + 1, X.reshape(N, 3, 2), X.int(), {"x": X}, X[1:])]
    assert len(set(digests)) == len(digests) and all(len(digest) == 64 for digest in digests)


def test_a_split_is_no_copy_and_can_be_split_and_drawn_from():
    rows = torch.arange(100.0)[:, None].repeat(1, 2)
    part, others = CalibrationSet([{0: rows, None: torch.arange(100)}]).split(0.5, seed=0)
    rows += 1000
    quarter, _ = part.split(0.5, seed=1)
    for drawn in (part, others, quarter):
        batches = [*drawn.in_order(7), next(drawn.shuffled(4, torch.Generator().manual_seed(0)))]
        for batch in batches:
            assert batch.labels is not None and torch.equal(batch.args[0][:, 1], batch.labels + 1000)
    assert {*labels_of(quarter)} < {*labels_of(part)} == {*range(100)} - {*labels_of(others)}
    assert (
        part.digest == CalibrationSet.of((torch.cat([b.args[0] for b in part.in_order(9)]), labels_tensor(part))).digest
    )


def labels_tensor(samples: CalibrationSet) -> torch.Tensor:
    return torch.cat([batch.labels for batch in samples.in_order(50) if batch.labels is not None])


def labels_of(samples: CalibrationSet) -> list[int]:
    return labels_tensor(samples).tolist()


def test_batches_in_an_order_that_is_drawn_hold_every_sample_once():
    samples = CalibrationSet([{0: torch.arange(23.0)[:, None]}, {0: torch.arange(23.0, 40.0)[:, None, None]}])
    given = [batch.args[0].flatten().tolist() for batch in samples.in_order(4)]
    drawn = [batch.args[0].flatten().tolist() for batch in samples.in_order(4, torch.Generator().manual_seed(1))]
    assert drawn != given and sorted(drawn) == given


def test_a_split_shares_out_the_samples_of_every_shape():
    short, long, alone = torch.arange(20.0)[:, None], torch.arange(40.0).reshape(20, 2), torch.zeros(1, 5)
    whole = CalibrationSet([{0: short}, {0: long}, {0: alone}])
    first, others = whole.split(0.75, seed=1)
    assert (first.count, others.count) == (31, 10)

    def values(part: CalibrationSet) -> list[float]:
        return sorted(float(row[0]) + 100 * row.numel() for batch in part.in_order(50) for row in batch.args[0])

    assert sorted(values(first) + values(others)) == values(whole)
    assert values(whole.split(0.75, seed=1)[1]) == values(others) != values(whole.split(0.75, seed=2)[1])
    one = CalibrationSet([{0: alone}]).split(0.5, seed=0)
    assert [part.count for part in one] == [1, 0]
