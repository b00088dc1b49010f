"""The ImageNet protocol on a stand-in: a few generated pictures, a small network, and libraries made of paper."""

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("PIL", reason="pillow is not installed")
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `benchmarks` is no installed package, and `pytest` alone leaves the root out

from PIL import Image

import l2fmt
from benchmarks import imagenet, imagenet_models, imagenet_pictures
from benchmarks.accuracy.rows import FIELDS
from l2fmt.errors import InputError, MissingDependencyError, MissingFileError

CLASSES = ("n01440764", "n01443537", "n02102040")
FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 16, 8, 8)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.features(x))).mean((2, 3)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures in three classes, each of a colour with noise: train has four a class, val three."""
    folder = tmp_path_factory.mktemp("imagenet")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 120, (48 + 8 * i, 60, 3))
                pixels[:, :, label] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{name}_{i}.JPEG")
            (folder / split / name / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def factory(tmp_path, monkeypatch) -> str:
    """The name of a factory in a module of the current folder."""
    (tmp_path / "standin_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "standin_net", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return "standin_net:Net"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == FIELDS
        return list(reader)


@pytest.fixture
def command(folder, factory, tmp_path):
    """The function that runs the command on the stand-in and returns its exit status."""

    def run(*more: str) -> int:
        fixed = ["net", "--data", str(folder), "--model-factory", factory, "-o", str(tmp_path / "out.csv")]
        threads = str(torch.get_num_threads())
        return imagenet.main([*fixed, "--threads", threads, "--batch", "4", "--workers", "2", *more])

    return run


def test_rows_are_measured_from_the_file_and_not_again(command, folder, tmp_path, capsys, monkeypatch):
    assert command("--ratios", "2", "3", "--keep", str(tmp_path / "kept")) == 0
    rows = table(tmp_path / "out.csv")
    assert [(row["model"], row["method"], row["target"], row["tag"]) for row in rows] == [
        ("net", "rd", "2", "as built"),
        ("net", "rd", "3", "as built"),
    ]
    for row, path in zip(rows, sorted((tmp_path / "kept").iterdir()), strict=True):
        assert float(row["ratio"]) >= float(row["target"]) and float(row["weights_ratio"]) > float(row["ratio"])
        assert path.stat().st_size == int(row["file_bytes"])
        network = imagenet.build("net", factory="standin_net:Net")
        l2fmt.load_model(network.module, path)
        scored = imagenet.Benchmark(network, folder, batch=9).top1(network.module, "net")
        assert row["value"] == f"{scored:.2f}"
        assert float(row["drop"]) == pytest.approx(float(row["full_precision"]) - scored, abs=0.011)
        assert (row["metric"], row["note"], row["seed"], row["calibration_count"]) == ("top1", "", "", "")
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("in full precision") == 1
    monkeypatch.setattr(imagenet.Benchmark, "top1", lambda *arguments: pytest.fail("measured again"))
    assert command("--ratios", "3", "2") == 0
    assert table(tmp_path / "out.csv") == rows


def test_methods_that_calibrate_get_the_module_and_training_pictures(command, folder, tmp_path, monkeypatch):
    given = []

    def pack(source, target, *, method, options, calibration, **others):
        given.append((source, options, calibration))
        return real(source, target, method="rd", **others)

    real = l2fmt.pack
    monkeypatch.setattr(l2fmt, "pack", pack)
    arguments = ["--methods", "l2", "--calibration-count", "5", "--preset", "fast", "--set", "rounds=1", "--limit", "4"]
    assert command("--ratios", "2", "3", "--seeds", "7", *arguments) == 0
    rows = table(tmp_path / "out.csv")
    assert {row["tag"] for row in rows} == {"as built, random cuts, 4 scored"}
    assert {(row["preset"], row["options"], row["seed"]) for row in rows} == {("fast", '{"rounds":1}', "7")}
    assert {row["calibration_count"] for row in rows} == {"5"}
    (source, options, (inputs, labels)), second = given
    assert isinstance(source, nn.Module) and options == {"preset": "fast", "seed": 7, "rounds": 1}
    assert inputs.shape == (5, 3, 224, 224) and inputs.dtype == torch.float32 and labels.dtype == torch.int64
    assert sorted(labels[:3].tolist()) == [0, 1, 2] and len(set(labels[3:].tolist())) == 2
    assert inputs[:, :, 100, 100].argmax(1).shape == (5,)
    assert second[2][0] is inputs  # read once for all ratios
    assert command("--ratios", "2", "--seeds", "7", "--no-augment", *arguments) == 0
    assert table(tmp_path / "out.csv")[-1]["tag"] == "as built, central cuts, 4 scored"
    assert not torch.equal(given[-1][2][0], inputs)


def test_what_cannot_be_packed_is_a_note(command, tmp_path, capsys):
    assert command("--ratios", "500") == 0
    (row,) = table(tmp_path / "out.csv")
    assert row["value"] == "" and row["full_precision"] and "bytes" in row["note"]
    assert row["note"] in capsys.readouterr().err


def test_progress_is_said(command, capsys, monkeypatch):
    monkeypatch.setattr(imagenet, "PROGRESS_SECONDS", -1.0)
    assert command("--ratios", "2") == 0
    assert "net in full precision: 44 % scored" in capsys.readouterr().err


def test_errors_are_one_sentence(command, folder, factory, tmp_path, capsys):
    output = ["--ratios", "2", "-o", str(tmp_path / "other.csv")]
    for arguments, said in (
        (["resnet9", "--data", str(folder)], "there is no model 'resnet9'; choose from resnet18"),
        (["net", "--data", str(tmp_path), "--model-factory", factory], "there is no folder"),
        (["net", "--data", str(folder), "--model-factory", "standin_net:Gone"], "has no Gone"),
        (["net", "--data", str(folder), "--model-factory", factory, "--device", "gpu9"], "moving net to gpu9 failed"),
    ):
        assert imagenet.main([*arguments, *output]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert command("--ratios", "0") == 1
    assert not (tmp_path / "other.csv").exists()


def test_a_network_with_too_few_classes(folder, factory):
    network = imagenet.build("net", factory=factory)
    network.module.head = nn.Linear(16, 2)
    with pytest.raises(InputError, match="has class 2; it knows 2 classes"):
        imagenet.Benchmark(network, folder).top1(network.module, "it")
    network.module.head = nn.Linear(15, 3)
    with pytest.raises(InputError, match="running it failed with RuntimeError"):
        imagenet.Benchmark(network, folder).top1(network.module, "it")


class PaperNetwork(nn.Module):
    """What the stand-ins for torchvision and timm make."""

    def __init__(self, made_as: object) -> None:
        super().__init__()
        self.made_as = made_as
        self.fc = nn.Linear(2, 2)
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins for torchvision and timm that note how they were asked."""

    def get_model(name: str, weights: str | None) -> nn.Module:
        if weights == "WRONG":
            raise ValueError("unknown weights")
        return PaperNetwork((name, weights))

    models = SimpleNamespace(get_model=get_model, MNASNet=lambda alpha: PaperNetwork(alpha))
    timm = SimpleNamespace(create_model=lambda name, pretrained: PaperNetwork((name, pretrained)))
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setitem(sys.modules, "timm", timm)


def test_networks_of_libraries(libraries, tmp_path):
    weights = tmp_path / "own.pt"
    torch.save({"fc.weight": torch.ones(2, 2).half(), "fc.bias": torch.zeros(2)}, weights)
    for name, (library, known, published) in imagenet_models.MODELS.items():
        network = imagenet_models.build(name, str(weights))
        assert network.weights == "own.pt" and not network.module.training
        assert network.module.state_dict()["fc.weight"].equal(torch.ones(2, 2))
        assert all(parameter.requires_grad for parameter in network.module.parameters())
        assert network.mean == ((0.5, 0.5, 0.5) if library == "timm" else imagenet_models.MEAN)
        if name == "mnasnet":
            assert network.module.made_as == 2.0
            continue
        published_one, chosen = imagenet_models.build(name), imagenet_models.build(name, "OTHER")
        assert (published_one.weights, chosen.weights) == (published, "OTHER")
        if library == "timm":
            assert network.module.made_as == (known, False)
            assert published_one.module.made_as == (f"{known}.{published}", True)
        else:
            assert network.module.made_as == (known, None)
            assert chosen.module.made_as == (known, "OTHER")


def test_weights_that_do_not_fit(libraries, factory, tmp_path):
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "short.pt")
    torch.save({"state_dict": {}}, tmp_path / "nested.pt")
    for weights, error, said in (
        ("short.pt", InputError, r"(?s)loading short\.pt into resnet18 failed.*fc\.bias"),
        ("nested.pt", InputError, r"nested\.pt: expected a dict of tensors"),
        ("gone.pth", MissingFileError, r"gone\.pth do not exist"),
        ("WRONG", InputError, "torchvision's resnet18 with weights WRONG failed with ValueError"),
    ):
        with pytest.raises(error, match=said):
            imagenet_models.build("resnet18", str(tmp_path / weights) if "." in weights else weights)
    with pytest.raises(InputError, match="torchvision has no weights for mnasnet; give a file"):
        imagenet_models.build("mnasnet")
    with pytest.raises(InputError, match="'OTHER': the weights of a --model-factory must be a"):
        imagenet_models.build("net", "OTHER", factory)


def test_a_missing_library_is_named(monkeypatch):
    for name, module, library in (("resnet18", "torchvision.models", "torchvision"), ("vit_b_16", "timm", "timm")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=f"{name} comes from {library}: pip install {library}"):
            imagenet_models.build(name)


def test_calibration_pictures_take_turns_and_begin_alike(folder):
    pictures = imagenet_pictures.list_pictures(folder / "train")
    assert [label for _, label in pictures] == [0] * 4 + [1] * 4 + [2] * 4
    assert pictures[5][0].name == f"{CLASSES[1]}_1.JPEG"
    chosen = imagenet_pictures.choose(pictures, 12, seed=3)
    assert sorted(chosen) == pictures
    for start in range(0, 12, 3):
        assert {label for _, label in chosen[start : start + 3]} == {0, 1, 2}
    for count in (1, 3, 7):
        assert imagenet_pictures.choose(pictures, count, seed=3) == chosen[:count]
    assert imagenet_pictures.choose(pictures, 12, seed=4) != chosen
    for count in (0, 13):
        with pytest.raises(InputError, match=f"{count} calibration pictures were asked for; there are 12"):
            imagenet_pictures.choose(pictures, count, seed=0)
    assert imagenet_pictures.spread(pictures, 3) == [pictures[0], pictures[4], pictures[8]]
    assert imagenet_pictures.spread(pictures, None) == imagenet_pictures.spread(pictures, 99) == pictures


@pytest.mark.parametrize(
    ("size", "scaled", "corner"),
    [
        ((500, 375), (341, 256), (58, 16)),  # 341.33 down; 58.5 to the even 58
        ((375, 500), (256, 341), (16, 58)),
        ((300, 211), (363, 256), (70, 16)),  # 363.98 down; 69.5 to the even 70
        ((60, 48), (320, 256), (48, 16)),
        ((256, 256), (256, 256), (16, 16)),
    ],
)
def test_the_central_view(size, scaled, corner):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    view = imagenet_pictures.central_view(Image.fromarray(pixels), np.random.default_rng(0))
    # torch has the same filter, antialiased, in floats.
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    resized = nn.functional.interpolate(planes, scaled[::-1], mode="bilinear", antialias=True)[0]
    left, top = corner
    expected = resized[:, top : top + 224, left : left + 224].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(view).astype(float) - expected).max() <= 1.01


def test_random_boxes():
    random = np.random.default_rng(0)
    for _ in range(300):
        left, top, width, height = imagenet_pictures.random_box(400, 300, random)
        assert 0 <= left <= 400 - width and 0 <= top <= 300 - height
        assert 0.07 < width * height / 120_000 <= 1 and 0.73 < width / height < 1.36
    assert imagenet_pictures.random_box(3000, 10, random) == (1493, 0, 13, 10)  # no attempt can fit
    assert imagenet_pictures.random_box(10, 3000, random) == (0, 1493, 10, 13)


def test_half_of_the_random_views_are_mirrored():
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (240, 240, 3))
    image, random = Image.fromarray(np.ascontiguousarray(ramp)), np.random.default_rng(0)
    views = [np.asarray(imagenet_pictures.random_view(image, random)).astype(int) for _ in range(60)]
    assert all(view.shape == (224, 224, 3) for view in views)
    mirrored = sum(view[0, 0, 0] > view[0, -1, 0] for view in views)
    assert 18 <= mirrored <= 42


def test_inputs_are_scaled_by_channel():
    image = Image.new("RGB", (2, 1), (0, 51, 255))
    found = imagenet_pictures.to_input(image, (0.5, 0.1, 0.0), (0.25, 0.1, 2.0))
    assert found.dtype == torch.float32 and found.shape == (3, 1, 2)
    assert found[:, 0, 0].tolist() == pytest.approx([-2.0, 1.0, 0.5])


def test_batches_do_not_depend_on_their_size_or_on_threads(folder):
    pictures = imagenet_pictures.list_pictures(folder / "train")
    settings = (imagenet_pictures.random_view, (0.5,) * 3, (0.5,) * 3)
    sizes, loaded = [], []
    for size, workers in ((5, 3), (12, 1)):
        found = list(imagenet_pictures.batches(pictures, *settings, seed=1, size=size, workers=workers))
        sizes.append([len(labels) for _, labels in found])
        loaded.append(torch.cat([inputs for inputs, _ in found]))
        assert torch.cat([labels for _, labels in found]).tolist() == [label for _, label in pictures]
    assert sizes == [[5, 5, 2], [12]] and torch.equal(*loaded)
    other = next(imagenet_pictures.batches(pictures, *settings, seed=2, size=12))[0]
    assert not torch.equal(other, loaded[0])


def test_damaged_pictures_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="holds no pictures"):
        imagenet_pictures.list_pictures(tmp_path)
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "bad.jpg").write_bytes(b"no picture")
    pictures = imagenet_pictures.list_pictures(tmp_path)
    with pytest.raises(InputError, match=r"bad\.jpg cannot be read as a picture"):
        list(imagenet_pictures.batches(pictures, imagenet_pictures.central_view, (0.0,) * 3, (1.0,) * 3))
