"""Folders in the layout of Hugging Face: one file of weights, or shards with an index that maps names to them."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from torch import Tensor

from l2fmt.errors import InputError, MissingFileError
from l2fmt.inputs._json import parse_object
from l2fmt.inputs.base import ModelSource
from l2fmt.inputs.sniff import open_file

INDEX_SUFFIX = ".index.json"
# In the order in which transformers looks for them.
CANDIDATES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def open_directory(folder: Path, origin: str, key: str | None = None) -> ModelSource:
    """Open the weights of a model folder; raises MissingFileError when it has none."""
    for name in CANDIDATES:
        path = folder / name
        if path.is_file():
            return open_index(path, str(path), key) if name.endswith(INDEX_SUFFIX) else open_file(path, str(path), key)
    raise MissingFileError(f"{origin}: a folder without a model; expected one of {', '.join(CANDIDATES)}")


def open_index(path: Path, origin: str, key: str | None = None) -> "ShardedCheckpoint":
    """Open a sharded checkpoint by its index."""
    return ShardedCheckpoint(path.parent, read_weight_map(path, origin), origin, key)


def read_weight_map(path: Path, origin: str) -> dict[str, str]:
    """Read tensor name -> shard file name; raises InputError for a shard name that could leave the folder."""
    weight_map = parse_object(path.read_bytes(), origin).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{origin}: no weight_map; expected an object of tensor names and shard file names")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain_file_name(shard):
            raise InputError(f"{origin}: tensor {tensor!r} is in shard {shard!r}; expected a file name without a path")
    return weight_map


class ShardedCheckpoint(ModelSource):
    """The tensors of an index, shard after shard, with at most one shard open at a time.

    Raises InputError for a tensor that is not in the shard the index names, MissingFileError for a missing shard.
    """

    def __init__(self, folder: Path, weight_map: dict[str, str], origin: str, key: str | None = None) -> None:
        super().__init__(origin)
        self._folder = folder
        self._key = key
        self._shard_of: dict[str, str] = {}
        self._nbytes: dict[str, int] = {}
        self._aliases: dict[str, str] = {}
        self._metadata: dict[str, str] = {}
        self._open: tuple[str, ModelSource] | None = None
        self.resources.callback(self._close_shard)
        try:
            for shard in sorted(set(weight_map.values())):
                self._survey(shard, weight_map)
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._shard_of)

    def get(self, name: str) -> Tensor:
        if name not in self._shard_of:
            raise self.missing(name)
        return self._shard(self._shard_of[name]).get(name)

    def tensor_nbytes(self, name: str) -> int:
        if name not in self._nbytes:
            raise self.missing(name)
        return self._nbytes[name]

    def aliases(self) -> dict[str, str]:
        return dict(self._aliases)

    def metadata(self) -> dict[str, str]:
        return dict(self._metadata)

    def _survey(self, shard: str, weight_map: dict[str, str]) -> None:
        """Check one shard against the index and note what it holds."""
        source = self._shard(shard)
        present = source.names()
        expected = {name for name, home in weight_map.items() if home == shard}
        if absent := sorted(expected - set(present)):
            raise InputError(f"{self.origin}: tensor {absent[0]!r} is not in its shard {shard}")
        owners = source.aliases()
        first: dict[str, str] = {}
        for name in present:
            if name not in expected:
                self.skipped.append(f"{name} (in {shard}, not in the index)")
                continue
            self._shard_of[name] = shard
            self._nbytes[name] = source.tensor_nbytes(name)
            # The owner of a tied weight may be a tensor that the index leaves out.
            if (owner := first.setdefault(owners.get(name, name), name)) != name:
                self._aliases[name] = owner
        self.skipped += source.skipped
        self._metadata = source.metadata() | self._metadata

    def _shard(self, shard: str) -> ModelSource:
        if self._open is None or self._open[0] != shard:
            self._close_shard()
            path = self._folder / shard
            if not path.is_file():
                raise MissingFileError(f"{self.origin}: the shard {shard} is missing")
            self._open = (shard, open_file(path, str(path), self._key))
        return self._open[1]

    def _close_shard(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _is_plain_file_name(name: str) -> bool:
    """Tell whether a name stays in its folder on every operating system, whichever this one is."""
    return (
        name not in ("", ".", "..")
        and "\0" not in name
        and all(p(name).name == name for p in (PurePosixPath, PureWindowsPath))
    )
