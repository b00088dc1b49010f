"""Calibration data: the samples a method feeds to a module, from tensors, loaders, pictures or files of arrays."""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from l2fmt.errors import FileAccessError, InputError, MissingDependencyError, MissingFileError
from l2fmt.inputs.module import import_object, run_user_code

DRAWN = 4096  # samples at most of what must be read or computed, such as a loader without end, where no limit is given
MAX_BYTES = 4 << 30  # of all samples in memory, whatever the limit
LABELS = ("labels", "label", "y")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARRAY_FILES = (".npy", ".npz", ".pt", ".pth", ".safetensors")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
_DECODERS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # Pillow has others, some of which run programs
_MAX_ENTRIES = 1_000_000  # of a zip
_MAX_ENTRY_BYTES = 1 << 28

# Tensors with the same first dimension, by place: positional arguments 0, 1, ..., named arguments, None for labels.
_Place = int | str | None
_Columns = dict[_Place, Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of the module, `module(*args, **kwargs)`, on tensors whose first dimension counts the samples.

    Floats are float32, integers of the dtype they were given in. `labels`, if there are any, have one entry a sample.
    The tensors may share memory with the set, so they must not be written to.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Tensor | None


class CalibrationSet:
    """Samples on the CPU, from which batches of any size are drawn; made by `of` or `read_calibration`.

    Samples of different shapes, such as texts of different lengths, never share a batch: those of each shape are
    batched among themselves. `notes` says where not all the data are used.
    """

    def __init__(self, groups: Sequence[_Columns], notes: Sequence[str] = ()) -> None:
        self._groups = list(groups)  # one for each combination of shapes and dtypes
        self.notes = list(notes)

    @property
    def count(self) -> int:
        """Samples."""
        return sum(map(_length, self._groups))

    @property
    def has_labels(self) -> bool:
        """Whether each sample has a label."""
        return None in self._groups[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of names, dtypes, shapes and bytes of all tensors, whatever batches they came in."""
        digest = hashlib.sha256()
        for columns in self._groups:
            for place in sorted(columns, key=repr):
                tensor = columns[place]
                digest.update(f"{place!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @classmethod
    def of(cls, data: Any, limit: int | None = None) -> "CalibrationSet":
        """Return a set of at most `limit` samples of what the caller has.

        Args:
            data: a tensor or array [N, ...]; a mapping of names to such, the module's keyword arguments, of which
                "labels", "label" or "y" are labels; a pair (inputs, labels), inputs being one of these or a tuple of
                positional arguments; a `Dataset` of samples of these kinds; an iterable of batches of these kinds; a
                function without arguments that returns one of all these; a CalibrationSet, returned as it is.
            limit: by default 4,096 of a dataset or an iterable, all of tensors. Of tensors and datasets that hold more,
                samples at even distances are taken; of iterables the first. In memory they have at most 4 GiB.

        Raises InputError for what is empty, of differing lengths, not a tensor, or not finite.
        """
        if limit is not None and limit < 1:
            raise InputError(f"the limit must be at least one sample, not {limit}")
        if isinstance(data, CalibrationSet):
            return data
        notes: list[str] = []
        if isinstance(data, Tensor | np.ndarray | Mapping) or (isinstance(data, tuple) and len(data) == 2):
            columns = _columns(data, "the calibration data")
            count = _length(columns)
            index = _spread(count, _nbytes(columns) // count, limit or count, notes)
            if len(index) < count:
                columns = {place: tensor[list(index)] for place, tensor in columns.items()}
            return cls([_checked(columns, "the calibration data")], notes)
        limit = DRAWN if limit is None else limit
        if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
            return cls._gather(_samples(data, limit, notes), limit, notes)
        if isinstance(data, Iterable) and not isinstance(data, str | bytes):
            kind, single = ("sample", True) if isinstance(data, Dataset) else ("batch", False)
            items = (_columns(item, f"calibration {kind} {i}", single=single) for i, item in enumerate(data))
            return cls._gather(items, limit, notes)
        if callable(data):
            return cls.of(data(), limit)
        raise InputError(f"a {type(data).__name__} is no calibration data; expected tensors, a dataset or batches")

    @classmethod
    def _gather(cls, batches: Iterable[_Columns], limit: int, notes: list[str]) -> "CalibrationSet":
        """Join batches of one shape and dtype, up to the limit or the memory allowed."""
        groups: dict[frozenset[Any], list[_Columns]] = {}
        places: set[_Place] = set()
        count = nbytes = 0
        for number, batch in enumerate(batches):
            places = places or set(batch)
            if set(batch) != places:
                found, before = _listing(batch), _listing(places)
                raise InputError(f"calibration batch {number} has {found}, those before it {before}; expected the same")
            length = _length(batch)
            room = min(limit - count, (MAX_BYTES - nbytes) * length // max(_nbytes(batch), 1))
            if room > 0:
                # A copy, because a loader may write its next batch into the same memory.
                part = {place: tensor[:room].clone() for place, tensor in batch.items()}
                part = _checked(part, f"calibration batch {number}")
                kind = frozenset((place, tensor.dtype, tensor.shape[1:]) for place, tensor in part.items())
                groups.setdefault(kind, []).append(part)
                count, nbytes = count + _length(part), nbytes + _nbytes(part)
            if room < length:
                notes.append(f"of the calibration data the first {count:,} samples are used")
                break
        if not count:
            raise InputError(f"the calibration data hold no sample of at most {MAX_BYTES:,} bytes")
        # Taking each tensor out of its part frees the parts while the joined ones grow.
        joined = [
            {at: torch.cat([part.pop(at) for part in parts]) for at in list(parts[0])} for parts in groups.values()
        ]
        return cls(joined, notes)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches without end, each epoch in a new order.

        An epoch leaves out what does not fill a batch, except where a shape has fewer samples than one batch.
        """
        while True:
            drawn: list[tuple[_Columns, Tensor]] = []
            for columns in self._groups:
                order = torch.randperm(_length(columns), generator=generator)
                drawn += [(columns, index) for index in order[: max(len(order) // size, 1) * size].split(size)]
            for number in torch.randperm(len(drawn), generator=generator).tolist():
                yield _batch(*drawn[number])

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all samples once, in the order given, those of one shape after those of another."""
        for columns in self._groups:
            for start in range(0, _length(columns), size):
                yield _batch(columns, slice(start, start + size))


def _batch(columns: _Columns, index: slice | Tensor) -> Batch:
    chosen = {place: tensor[index] for place, tensor in columns.items()}
    labels = chosen.pop(None, None)
    for place, tensor in chosen.items():
        chosen[place] = tensor.float() if tensor.is_floating_point() else tensor
    positional = sorted(place for place in chosen if isinstance(place, int))
    named = {place: tensor for place, tensor in chosen.items() if isinstance(place, str)}
    return Batch(tuple(chosen[place] for place in positional), named, labels)


def _samples(dataset: Any, limit: int, notes: list[str]) -> Iterator[_Columns]:
    """Yield samples of a dataset with a length as batches of one, at even distances if there are more than allowed."""
    if not hasattr(dataset, "__len__"):
        raise InputError(f"the dataset {type(dataset).__name__} has no length; give an iterable of batches instead")
    if len(dataset):
        first = _columns(dataset[0], "calibration sample 0", single=True)
        for i in _spread(len(dataset), _nbytes(first), limit, notes):
            yield _columns(dataset[i], f"calibration sample {i}", single=True)


def _spread(count: int, sample_bytes: int, limit: int, notes: list[str]) -> Sequence[int]:
    """Return which samples to take: all, or as many as the limit and the memory allow, at even distances."""
    most = min(limit, MAX_BYTES // max(sample_bytes, 1))
    if most == 0:
        raise InputError(f"a calibration sample has {sample_bytes:,} bytes; at most {MAX_BYTES:,} are kept in memory")
    if most >= count:
        return range(count)
    notes.append(f"{most:,} of {count:,} calibration samples are used, at even distances")
    return [i * count // most for i in range(most)]


def _columns(item: Any, where: str, *, single: bool = False) -> _Columns:
    """Return the tensors of a batch, or of a single sample as a batch of one."""
    inputs, labels = item, None
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise InputError(f"{where} has {len(item)} parts; expected inputs, or a pair of inputs and labels")
        inputs, labels = (*item, None)[:2]
    if isinstance(inputs, Mapping):
        named = dict(inputs)
        candidates = [labels, *(named.pop(name, None) for name in LABELS)]
        present = [candidate for candidate in candidates if candidate is not None]
        if len(present) > 1:
            raise InputError(f"{where} has {len(present)} sets of labels; expected one of {', '.join(LABELS)}")
        labels = present[0] if present else None
    else:
        named = dict(enumerate(inputs)) if isinstance(inputs, tuple | list) else {0: inputs}
    columns = {place: _tensor(value, f"{where}: {_name(place)}") for place, value in named.items()}
    if not columns:
        raise InputError(f"{where} has no inputs")
    if labels is not None:
        columns[None] = _label_tensor(labels, f"{where}: {_name(None)}")
    if single:
        columns = {place: tensor.unsqueeze(0) for place, tensor in columns.items()}
    lengths = {_name(place): _length({place: tensor}) if tensor.dim() else None for place, tensor in columns.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        found = ", ".join(f"{name} {'no dimension' if n is None else n}" for name, n in lengths.items())
        raise InputError(f"{where} has differing lengths ({found}); the first dimension of all must count the samples")
    if 0 in lengths.values():
        raise InputError(f"{where} has no samples")
    return columns


def _tensor(value: Any, what: str) -> Tensor:
    """Return a dense tensor on the CPU that shares memory with the value where it can."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
            raise InputError(
                f"{what} is a tensor without dense elements ({value.layout}, {value.device}, {value.dtype})"
            )
        return value.detach().cpu().as_subclass(Tensor)
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(f"{what} is a {type(value).__name__}; expected a tensor or an array")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        raise InputError(f"{what} is an array of {array.dtype}; expected numbers")
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _label_tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, int | float | list):
        return _tensor(value, what)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} are no numbers ({error}); leave them out where the method needs none") from error


def _checked(columns: _Columns, where: str) -> _Columns:
    """Return the tensors with floats of at most 32 bits; raises InputError for inputs that are not finite."""
    checked = dict(columns)
    for place, tensor in columns.items():
        if tensor.is_floating_point():
            if tensor.dtype not in (torch.float16, torch.bfloat16):
                checked[place] = tensor = tensor.float()
            if place is not None and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():  # NaN is either
                raise InputError(f"{where}: {_name(place)} holds values that are not finite numbers of float32")
    return checked


def _length(columns: _Columns) -> int:
    return next(iter(columns.values())).shape[0]


def _nbytes(columns: _Columns) -> int:
    return sum(tensor.nbytes for tensor in columns.values())


def _name(place: _Place) -> str:
    return "labels" if place is None else f"input {place}" if isinstance(place, int) else repr(place)


def _listing(places: Iterable[_Place]) -> str:
    return ", ".join(sorted(map(_name, places)))


def read_calibration(
    spec: str,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> CalibrationSet:
    """Read calibration data that a user names.

    Args:
        spec: a folder or .zip of pictures, a file of arrays (.npy, .npz, .pt, .pth, .safetensors), or, where there is
            no such path, `package.module:loader`: code of the user, which is run, and gives what `CalibrationSet.of`
            takes. In a file of several arrays "labels", "label" or "y" are labels; of the others a single one is the
            input, several are the module's keyword arguments by name.
        image_size: pictures are scaled so that their short side has so many pixels, and cropped to their central
            square; without it they must be of one size.
        mean, std: of each channel, red first, for values 0..1: inputs are (x - mean) / std, float32 [N, 3, H, W]; by
            default those usual for ImageNet.
        limit: as in `CalibrationSet.of`; 4,096 pictures by default, in the order of their names at even distances.
        progress: called with "reading" and the share of the pictures done.

    Raises InputError for what cannot be read, MissingFileError and FileAccessError for paths, MissingDependencyError
    for pictures without Pillow. Files are never unpickled but for tensors and plain data.
    """
    path = Path(spec)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return _read_pictures(path, image_size, mean, std, limit, progress or (lambda stage, done: None))
    if not (image_size is None and mean is None and std is None):
        raise InputError(f"{spec}: image size, mean and std are for a folder or .zip of pictures")
    if path.exists():
        data = _read_arrays(path)
    elif ":" in spec:
        loader = import_object(spec)
        return run_user_code(lambda: CalibrationSet.of(loader, limit), f"loading calibration data with {spec}")
    else:
        raise MissingFileError(f"{spec}: no such file or folder, and code is named as package.module:loader")
    try:
        return CalibrationSet.of(data, limit)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from error


def _read_arrays(path: Path) -> Any:
    """Return what a file of arrays holds, in a form that `CalibrationSet.of` takes."""
    suffix = path.suffix.lower()
    if suffix not in ARRAY_FILES:
        allowed = ", ".join((*ARRAY_FILES, ".zip"))
        raise InputError(f"{path}: calibration files end in {allowed}, not in {suffix or 'nothing'}")
    try:
        if suffix in (".npy", ".npz"):
            _check_archive(path)
            content: Any = np.load(path, mmap_mode="c", allow_pickle=False)
            if not isinstance(content, np.ndarray):
                with content:
                    content = {name: content[name] for name in content.files}
        elif suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # these readers let any kind escape on damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: damaged, or it holds more than tensors and plain data ({reason})") from error
    if not isinstance(content, Mapping):
        return content
    labels = {name: value for name, value in content.items() if name in LABELS}
    inputs = [value for name, value in content.items() if name not in LABELS]
    return {0: inputs[0], **labels} if len(inputs) == 1 else dict(content)


def _check_archive(path: Path) -> None:
    """Raise InputError if a file is a zip that would inflate beyond bounds, BadZipFile if it is a damaged one."""
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            return
        with zipfile.ZipFile(stream) as archive:
            total = sum(info.file_size for info in archive.infolist())
    if total > MAX_BYTES:
        raise InputError(f"{path}: {total:,} bytes of arrays; at most {MAX_BYTES:,} are read from one .npz")


def _read_pictures(
    path: Path,
    size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int | None,
    progress: Callable[[str, float], None],
) -> CalibrationSet:
    try:
        from PIL import Image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{path}: pictures are read with Pillow: pip install pillow") from error
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least one sample, not {limit}")
    if size is not None and size < 1:
        raise InputError(f"the image size must be at least one pixel, not {size}")
    center, spread = _channels(mean, IMAGENET_MEAN, "mean"), _channels(std, IMAGENET_STD, "std")
    if not (spread > 0).all():
        raise InputError(f"std must be positive, not {tuple(spread.tolist())}")
    notes: list[str] = []
    with ExitStack() as resources:
        openers = _in_folder(path) if path.is_dir() else _in_archive(path, resources)
        if not openers:
            raise InputError(f"{path}: holds no pictures; allowed are {', '.join(PICTURES)}")
        names = sorted(openers)
        # The size is known before anything is scaled to it, so that one beyond bounds is refused and not tried.
        shape = (size, size, 3) if size else _decode(openers[names[0]], f"{path}: {names[0]}", None).shape
        chosen = [names[i] for i in _spread(len(names), 4 * prod(shape), limit or DRAWN, notes)]
        inputs = torch.empty(len(chosen), 3, *shape[:2])
        for done, name in enumerate(chosen):
            picture = _decode(openers[name], f"{path}: {name}", size)
            if picture.shape != shape:
                sizes = " and ".join(f"{width}x{height}" for height, width, _ in (shape, picture.shape))
                raise InputError(f"{path}: {names[0]} and {name} are of different sizes, {sizes}; give an image size")
            inputs[done] = torch.from_numpy(((picture / np.float32(255) - center) / spread).transpose(2, 0, 1))
            progress("reading", (done + 1) / len(chosen))
    return CalibrationSet([{0: inputs}], notes)


def _channels(values: Sequence[float] | None, default: Sequence[float], name: str) -> np.ndarray:
    channels = np.array(default if values is None else values, np.float32)
    if channels.shape != (3,) or not np.isfinite(channels).all():
        raise InputError(f"{name} must be three numbers, of red, green and blue, not {values}")
    return channels


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    return name.lower().endswith(PICTURES) and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _in_folder(folder: Path) -> dict[str, Callable[[], BinaryIO]]:
    """Return how to open each picture in a folder and those inside it, by name."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: lambda path=path: path.open("rb") for name, path in paths.items() if _is_picture(name)}


def _in_archive(path: Path, resources: ExitStack) -> dict[str, Callable[[], BinaryIO]]:
    """Return how to open each picture in a zip, by name; raises InputError for a damaged one or one beyond bounds."""
    try:
        archive = resources.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path}: a damaged or truncated zip archive ({error})") from error
    infos = [info for info in archive.infolist() if _is_picture(info.filename)]
    largest = max((info.file_size for info in infos), default=0)
    if len(infos) > _MAX_ENTRIES or largest > _MAX_ENTRY_BYTES:
        allowed = f"at most {_MAX_ENTRIES:,} of {_MAX_ENTRY_BYTES:,} bytes are read"
        raise InputError(f"{path}: {len(infos):,} pictures, the largest of {largest:,} bytes; {allowed}")
    return {info.filename: lambda info=info: io.BytesIO(archive.read(info)) for info in infos}


def _decode(open_picture: Callable[[], BinaryIO], name: str, size: int | None) -> np.ndarray:
    """Return a picture as uint8 [H, W, 3], scaled and cropped to a square if a size is given."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_picture() as stream, Image.open(stream, formats=_DECODERS) as opened:
                picture = opened.convert("RGB")
        if size is not None:
            # Only the central square is scaled: a long strip scaled whole could fill the memory.
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            square = (left, top, left + side, top + side)
            picture = picture.resize((size, size), Image.Resampling.BILINEAR, square)
        return np.asarray(picture)
    except MemoryError:
        raise
    except Exception as error:  # decoders let any kind escape on damaged bytes
        raise InputError(f"{name} cannot be decoded ({error or type(error).__name__})") from error
