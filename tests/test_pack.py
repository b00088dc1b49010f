"""`pack` as its users call it: what is quantized, what is kept, and budgets of whole files."""

import io
import json
import math
import os

import numpy as np
import pytest
import torch

import l2fmt
from l2fmt.errors import InputError, TargetExistsError
from l2fmt.plan import VECTOR_MANTISSA_BITS
from l2fmt.transforms import round_mantissa

_NAMES = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16"}


@pytest.fixture
def state():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.Conv2d(16, 32, 3), torch.nn.Linear(32, 64)
    )
    return net.state_dict() | {"inv_freq": torch.rand(32), "steps": torch.arange(5)}


def packed(state, **options):
    result = l2fmt.pack(state, **options)
    return result, l2fmt.load(result.data or b"")


def test_every_tensor_returns_in_order_dtype_and_shape(state):
    _, found = packed(state)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape


def test_matrices_are_quantized_vectors_rounded_and_the_rest_kept(state):
    result, found = packed(state)
    assert result.quantized == 3
    for name in ("inv_freq", "steps", "1.num_batches_tracked"):
        assert torch.equal(found[name], state[name])
    for name in ("0.bias", "1.running_var", "3.bias"):
        assert found[name].numpy().tobytes() == round_mantissa(state[name].numpy(), VECTOR_MANTISSA_BITS).tobytes()
    for name in ("0.weight", "2.weight", "3.weight"):
        error = (found[name] - state[name]).square().sum() / state[name].square().sum()
        assert 0 < error < 0.02


@pytest.mark.parametrize("ratio", [3.0, 5.0])
def test_the_ratio_is_that_of_the_whole_file(state, ratio):
    state |= {f"more{i}": torch.randn(64, 64) for i in range(8)}  # a few KB are too few to be exact
    original = sum(t.numel() * t.element_size() for t in state.values())
    result = l2fmt.pack(state, target_ratio=ratio)
    assert result.original_bytes == original
    assert result.file_bytes == len(result.data or b"")
    assert ratio <= result.ratio <= ratio * 1.01


def test_lossless_keeps_every_bit(state):
    _, found = packed(state, lossless=True)
    for name, tensor in state.items():
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_patterns_choose_tensors(state):
    result, found = packed(state, include=["*.weight"], exclude=["0.*"], keep=["1.*", "3.bias"])
    assert result.quantized == 2
    for name in ("0.weight", "1.weight", "1.running_mean", "3.bias"):
        assert torch.equal(found[name], state[name])
    assert not torch.equal(found["2.weight"], state["2.weight"])
    assert "no tensor matches 'nothing*'" in l2fmt.pack(state, exclude=["nothing*"]).notes


def test_tied_weights_stay_tied():
    table = torch.randn(100, 32)
    result, found = packed({"embed": table, "head": table, "other": torch.randn(8, 8)})
    assert result.original_bytes == (3200 + 64) * 4
    assert found["embed"].data_ptr() == found["head"].data_ptr()


def test_values_that_cannot_be_quantized_are_kept_and_said(state):
    bad = torch.randn(10, 10)
    bad[2, 3] = float("nan")
    tiny = torch.full((4, 4), 1e-40)
    result, found = packed(state | {"bad": bad, "tiny": tiny})
    assert torch.equal(found["bad"].view(torch.int32), bad.view(torch.int32))
    assert torch.equal(found["tiny"], tiny)
    assert any("bad holds 1 values that are not finite" in note for note in result.notes)
    assert any("tiny has no value beyond" in note for note in result.notes)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 4000), (torch.float32, 2e37), (torch.bfloat16, 2e37)])
def test_values_near_the_end_of_a_dtype(dtype, most):
    mask = torch.triu(torch.full((64, 64), torch.finfo(dtype).min, dtype=dtype), 1)
    large = (torch.randn(64, 64).clamp(-3, 3) / 3 * most).to(dtype)
    for options in ({}, {"target_ratio": 6.0}, {"bits": 1.5}, {"bits": 3, "method": "pnmq"}):
        result, found = packed({"mask": mask, "large": large}, **options)
        assert result.notes[0].startswith(
            f"mask has values up to {-mask.min():g}, near the end of what {_NAMES[dtype]}"
        )
        assert torch.equal(found["mask"], mask)
        assert result.quantized == 1 and found["large"].isfinite().all()


def test_float64_weights_below_float32():
    weights = torch.randn(16, 16, dtype=torch.float64) * 1e-50
    result, found = packed({"w": weights})
    assert torch.equal(found["w"], weights) and "has no value beyond" in result.notes[0]


def test_one_pattern(state):
    assert packed(state, exclude="0.*")[0].quantized == 2
    assert torch.equal(packed(state, keep="3.bias")[1]["3.bias"], state["3.bias"])


@pytest.mark.parametrize(
    ("options", "said"), [({"bits": math.inf}, "finite"), ({"target_ratio": 1e300}, "leaves no byte")]
)
def test_budgets_that_are_none(state, options, said):
    with pytest.raises(InputError, match=said):
        packed(state, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_output_has_the_dtype_of_the_checkpoint(state, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    _, found = packed(state, max_error=1e-3)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
    for name in ("0.weight", "3.weight"):
        wanted = state[name].double()
        assert (found[name].double() - wanted).square().sum() <= 1e-3 * wanted.square().sum()


def test_the_file_says_how_it_was_made(state):
    result = l2fmt.pack(state, target_ratio=4, metadata={"author": "someone"})
    with l2fmt.container.Reader(result.data) as reader:
        metadata = dict(reader.metadata)
    assert metadata["author"] == "someone"
    assert metadata["l2fmt.method"] == "rd"
    assert metadata["l2fmt.original_bytes"] == str(result.original_bytes)
    assert json.loads(metadata["l2fmt.settings"])["target_ratio"] == 4


def test_one_budget_only(state):
    with pytest.raises(l2fmt.InputError, match="give one of"):
        l2fmt.pack(state, target_ratio=4, bits=3)
    with pytest.raises(l2fmt.InputError, match="give one of"):
        l2fmt.pack(state, target_ratio=4, lossless=True)
    with pytest.raises(l2fmt.InputError, match="must be positive"):
        l2fmt.pack(state, target_ratio=-1)
    with pytest.raises(l2fmt.TargetError, match="nothing to quantize"):
        l2fmt.pack({"steps": torch.arange(5)}, target_ratio=4)
    with pytest.raises(l2fmt.TargetError, match=r"cannot be reached.*a ratio of \d+\.\d\d can be reached"):
        l2fmt.pack(state, target_ratio=1000)


def test_nothing_is_written_when_packing_fails(state, tmp_path):
    target = tmp_path / "m.l2c"
    with pytest.raises(l2fmt.TargetError):
        l2fmt.pack(state, target, target_ratio=1000)
    assert list(tmp_path.iterdir()) == []
    target.write_bytes(b"old")
    with pytest.raises(l2fmt.TargetExistsError):
        l2fmt.pack(state, target)
    assert target.read_bytes() == b"old"
    l2fmt.pack(state, target, overwrite=True)
    assert l2fmt.verify(target)


def test_shards_hold_the_same_model(state, tmp_path):
    result = l2fmt.pack(state, tmp_path / "m.l2c", max_error=1e-3, max_shard_bytes=6000)
    shards = sorted(p.name for p in tmp_path.glob("m-*.l2c"))
    assert len(shards) > 1
    assert result.file_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    _, whole = packed(state, max_error=1e-3)
    found = l2fmt.load_file(tmp_path / "m.l2c.index.json")
    assert set(found) == set(whole)
    for name, tensor in whole.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("name", ["m-00002-of-00003.l2c", "m.l2c.index.json", "m.l2c"])
def test_what_is_in_the_way_of_shards_is_said_before_the_work(state, tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    seen = []
    with pytest.raises(TargetExistsError, match=name):
        l2fmt.pack(state, tmp_path / "m.l2c", max_shard_bytes=10_000, progress=lambda *what: seen.append(what))
    assert not seen and os.listdir(tmp_path) == [name]
    l2fmt.pack(state, tmp_path / "m.l2c", max_shard_bytes=10_000, overwrite=True)
    assert len(list(tmp_path.glob("m-*-of-00003.l2c"))) == 3


def test_shards_without_a_path_are_refused_before_the_work(state):
    seen = []
    for target in (None, io.BytesIO()):
        with pytest.raises(InputError, match="shards need a path"):
            l2fmt.pack(state, target, max_shard_bytes=6000, progress=lambda *what: seen.append(what))
    assert not seen
    assert l2fmt.pack(state, max_shard_bytes=10**6).data  # all of it in one


@pytest.mark.parametrize("target", [b"model.l2c", 5, ""])
def test_what_is_no_target_is_refused_before_the_work(state, target):
    seen = []
    with pytest.raises((InputError, l2fmt.FileAccessError), match=r"a target must be a path|a path without a name"):
        l2fmt.pack(state, target, progress=lambda *what: seen.append(what))
    assert not seen


def test_equal_input_gives_equal_files(state):
    first, second = (l2fmt.pack(state, target_ratio=ratio).data for ratio in (5, 5.0))
    assert first == second


def test_progress_reports_stages(state):
    seen = []
    l2fmt.pack(state, target_ratio=5, progress=lambda stage, done: seen.append((stage, done)))
    assert seen[-1] == ("writing", 1.0)
    assert all(0 <= done <= 1 for _, done in seen)
    assert np.unique([stage for stage, _ in seen]).size > 2


def test_a_file_much_smaller_than_asked_for_is_said(state, monkeypatch):
    state |= {f"more{i}": torch.randn(64, 64) for i in range(8)}
    assert not l2fmt.pack(state, target_ratio=5).notes
    monkeypatch.setattr("l2fmt.api.TOLERANCE", -1.0)  # as if no size came near
    notes = l2fmt.pack(state, target_ratio=5).notes
    assert any("smaller than asked for" in note for note in notes)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(40, 16)
        self.inner = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words):
        return self.head(torch.relu(self.inner(self.words(words))))


def test_a_checkpoint_without_the_other_names_of_tied_weights():
    """As Hugging Face writes them."""
    torch.manual_seed(0)
    net = Tied()
    bare = {name: tensor for name, tensor in net.state_dict().items() if name != "head.weight"}
    arguments = {"method": "obs", "bits": 5, "calibration": [torch.randint(0, 40, (8, 5)) for _ in range(4)]}
    _, expected = packed(net, **arguments)
    _, found = packed(bare, module=Tied(), **arguments)
    assert list(found) == list(bare) and all(torch.equal(found[name], expected[name]) for name in bare)
