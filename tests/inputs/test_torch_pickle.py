"""Files by `torch.save`: lazily mapped, and never a way to run code."""

import io
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from l2fmt.errors import InputError
from l2fmt.inputs import open_source

CALLS: list[str] = []


def spring(*_: object) -> dict[str, torch.Tensor]:
    """What a malicious pickle would call."""
    CALLS.append("called")
    return {"a": torch.ones(1)}


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return spring, ("x",)


class TrapSystem:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def saved(content: object, legacy: bool = False) -> bytes:
    """Return what torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def state() -> dict[str, torch.Tensor]:
    table = torch.rand(6, 4)
    return {
        "embedding": table,
        "head": table,
        "rows": table[2:4],
        "transposed": table.T,
        "half": torch.rand(3).half(),
        "brain": torch.rand(3).bfloat16(),
        "fp8": torch.rand(4).to(torch.float8_e4m3fn),
        "wide": torch.tensor([2**63 + 1], dtype=torch.uint64),
        "flag": torch.tensor(True),
        "complex": torch.tensor([1 + 2j]),
        "empty": torch.empty(0, 2),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "model", "model.safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_gives_back_its_tensors(tmp_path: Path, legacy: bool, name: str, wrapped: bool) -> None:
    # The old form does not know the dtypes that came after it.
    tensors = {n: t for n, t in state().items() if not legacy or n not in ("fp8", "wide")}
    path = tmp_path / name
    path.write_bytes(saved({"model_state_dict": tensors, "epoch": 1} if wrapped else tensors, legacy))
    with open_source(path) as source:
        assert source.names() == list(tensors)
        assert source.aliases() == {"head": "embedding"}
        assert source.nbytes == sum(t.nbytes for name, t in tensors.items() if name != "head")
        for name, tensor in tensors.items():
            found = source.get(name)
            assert found.is_contiguous() and (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found.flatten().view(torch.uint8), tensor.contiguous().flatten().view(torch.uint8))


def test_parameters_come_without_gradient() -> None:
    with open_source(saved({"w": nn.Parameter(torch.ones(2))})) as source:
        assert not source.get("w").requires_grad


def test_a_zip_checkpoint_is_mapped_rather_than_read(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.pt"
    torch.save({f"w{i}": torch.ones(4 << 20) for i in range(8)}, path)  # 128 MB
    scale = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    with open_source(path) as source:
        assert source.nbytes == 128 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before < 32 << 20


class Test_code_is_never_run:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_trap_in_a_checkpoint(self, legacy: bool) -> None:
        with pytest.raises(InputError, match=r"refused.*spring.*torch\.save\(model\.state_dict\(\)"):
            open_source(saved({"state_dict": {"a": torch.ones(1)}, "trap": Trap()}, legacy))
        assert not CALLS

    def test_a_trap_behind_a_built_in(self, tmp_path: Path) -> None:
        mark = tmp_path / "sprung"
        with pytest.raises(InputError, match="exec"):
            open_source(saved({"a": torch.ones(1), "trap": TrapSystem(mark)}))
        assert not mark.exists()

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_a_plain_pickle_is_not_even_tried(self, protocol: int) -> None:
        with pytest.raises(InputError, match="a plain pickle"):
            open_source(pickle.dumps({"a": Trap()}, protocol))
        assert not CALLS

    def test_the_magic_number_does_not_open_a_pickle(self) -> None:
        with pytest.raises(InputError):
            open_source(saved({}, legacy=True)[:15] + pickle.dumps(Trap(), 2))
        assert not CALLS

    def test_a_whole_module_is_refused_and_named(self) -> None:
        with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear\)"):
            open_source(saved(nn.Linear(2, 2)))


class Test_other_archives:
    def test_torchscript(self) -> None:
        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
        with pytest.raises(InputError, match="TorchScript"):
            open_source(stream.getvalue())

    def test_a_zip_of_something_else(self) -> None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("weights.npy", b"data")
        with pytest.raises(InputError, match=r"torch\.save did not write"):
            open_source(stream.getvalue())

    @pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], "text", 3])
    def test_contents_without_names(self, content: object) -> None:
        with pytest.raises(InputError, match="expected a state dict"):
            open_source(saved(content))


class Test_damage:
    def test_truncation(self) -> None:
        whole = saved({"a": torch.arange(4.0)})
        for length in range(0, len(whole), 7):
            with pytest.raises(InputError):
                open_source(whole[:length])

    def test_truncation_of_the_old_form(self) -> None:
        whole = saved({"a": torch.arange(4.0)}, legacy=True)
        for length in range(len(whole)):
            with pytest.raises(InputError):
                open_source(whole[:length])

    @pytest.mark.parametrize("legacy", [False, True])
    def test_changed_bytes_raise_a_typed_error_or_nothing(self, legacy: bool) -> None:
        whole = saved({"a": torch.arange(4.0), "b": torch.ones(2)}, legacy)
        for position in range(0, len(whole), 5):
            damaged = bytearray(whole)
            damaged[position] ^= 0x5A
            try:
                with open_source(damaged) as source:
                    for name in source.names():
                        source.get(name)
            except InputError:
                pass
