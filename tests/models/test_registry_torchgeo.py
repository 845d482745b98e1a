"""Torchgeo's nets for pairs: built offline by name, the same net as torchgeo's, and back from their packages."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geoseg.errors import MissingExtraError, ModelError
from geoseg.models import load_model, read_spec, save_package
from geoseg.models.registry import build, recipe_of

pytest.importorskip("torchgeo", reason="torchgeo is an extra")
pytest.importorskip("requests", reason="torchgeo imports requests")

RESNET = {"encoder_name": "resnet18"}
NETS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("FCSiamDiff", RESNET | {"in_channels": 4, "classes": 3}, 4),
    ("FCSiamDiff", RESNET | {"in_channels": 2, "classes": 1}, 2),
    ("FCSiamConc", RESNET | {"in_channels": 5, "classes": 2, "decoder_attention_type": "scse"}, 5),
    ("ChangeViT", {"backbone": "vit_tiny_patch16_224", "img_size": 64, "in_channels": 6, "num_classes": 2}, 6),
    ("ChangeStarFarSeg", {"backbone": "resnet18", "in_channels": 4}, 4),
    ("ChangeStarFarSeg", {"backbone": "resnet18"}, 3),
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing is downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def pairs(channels: int, side: int) -> torch.Tensor:
    return torch.rand(1, 2, channels, side, side, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize(("architecture", "arguments", "channels"), NETS)
def test_a_net_for_pairs_comes_back_from_its_package(
    architecture: str, arguments: Mapping[str, Any], channels: int, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    net = build(architecture, arguments)
    classes = ("unchanged", "changed", "other")[: max(2, arguments.get("classes", 2))]
    bands = [f"band{number}" for number in range(channels)]
    options: dict[str, Any] = {"dates": 2, "task": "change-detection", "tile": 64}
    path = save_package(net, tmp_path / "net", name="a net", bands=bands, classes=classes, **options)
    spec = read_spec(path)
    assert (spec.dates, len(spec.channels), len(spec.classes)) == (2, channels, len(classes))
    for side in (64, 160):
        batch = pairs(channels, side)
        with torch.inference_mode():
            expected = net(batch)
        assert expected.shape == (1, len(classes), side, side)
        torch.testing.assert_close(load_model(path).predict(batch), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def btc() -> nn.Module:
    return build("btc", {"backbone": "swin_tiny", "classes": 2})


def test_btc_is_torchgeos_own_with_three_channels_and_takes_any_number(btc: nn.Module) -> None:
    import torchgeo.models

    assert isinstance(btc, torchgeo.models.BTC)
    batch = pairs(3, 64)
    with torch.inference_mode():
        torch.testing.assert_close(btc(batch), torchgeo.models.BTC.forward(btc, batch.flatten(1, 2)))
    name, arguments = recipe_of(btc) or ("", {})
    assert (name, arguments) == ("BTC", {"backbone": "swin_tiny", "in_channels": 3, "classes": 2})


@pytest.mark.slow
def test_btc_comes_back_from_its_package(tmp_path: Path) -> None:
    net = build("BTC", {"backbone": "swin_tiny", "in_channels": 5, "classes": 1})
    bands = [f"band{number}" for number in range(5)]
    path = save_package(net, tmp_path / "net", name="btc", bands=bands, classes=("no", "yes"), dates=2, tile=64)
    for side in (64, 128):
        with torch.inference_mode():
            expected = net(pairs(5, side))
        assert expected.shape == (1, 2, side, side)
        torch.testing.assert_close(load_model(path).predict(pairs(5, side)), expected, rtol=1e-5, atol=1e-5)


def test_changestar_gives_torchgeos_probability_of_change_or_its_maps() -> None:
    import torchgeo.models

    arguments = {"backbone": "resnet18", "classes": 4}
    change, maps = (build("ChangeStarFarSeg", {**arguments, "output": output}) for output in ("change", "maps"))
    maps.load_state_dict(change.state_dict())
    batch = pairs(3, 64)
    assert isinstance(change, torchgeo.models.ChangeStarFarSeg)
    with torch.inference_mode():
        theirs: Any = torchgeo.models.ChangeStarFarSeg.forward(change, batch)
        torch.testing.assert_close(change(batch).softmax(1)[:, 1:], theirs["change_prob"])
        torch.testing.assert_close(maps(batch), torch.cat([*theirs["bi_seg_logit"].unbind(1)], 1))


def test_changestars_maps_are_stored_as_maps(tmp_path: Path) -> None:
    net = build("ChangeStarFarSeg", {"backbone": "resnet18", "classes": 4, "output": "maps"})
    options: dict[str, Any] = {"dates": 2, "maps": 2, "task": "change-detection"}
    path = save_package(net, tmp_path / "net", name="maps", bands=("a", "b", "c"), classes="wxyz", **options)
    assert (read_spec(path).maps, len(read_spec(path).classes)) == (2, 4)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(path).predict(pairs(3, 64)), net(pairs(3, 64)), rtol=1e-5, atol=1e-5)


def test_torchgeos_own_net_is_saved_as_it_is(tmp_path: Path) -> None:
    import torchgeo.models

    net = torchgeo.models.FCSiamDiff(encoder_name="resnet18", encoder_weights=None, in_channels=3, classes=2).eval()
    path = save_package(net, tmp_path / "net", name="own", bands=("a", "b", "c"), classes=("no", "yes"), dates=2)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(path).predict(pairs(3, 64)), net(pairs(3, 64)))
    assert recipe_of(torchgeo.models.FCSiamDiff("resnet18", encoder_weights=None)) is None, "its encoder has no name"


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("BTC", {"backbone_pretrained": True}, "BTC takes no backbone_pretrained; it takes backbone, in_channels"),
        ("BTC", {"backbone": "swin_huge"}, "Invalid swin size"),
        ("ChangeViT", {"pretrained": True}, "takes no pretrained"),
        ("ChangeViT", {"backbone": "hf-hub:someone/anything"}, "build offline"),
        ("ChangeViT", {"backbone": "no_such_backbone"}, "cannot be built"),
        ("ChangeStarFarSeg", {"backbone": "resnet18", "output": "both"}, "output must be change or maps"),
        ("ChangeStarFarSeg", {"backbone": "../weights"}, "build offline"),
        ("FCSiamDiff", {"encoder_name": "tu-hf-hub:someone/anything"}, "build offline"),
        ("FCSiamDiff", {"no_such_argument": 1}, "FCSiamDiff takes no no_such_argument; it takes encoder_name"),
        ("FCSiamConc", {"args": 1}, "takes no args"),
    ],
)
def test_what_is_not_built_is_refused(architecture: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(architecture, arguments)


def test_encoder_weights_are_never_those_of_a_download() -> None:
    net = build("FCSiamDiff", RESNET | {"encoder_weights": "imagenet"})
    name, arguments = recipe_of(net) or ("", {})
    assert name == "FCSiamDiff"
    assert arguments["encoder_weights"] is None


def test_without_torchgeo_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "geoseg.models.torchgeo_nets", raising=False)
    monkeypatch.setitem(sys.modules, "torchgeo.models", None)
    with pytest.raises(MissingExtraError, match=r"BTC .*pip install 'geoseg\[torchgeo\]'"):
        build("BTC", {})
