"""State dicts and checkpoint dicts: which mapping is the model, which tensors are tied, which are refused."""

import pytest
import torch
from torch import nn

from l2fmt.errors import InputError, MissingTensorError
from l2fmt.inputs import open_source

WEIGHTS = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, 2.0])}
OTHER = {"fc.weight": torch.zeros(2, 3)}


def test_a_state_dict_keeps_order_values_and_sizes() -> None:
    with open_source(WEIGHTS) as source:
        assert source.names() == ["fc.weight", "fc.bias"]
        assert all(torch.equal(source.get(name), tensor) for name, tensor in WEIGHTS.items())
        assert source.nbytes == 8 * 4
        assert (source.aliases(), source.metadata(), source.skipped) == ({}, {}, [])


def test_a_module_is_read_through_its_state_dict() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    source = open_source(module)
    assert source.names() == list(module.state_dict())
    assert not source.get("0.weight").requires_grad
    assert source.get("1.num_batches_tracked").shape == ()


def test_an_unknown_name_is_missing() -> None:
    source = open_source(WEIGHTS)
    for read in (source.get, source.tensor_nbytes):
        with pytest.raises(MissingTensorError, match=r"'fc\.wait'"):
            read("fc.wait")


def test_closing_lets_the_tensors_go() -> None:
    source = open_source(WEIGHTS)
    source.close()
    assert source.names() == []


class Test_tied_weights:
    def test_the_same_tensor_is_an_alias_and_counts_once(self) -> None:
        table = torch.rand(5, 4)
        source = open_source({"embedding": table, "head": table, "copy": table.clone()})
        assert source.aliases() == {"head": "embedding"}
        assert source.nbytes == 2 * 80
        assert torch.equal(source.get("head"), table)

    def test_a_module_that_ties_its_parameters(self) -> None:
        module = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        module["b"].weight = module["a"].weight
        assert open_source(module).aliases() == {"b.weight": "a.weight"}

    def test_views_of_other_elements_are_not_aliases(self) -> None:
        base = torch.arange(12.0)
        views = {
            "whole": base,
            "head": base[:6],
            "tail": base[6:],
            "matrix": base.view(3, 4),
            "transposed": base.view(3, 4).T,
            "every second": base[::2],
            "bits": base.view(torch.int32),
            "same": base.view(12),
        }
        source = open_source(views)
        assert source.aliases() == {"same": "whole"}
        for name, view in views.items():
            found = source.get(name)
            assert found.is_contiguous() and torch.equal(found, view)

    def test_square_transpose_is_not_an_alias(self) -> None:
        base = torch.rand(4, 4)
        assert open_source({"a": base, "b": base.T}).aliases() == {}

    def test_conjugate_and_negative_views_are_not_aliases(self) -> None:
        base = torch.tensor([1 + 2j, 3 - 4j])
        views = {"z": base, "conjugate": base.conj(), "imaginary": base.imag, "negative": base.conj().imag}
        source = open_source(views)
        assert source.aliases() == {}
        for name, view in views.items():
            found = source.get(name)
            assert not found.is_conj() and not found.is_neg()
            assert torch.equal(found, view)

    def test_empty_tensors_are_never_aliases(self) -> None:
        source = open_source({"a": torch.empty(0), "b": torch.empty(0), "c": torch.empty(0, 3)})
        assert source.aliases() == {}
        assert source.nbytes == 0
        assert source.get("c").shape == (0, 3)


class Test_checkpoint_dicts:
    @pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net", "params", "ema"])
    def test_a_usual_key_is_found(self, key: str) -> None:
        source = open_source({"epoch": 3, key: WEIGHTS, "optimizer": {"state": {}}})
        assert source.names() == list(WEIGHTS)
        assert source.skipped == ["epoch (int)", "optimizer (dict)"]

    def test_a_tensor_beside_the_state_dict_is_skipped(self) -> None:
        source = open_source({"state_dict": WEIGHTS, "best_accuracy": torch.tensor(0.9)})
        assert source.names() == list(WEIGHTS)
        assert source.skipped == ["best_accuracy (Tensor)"]

    def test_two_candidates_are_ambiguous(self) -> None:
        checkpoint = {"model": WEIGHTS, "ema": OTHER, "optimizer": {"moment": torch.zeros(1)}}
        with pytest.raises(InputError, match="key= from 'model', 'ema', 'optimizer'"):
            open_source(checkpoint)
        assert open_source(checkpoint, key="ema").names() == ["fc.weight"]

    def test_an_unusual_key_must_be_chosen(self) -> None:
        checkpoint = {"teacher": WEIGHTS}
        with pytest.raises(InputError, match="key= from 'teacher'"):
            open_source(checkpoint)
        assert open_source(checkpoint, key="teacher").names() == list(WEIGHTS)

    def test_a_wrong_key_lists_the_right_ones(self) -> None:
        with pytest.raises(InputError, match="no entry 'modle' that holds tensors; entries that do: 'model'"):
            open_source({"model": WEIGHTS}, key="modle")
        with pytest.raises(InputError, match="entries that do: none"):
            open_source(WEIGHTS, key="model")

    def test_parameters_named_like_a_usual_key_are_weights(self) -> None:
        tensors = {"params": torch.ones(2), "model": torch.ones(3)}
        assert open_source(tensors).names() == ["params", "model"]

    def test_entries_that_are_not_tensors_are_reported(self) -> None:
        source = open_source(WEIGHTS | {"version": 2, "_extra_state": b"", 7: None})
        assert source.names() == list(WEIGHTS)
        assert source.skipped == ["version (int)", "_extra_state (bytes)", "7 (NoneType)"]


class Test_refusals:
    @pytest.mark.parametrize(
        ("tensor", "found"),
        [
            (torch.eye(3).to_sparse(), "sparse"),
            (torch.empty(3, device="meta"), "meta device"),
            (torch.nn.UninitializedParameter(), "UninitializedParameter"),
        ],
    )
    def test_tensors_without_dense_data(self, tensor: torch.Tensor, found: str) -> None:
        with pytest.raises(InputError, match=f"tensor 'odd' is .*{found}"):
            open_source({"fine": torch.ones(1), "odd": tensor})

    @pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
    def test_quantized_tensors(self) -> None:
        tensor = torch.quantize_per_tensor(torch.ones(4), scale=0.1, zero_point=0, dtype=torch.qint8)
        with pytest.raises(InputError, match="tensor 'odd' is quantized"):
            open_source({"odd": tensor})

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_nested_tensors(self) -> None:
        with pytest.raises(InputError, match="tensor 'odd' is a nested tensor"):
            open_source({"odd": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])})

    def test_tensor_wrappers(self) -> None:
        class Wrapper(torch.Tensor):
            pass

        with pytest.raises(InputError, match="tensor 'odd' is a Wrapper"):
            open_source({"odd": torch.ones(2).as_subclass(Wrapper)})

    def test_names_must_be_strings(self) -> None:
        with pytest.raises(InputError, match=r"named 0 \(int\)"):
            open_source({0: torch.ones(1)})  # pyright: ignore[reportArgumentType]

    def test_nothing_to_pack(self) -> None:
        for empty in ({}, {"epoch": 1}, nn.ReLU()):
            with pytest.raises(InputError, match="no tensors"):
                open_source(empty)

    def test_kinds_that_are_no_source(self) -> None:
        for odd in (3, None, [torch.ones(1)], torch.ones(1)):
            with pytest.raises(InputError, match="cannot be packed"):
                open_source(odd)  # pyright: ignore[reportArgumentType]
