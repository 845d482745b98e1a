"""Every architecture of the registry, built, saved, read back and compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from geoseg.errors import ModelError
from geoseg.models import load_model, read_spec, save_package
from geoseg.models.registry import architectures, build, recipe_of

SMP = (
    ("Unet", "resnet18", 1),
    ("Unet", "mobilenet_v2", 4),
    ("Unet", "tu-mobilenetv3_small_050", 13),
    ("UnetPlusPlus", "tu-mobilenetv3_small_050", 3),
    ("DeepLabV3Plus", "mobilenet_v2", 5),
    ("FPN", "tu-mobilenetv3_small_050", 4),
    ("PSPNet", "tu-mobilenetv3_small_050", 6),
    ("Segformer", "mit_b0", 4),
    ("UPerNet", "tu-mobilenetv3_small_050", 2),
)


@pytest.mark.parametrize(("architecture", "encoder", "channels"), SMP)
def test_a_net_comes_back_from_its_package(architecture: str, encoder: str, channels: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = getattr(smp, architecture)(encoder, in_channels=channels, classes=3, encoder_weights=None).eval()
    bands = [f"band{number}" for number in range(channels)]
    path = save_package(net, tmp_path / "net", name="a net", bands=bands, classes=("a", "b", "c"), tile=64)
    spec = read_spec(path)
    assert (len(spec.channels), spec.multiple_of, spec.tile) == (channels, 32, 64)
    batch = torch.rand(2, channels, 64, 64)
    with torch.inference_mode():
        expected = net(batch)
    torch.testing.assert_close(load_model(path).predict(batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["FCEF", "TemporalUnet"])
def test_a_net_for_pairs_comes_back_from_its_package(architecture: str, tmp_path: Path) -> None:
    net = build(architecture, {"encoder_name": "tu-mobilenetv3_small_050", "in_channels": 4, "classes": 3})
    bands = [f"band{number}" for number in range(4)]
    path = save_package(net, tmp_path / "net", name="a net", bands=bands, classes="abc", tile=64, dates=2)
    assert (read_spec(path).dates, len(read_spec(path).channels)) == (2, 4)
    batch = torch.rand(2, 2, 4, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(path).predict(batch), net(batch), rtol=1e-5, atol=1e-5)


def test_the_architectures_of_the_registry_are_those_promised() -> None:
    smp_nets = {"Unet", "UnetPlusPlus", "DeepLabV3Plus", "FPN", "PSPNet", "Segformer", "UPerNet"}
    pairs = {"FCEF", "FCSiamConc", "FCSiamDiff", "BTC", "ChangeViT", "ChangeStarFarSeg", "SiameseUnet", "TemporalUnet"}
    assert smp_nets | pairs <= set(architectures())


def test_names_do_not_depend_on_case_and_the_random_stream_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build("unet", {"encoder_name": "resnet18", "in_channels": 2, "classes": 2, "encoder_weights": "imagenet"})
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("os.system", {}),
        ("torch.nn.Linear", {"in_features": 1, "out_features": 1}),
        ("__class__", {}),
        ("Unet", {"encoder_name": "no-such-encoder"}),
        ("Unet", {"encoder_name": "tu-hf-hub:someone/anything"}),
        ("Unet", {"encoder_name": "tu-hf_hub:someone/anything"}),
        ("Unet", {"encoder_name": "../weights"}),
        ("Unet", {"no_such_argument": 1}),
        ("Unet", {"in_channels": "four"}),
        ("ThresholdNet", {"channels": 1}),
    ],
)
def test_what_the_registry_does_not_build_is_refused(architecture: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        build(architecture, arguments)


def test_a_module_that_does_not_tell_its_arguments_has_no_recipe() -> None:
    assert recipe_of(torch.nn.Conv2d(1, 1, 1)) is None
