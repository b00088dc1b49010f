"""What `open_source` accepts, and how it says no to paths."""

import io
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from l2fmt.errors import FileAccessError, InputError, L2Error, MissingFileError
from l2fmt.inputs import ModelSource, open_source

CONTENT = save({"a": torch.arange(3)})


def test_a_stream_is_read_from_where_it_stands() -> None:
    stream = io.BytesIO(b"skip" + CONTENT)
    stream.seek(4)
    with open_source(stream) as source:
        assert isinstance(source, ModelSource)
        assert source.get("a").tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [CONTENT, b"nonsense"])
def test_no_temporary_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        with open_source(content):
            assert list(tmp_path.iterdir())
    except InputError:
        pass
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("none.safetensors", "none.safetensors.index.json"):
        with pytest.raises(MissingFileError, match=r"none\.safetensors") as caught:
            open_source(tmp_path / name)
        assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTENT)
    path.chmod(0)
    with pytest.raises(FileAccessError, match="cannot be read"):
        open_source(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"GGUF\x03\x00\x00\x00", "starts with the bytes 47 47 55 46"),
        (b"\x00", "unknown format"),
    ],
)
def test_other_formats(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"model\.bin: .*{found}.*allowed are safetensors"):
        open_source(path)


def test_random_bytes_raise_typed_errors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = (b"", b"PK\x03\x04", b"\x80\x02", bytes.fromhex("8000000000000000") + b"{", CONTENT[:20])
    for round_ in range(40):
        noise = bytes(torch.randint(0, 256, (round_ * 7,), generator=generator).tolist())
        with pytest.raises(L2Error):
            open_source(heads[round_ % len(heads)] + noise)


def test_a_packed_file_is_pointed_to_unpack():
    import l2fmt.numpy

    with pytest.raises(InputError, match=r"a \.l2c file already"):
        open_source(l2fmt.numpy.save({}))
