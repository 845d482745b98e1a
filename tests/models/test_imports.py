"""Nets from elsewhere: the package gives the scores of the net that was imported; what is not known is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from geoseg.errors import ConfigError, ModelError
from geoseg.models import load_model, read_spec, validate_package
from geoseg.models.convert import write_onnx
from geoseg.models.imports import Told, common_names, import_model
from geoseg.models.package import Format
from geoseg.scene import Scaling
from geoseg.spec import Rescale
from tests.models.cards import card_of, mixer, saved_mixer

TOLD = Told(bands=("B3", "B4", "B8"), classes=("no", "yes"), value_scaling=({"type": "scale", "value": 0.5},))
NONE = Told(bands=("red", "green", "blue"), classes=("no", "yes"), value_scaling=())

SMALL: dict[str, Any] = {
    "encoder_depth": 3, "decoder_channels": (32, 16, 8), "encoder_weights": None, "in_channels": 3, "classes": 2
}  # fmt: skip


def scores_of(net: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        scores: Tensor = net.eval()(batch)
    return scores


def unet(folder: Path, **arguments: Any) -> Any:
    """A net that segmentation_models_pytorch saved itself."""
    torch.manual_seed(1)
    net = smp.Unet("resnet18", **{**SMALL, **arguments}).eval()
    net.save_pretrained(folder)
    return net


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_graph_becomes_a_package_around_the_same_bytes(kind: Format, tmp_path: Path) -> None:
    file = tmp_path / f"my.{kind}"
    file.write_bytes((saved_mixer(tmp_path / "made", kind=kind) / f"model.{kind}").read_bytes())
    path = import_model(file, tmp_path / "net", TOLD)
    assert (path / f"model.{kind}").read_bytes() == file.read_bytes()
    assert validate_package(path) == []
    spec = read_spec(path)
    assert (spec.bands, [info.name for info in spec.classes]) == (("green", "red", "nir"), ["no", "yes"])
    assert (spec.tile, spec.multiple_of, spec.name) == (512, 32, "model-my")
    assert spec.channels[0].rescale == (Rescale(gain=2.0, offset=-0.0),)
    batch = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(load_model(path).predict(batch), scores_of(mixer(), batch), atol=1e-4, rtol=1e-4)


def test_a_graph_that_fixes_its_tile_tells_it(tmp_path: Path) -> None:
    write_onnx(mixer(), torch.rand(1, 3, 48, 48), tmp_path / "fixed.onnx", any_batch=False)
    spec = read_spec(import_model(tmp_path / "fixed.onnx", tmp_path / "net", TOLD))
    assert (spec.tile, spec.static_tile, spec.static_batch, spec.multiple_of) == (48, 48, 1, 1)


def test_a_graph_of_pairs_is_a_model_for_change(tmp_path: Path) -> None:
    file = saved_mixer(tmp_path / "made", dates=2) / "model.onnx"
    spec = read_spec(import_model(file, tmp_path / "net", TOLD))
    assert (spec.dates, spec.task) == (2, "change-detection")


def test_everything_that_is_missing_is_asked_for_at_once(tmp_path: Path) -> None:
    file = saved_mixer(tmp_path / "made") / "model.onnx"
    with pytest.raises(ConfigError) as caught:
        import_model(file, tmp_path / "net")
    text = str(caught.value)
    assert all(option in text for option in ("--bands with 3", "--classes", "--normalise"))
    with pytest.raises(ConfigError, match=r"--bands names 2, but .* has 3: red, nir"):
        import_model(file, tmp_path / "net", Told(bands=("red", "nir"), classes=("a", "b"), value_scaling=()))
    with pytest.raises(ModelError, match="its card says"):
        import_model(file, tmp_path / "net", Told(bands=TOLD.bands, classes=("a", "b", "c"), value_scaling=()))
    assert not (tmp_path / "net").exists()


def test_what_is_told_stands_in_the_card(tmp_path: Path) -> None:
    file = saved_mixer(tmp_path / "made") / "model.onnx"
    told = Told(
        name="my model",
        bands=("VV", "VH", "NDVI"),
        classes=("a", "b"),
        value_scaling=(
            {"type": "z-score", "mean": 1.0, "stddev": 2.0},
            {"type": "scale", "value": 4.0},
            {"type": None},
        ),
        assume_scaling=Scaling(scale=0.5, offset=1.0),
        tile=96,
        multiple_of=8,
        activation="sigmoid",
        description="a line",
    )
    spec = read_spec(import_model(file, tmp_path / "net", told))
    assert (spec.name, spec.tile, spec.multiple_of, spec.activation) == ("my model", 96, 8, "sigmoid")
    assert (spec.description, spec.assume_scaling) == ("a line", Scaling(scale=0.5, offset=1.0))
    assert spec.bands == ("VV", "VH", "nir", "red")
    assert [channel.rescale for channel in spec.channels] == [
        (Rescale(gain=0.5, offset=-0.5),),
        (Rescale(gain=0.25, offset=-0.0),),
        (),
    ]


@pytest.mark.parametrize("arguments", [{}, {"classes": 1}, {"encoder_depth": 4, "decoder_channels": (32, 16, 8, 8)}])
def test_a_folder_of_save_pretrained(arguments: dict[str, Any], tmp_path: Path) -> None:
    net = unet(tmp_path / "saved", **arguments)
    told = replace(NONE, activation="sigmoid") if arguments.get("classes") == 1 else NONE
    path = import_model(tmp_path / "saved", tmp_path / "net", told)
    assert validate_package(path) == []
    batch = torch.rand(2, 3, 64, 96)
    found, expected = load_model(path).predict(batch), scores_of(net, batch)
    if expected.shape[1] == 1:  # one score z, of which the sigmoid is the probability
        torch.testing.assert_close(found.softmax(1)[:, 1:], expected.sigmoid(), atol=1e-6, rtol=1e-4)
    else:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert read_spec(path).channels[0].rescale == ()
    assert card_of(path)["properties"]["mlm:pretrained_source"] == "saved"


def test_a_net_that_applies_its_activation_itself_is_taken_without_it(tmp_path: Path) -> None:
    net = unet(tmp_path / "saved", activation="sigmoid")
    path = import_model(tmp_path / "saved", tmp_path / "net", NONE)
    batch = torch.rand(1, 3, 64, 64)
    assert read_spec(path).activation == "sigmoid"
    torch.testing.assert_close(load_model(path).predict(batch).sigmoid(), scores_of(net, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_model_class": "Popen"}, "not one that geoseg builds"),
        ({"_model_class": None}, "not one that geoseg builds"),
        ({"classes": 5}, "does not hold the weights of Unet"),
        ({"encoder_name": "tu-hf-hub:some/net"}, "offline"),
        ({"activation": "tanh"}, "tanh"),
        ({"aux_params": {"classes": 4}}, "aux_params"),
        ({"colour": "red"}, "takes no colour"),
    ],
)
def test_a_folder_that_is_wrong_is_one_line(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    unet(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text("utf-8"))
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**config, **change}), "utf-8")
    told = Told(bands=NONE.bands, classes=("a",) * (change.get("classes", 2)), value_scaling=())
    with pytest.raises(ModelError, match=words) as caught:
        import_model(tmp_path / "saved", tmp_path / "net", told)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()


def test_a_source_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"x")
    for source in (tmp_path / "nothing.onnx", tmp_path / "weights.pth", "unet"):
        with pytest.raises(ModelError, match="none of what can be imported"):
            import_model(source, tmp_path / "net", NONE)
    with pytest.raises(ModelError, match="is no folder that save_pretrained wrote"):
        import_model(tmp_path, tmp_path / "net", NONE)
    with pytest.raises(ConfigError, match="--weights"):
        import_model(tmp_path / "weights.pth", tmp_path / "net", NONE, weights="a.pth")


def test_a_package_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    file = saved_mixer(tmp_path / "made") / "model.onnx"
    before = read_spec(import_model(file, tmp_path / "net", TOLD)).digest
    with pytest.raises(ModelError, match="--overwrite"):
        import_model(file, tmp_path / "net", TOLD)
    assert read_spec(import_model(file, tmp_path / "net", NONE, overwrite=True)).digest != before


def test_bands_of_sentinel_2_get_their_common_names() -> None:
    numbers = ["B1", "B02", "b3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
    assert common_names(numbers) == [
        "coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus",
        "swir16", "swir22",
    ]  # fmt: skip
