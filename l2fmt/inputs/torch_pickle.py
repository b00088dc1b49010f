"""Files written by `torch.save`, read with `weights_only=True` and never in any other way."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch

from l2fmt.errors import InputError
from l2fmt.inputs.tensors import TensorMapping, open_mapping

ADVICE = "where the file is trusted, re-save the weights alone: torch.save(model.state_dict(), 'weights.pt')"


def open_zip_checkpoint(path: Path, origin: str, key: str | None) -> TensorMapping:
    """Open the zip form, memory-mapped; raises InputError for TorchScript, other archives and damaged ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # zipfile raises all three on damage
        raise InputError(f"{origin}: a damaged or truncated zip archive ({error})") from error
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        raise InputError(
            f"{origin}: a TorchScript archive, which is a program; save its weights first: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pt')"
        )
    if "data.pkl" not in members:
        raise InputError(f"{origin}: a zip archive that torch.save did not write; it has no data.pkl")
    return open_mapping(_load(path, origin, mmap=True), origin, key)


def open_legacy_checkpoint(path: Path, origin: str, key: str | None) -> TensorMapping:
    """Open the form of torch before 1.6, which cannot be memory-mapped and so is read whole."""
    return open_mapping(_load(path, origin, mmap=False), origin, key)


def _load(path: Path, origin: str, mmap: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and retired storage classes
            if mmap and path.suffix != ".safetensors":  # torch.load believes that extension, whatever is inside
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as stream:
                return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        needs = f"it asks for {named[1].rstrip('.')}" if named else "it holds more than tensors and plain data"
        raise InputError(f"{origin}: refused, because reading it could run code ({needs}); {ADVICE}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the unpickler of torch lets any kind escape on damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{origin}: damaged, or not written by torch.save ({reason})") from error
