"""Torchgeo's weights and checkpoints: the package gives the scores of torchgeo's own net; only plain data is read."""

from __future__ import annotations

import hashlib
import io
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from geoseg.errors import ConfigError, ModelError, SourceError
from geoseg.models import load_model, read_spec, validate_package
from geoseg.models.checkpoints import net_of_checkpoint
from geoseg.models.imports import Told, import_model
from geoseg.models.registry import build
from geoseg.models.torchgeo_weights import fetched, net_of_enum
from geoseg.scene import Scaling
from geoseg.testing.server import RangeServer, range_server
from tests.models.cards import card_of

pytest.importorskip("torchgeo", reason="torchgeo is an extra")
pytest.importorskip("requests", reason="torchgeo imports requests")

TOLD = Told(bands=("B2", "B3", "B4"), value_scaling=())


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"{address} was asked for"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def bytes_of(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with range_server({}) as running:
        yield running


def seeded(net: Any) -> Any:
    torch.manual_seed(0)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    return net.eval()


def scores_of(net: Any, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        scores: Tensor = net(batch)
    return scores


@pytest.mark.parametrize(
    ("name", "classes"),
    [("SENTINEL2_3CLASS_FTW", ["background", "field", "boundary"]), ("SENTINEL2_2CLASS_FTW", ["background", "field"])],
)
def test_field_boundaries_come_as_a_model_of_two_dates(
    name: str, classes: list[str], server: RangeServer, tmp_path: Path
) -> None:
    net = seeded(smp.Unet("efficientnet-b3", encoder_weights=None, in_channels=8, classes=len(classes)))
    server.files["/fields.pth"] = bytes_of(net.state_dict())
    path = import_model(f"Unet_Weights.{name}", tmp_path / "fields", weights=f"{server.url}/fields.pth")
    assert validate_package(path) == []
    spec = read_spec(path)
    assert spec.name == name.lower().replace("_", "-")
    assert (spec.bands, spec.dates, [info.name for info in spec.classes]) == (
        ("red", "green", "blue", "nir"), 2, classes,
    )  # fmt: skip
    assert spec.assume_scaling == Scaling(scale=1e-4)
    stored = torch.randint(0, 8000, (1, 2, 4, 64, 64)).float()
    (step,) = spec.channels[0].rescale
    seen = stored * 1e-4 * step.gain + step.offset
    expected = scores_of(net, stored.flatten(1, 2) / 3000)  # as torchgeo normalises what is stored
    torch.testing.assert_close(load_model(path).predict(seen), expected, atol=1e-4, rtol=1e-3)
    properties = card_of(path)["properties"]
    assert properties["license"] == "CC-BY-4.0"
    assert properties["geoseg:origin"]["publication"].startswith("https://")
    assert properties["mlm:pretrained_source"] == f"Unet_Weights.{name}"


def test_tree_canopy_takes_pictures_as_they_are(tmp_path: Path) -> None:
    net = seeded(smp.Unet("resnet34", encoder_weights=None, in_channels=3, classes=2))
    (tmp_path / "trees.pth").write_bytes(bytes_of(net.state_dict()))
    path = import_model("Unet_Weights.OAM_RGB_RESNET34_TCD", tmp_path / "trees", weights=str(tmp_path / "trees.pth"))
    spec = read_spec(path)
    assert (spec.bands, spec.dates, spec.tile) == (("red", "green", "blue"), 1, 1024)
    assert [info.name for info in spec.classes] == ["background", "tree-canopy"]
    assert (spec.assume_scaling, {channel.rescale for channel in spec.channels}) == (None, {()})
    batch = 255 * torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(load_model(path).predict(batch), scores_of(net, batch), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["Unet_Weights.OAM_RGB_RESNET50_TCD", "Unet_Weights.SENTINEL2_FTW_PRUE_EFNETB7"])
def test_every_enum_of_a_net_says_what_the_registry_builds(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(bytes_of({}))
    net = net_of_enum(name, str(tmp_path / "w.pth"))
    with torch.device("meta"):
        made: Any = build(net.architecture, net.arguments)
    assert made.segmentation_head[0].out_channels == net.outputs == len(net.known["classes"])
    assert len(net.known["bands"]) == net.channels


def test_weights_that_are_others_than_the_enum_promises_are_refused(server: RangeServer, tmp_path: Path) -> None:
    name, file = "Unet_Weights.SENTINEL2_3CLASS_FTW", "sentinel2_unet_effb3-5d591cbb.pth"
    server.files[f"/{file}"] = bytes_of({"a": torch.zeros(1)})
    with pytest.raises(SourceError, match="should begin with 5d591cbb"):
        import_model(name, tmp_path / "net", weights=f"{server.url}/{file}")
    server.files["/mine.pth"] = bytes_of({"a": torch.zeros(1)})
    with pytest.raises(ModelError, match="does not hold the weights of FCEF"):
        import_model(name, tmp_path / "net", weights=f"{server.url}/mine.pth")
    with pytest.raises(ModelError, match="SENTINEL2_3CLASS_FTW"):
        import_model("ResNet50_Weights.SENTINEL2_ALL_MOCO", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_fetched_once_and_whole(server: RangeServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 999
    server.files["/w.pth"] = content
    digest = hashlib.sha256(content).hexdigest()
    for _ in range(2):
        assert fetched(f"{server.url}/w.pth", digest[:8]).read_bytes() == content
    assert len(server.asked) == 1
    with pytest.raises(SourceError, match="--weights"):
        fetched(f"{server.url}/gone.pth?token=hidden")
    with pytest.raises(SourceError) as caught:
        fetched(f"{server.url}/gone.pth?token=hidden")
    assert "hidden" not in str(caught.value)
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/w.pth", str(tmp_path / "none.pth")):
        with pytest.raises(SourceError):
            fetched(place)


# --- Lightning checkpoints ---


def checkpoint(path: Path, task: Any) -> Path:
    """What Lightning itself writes."""
    from lightning.pytorch import Trainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        trainer.strategy.connect(task)
        trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(
    ("options", "classes", "channels"),
    [
        ({"model": "unet", "backbone": "resnet18", "in_channels": 4, "num_classes": 3, "ignore_index": 0}, "abc", 4),
        ({"model": "deeplabv3+", "backbone": "resnet18", "task": "binary", "loss": "bce"}, "ab", 3),
        ({"model": "segformer", "backbone": "resnet18", "num_classes": 2, "class_weights": [1.0, 2.0]}, "ab", 3),
    ],
)
def test_a_segmentation_task_comes_back(
    options: Mapping[str, Any], classes: str, channels: int, tmp_path: Path
) -> None:
    from torchgeo.trainers import SemanticSegmentationTask

    task = SemanticSegmentationTask(**options)
    seeded(task.model)
    file = checkpoint(tmp_path / "best.ckpt", task)
    told = Told(bands=["red", "green", "blue", "nir"][:channels], classes=list(classes), value_scaling=())
    path = import_model(file, tmp_path / "net", told)
    assert validate_package(path) == []
    batch = torch.rand(2, channels, 64, 64)
    found, expected = load_model(path).predict(batch), scores_of(task.model, batch)
    if expected.shape[1] == 1:
        found, expected = found.softmax(1)[:, 1:], expected.sigmoid()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("model", ["unet", "fcsiamdiff", "fcsiamconc"])
def test_a_change_detection_task_comes_back(model: Any, tmp_path: Path) -> None:
    from torchgeo.trainers import ChangeDetectionTask

    task = ChangeDetectionTask(model=model, backbone="resnet18", in_channels=3)
    seeded(task.model)
    path = import_model(checkpoint(tmp_path / "last.ckpt", task), tmp_path / "net", TOLD)
    spec = read_spec(path)
    assert (spec.dates, spec.task, spec.bands) == (2, "change-detection", ("blue", "green", "red"))
    assert [info.name for info in spec.classes] == ["unchanged", "changed"]
    pairs = torch.rand(1, 2, 3, 64, 64)
    expected = scores_of(task.model, pairs.flatten(1, 2) if model == "unet" else pairs).sigmoid()
    torch.testing.assert_close(load_model(path).predict(pairs).softmax(1)[:, 1:], expected, atol=1e-5, rtol=1e-3)


class Runs:
    """An object that would run when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("code of a checkpoint was run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"hyper_parameters": {"model": "unet", "extra": Runs()}, "state_dict": {}}, "more than plain data"),
        ({"state_dict": {}}, "no Lightning checkpoint"),
        ([1], "no state dict"),
        ({"hyper_parameters": {"model": "resnet50"}, "state_dict": {}}, "unet, deeplabv3"),
        ({"hyper_parameters": {"model": "fcn", "pos_weight": None}, "state_dict": {}}, "change detection"),
        ({"hyper_parameters": {"model": "unet", "in_channels": "3"}, "state_dict": {}}, "in_channels '3'"),
    ],
)
def test_a_checkpoint_that_is_none_is_one_line(content: object, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(bytes_of(content))
    with pytest.raises(ModelError, match=words) as caught:
        net_of_checkpoint(tmp_path / "bad.ckpt")
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.ckpt").write_bytes(b"no pickle")
    with pytest.raises(ModelError, match=r"cannot be read|plain data"):
        net_of_checkpoint(tmp_path / "bad.ckpt")


def test_a_checkpoint_tells_no_bands(tmp_path: Path) -> None:
    content = {"hyper_parameters": {"model": "unet", "in_channels": 4, "num_classes": 3}, "state_dict": {}}
    (tmp_path / "my.ckpt").write_bytes(bytes_of(content))
    with pytest.raises(ConfigError, match=r"--bands with 4 .* --classes with 3 .* --normalise"):
        import_model(tmp_path / "my.ckpt", tmp_path / "net")
