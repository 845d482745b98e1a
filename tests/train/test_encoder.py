"""Pretrained weights from files that the tests make, for any number of channels; gradients computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geoseg.errors import ConfigError
from geoseg.models.registry import build
from geoseg.train.encoder import checkpoint_stages, load_encoder, widened


def net(channels: int = 3, encoder: str = "resnet18", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    small = {"encoder_depth": 2, "decoder_channels": [8, 4], "classes": 2}
    return build("Unet", {"encoder_name": encoder, "in_channels": channels, **small})


def imagenet_state() -> dict[str, Tensor]:
    """Names and shapes of torchvision's and timm's resnet18, classifier included."""
    import torchvision

    torch.manual_seed(7)
    state: dict[str, Tensor] = torchvision.models.resnet18().state_dict()
    return state


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("form", ["safetensors", "torch", "lightning"])
def test_an_encoder_takes_weights_of_imagenet(tmp_path: Path, channels: int, form: str) -> None:
    state = imagenet_state()
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "torch":
        torch.save(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"model.encoder.{name}": value for name, value in state.items()}}, path)
    module: Any = net(channels)
    load_encoder(module, path)
    for name, value in module.encoder.state_dict().items():
        if name != "conv1.weight" or channels == 3:
            assert torch.equal(value, state[name]), name
    torch.manual_seed(1)
    grey = torch.rand(2, 1, 32, 32)
    first = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), state["conv1.weight"], stride=2, padding=3)
    found = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), module.encoder.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(found, first, rtol=1e-4, atol=1e-5)


def test_many_bands_of_a_pretrained_net_become_few_or_more(tmp_path: Path) -> None:
    """torchgeo's Sentinel-2 weights have 13 channels."""
    state = imagenet_state() | {"conv1.weight": torch.rand(64, 13, 7, 7)}
    torch.save(state, tmp_path / "s2.pth")
    module: Any = net(4)
    load_encoder(module, tmp_path / "s2.pth")
    expected = state["conv1.weight"].mean(1, keepdim=True).expand(-1, 4, -1, -1) * 13 / 4
    torch.testing.assert_close(module.encoder.conv1.weight.detach(), expected)


def test_names_of_timm_are_found(tmp_path: Path) -> None:
    import timm

    pretrained = timm.create_model("regnetx_002", pretrained=False)
    torch.save(pretrained.state_dict(), tmp_path / "timm.pth")
    module: Any = net(5, "tu-regnetx_002")
    load_encoder(module, tmp_path / "timm.pth")
    same = [
        torch.equal(value, pretrained.state_dict()[name])
        for name, value in module.encoder.model.state_dict().items()
        if value.shape == pretrained.state_dict()[name].shape
    ]
    assert all(same)
    assert len(same) == len(module.encoder.model.state_dict()) - 1


def test_widening_three_channels_to_three_means_them() -> None:
    weights = torch.rand(4, 3, 5, 5)
    torch.testing.assert_close(widened(weights, 6).sum(1), weights.sum(1))
    assert widened(weights, 6).shape == (4, 6, 5, 5)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = imagenet_state()
    torch.save({name: value for name, value in state.items() if name != "layer1.0.conv1.weight"}, tmp_path / "less.pth")
    with pytest.raises(ConfigError, match=r"holds another encoder: layer1\.0\.conv1\.weight is not there"):
        load_encoder(net(), tmp_path / "less.pth")
    torch.save(state | {"layer1.0.conv1.weight": torch.rand(8, 64, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"layer1\.0\.conv1\.weight is \(8, 64, 3, 3\), not \(64, 64, 3, 3\)"):
        load_encoder(net(), tmp_path / "other.pth")
    torch.save(net(), tmp_path / "pickled.pth")
    with pytest.raises(ConfigError, match=r"pickled\.pth: cannot be read"):
        load_encoder(net(), tmp_path / "pickled.pth")
    with pytest.raises(ConfigError, match="Sequential has no encoder"):
        load_encoder(nn.Sequential(), tmp_path / "other.pth")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050", "mit_b0"])
def test_gradients_computed_twice_are_the_same(encoder: str) -> None:
    plain, twice = net(encoder=encoder), net(encoder=encoder)
    assert checkpoint_stages(twice) > 0
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for module in (plain, twice):
        module.train()
        for _ in range(2):
            torch.manual_seed(5)
            module(batch).square().mean().backward()
    for one, other in zip(plain.parameters(), twice.parameters(), strict=True):
        if one.grad is None or other.grad is None:  # beyond the depth that the decoder reads
            assert one.grad is other.grad
        else:
            assert torch.equal(one.grad, other.grad)
    for (name, one), (_, other) in zip(plain.state_dict().items(), twice.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert checkpoint_stages(nn.Sequential(nn.Conv2d(3, 2, 1))) == 0
