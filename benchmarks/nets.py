"""The nets that are measured: a convolution that costs nothing, and U-Nets; each with random weights, as a package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.scene import BANDS
from geoseg.models import save_package
from geoseg.scene import Scaling

__all__ = ["CLASSES", "pointwise", "pointwise_package", "siamese_package", "unet", "unet_package"]

CLASSES = ("water", "crops", "forest", "bare", "built", "snow")


def pointwise(channels: int = len(BANDS)) -> nn.Module:
    """One 1 x 1 convolution with scores spread enough that labels are no ties."""
    torch.manual_seed(1)
    net = nn.Conv2d(channels, len(CLASSES), 1)
    with torch.no_grad():
        net.weight.mul_(8.0)
    return net.eval().requires_grad_(False)


def unet(encoder: str, channels: int = len(BANDS), classes: int = len(CLASSES)) -> nn.Module:
    """segmentation_models_pytorch's U-Net without pretrained weights."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(1)
    net: nn.Module = smp.Unet(encoder, encoder_weights=None, in_channels=channels, classes=classes)
    return net.eval().requires_grad_(False)


def pointwise_package(folder: Path) -> Path:
    """`pointwise` as a torch.export package."""
    path = folder / "pointwise"
    if not path.exists():
        _save(pointwise(), path, "pointwise", multiple_of=1, kind="pt2")
    return path


def unet_package(folder: Path, encoder: str) -> Path:
    """`unet` as a native package."""
    path = folder / f"unet-{encoder}"
    if not path.exists():
        _save(unet(encoder), path, f"unet-{encoder}", multiple_of=32, kind="safetensors")
    return path


def siamese_package(folder: Path, encoder: str) -> Path:
    """Geoseg's own net for pairs, as wide as `unet`, as a native package."""
    from geoseg.models.change import SiameseUnet

    path = folder / f"siamese-{encoder}"
    if not path.exists():
        torch.manual_seed(1)
        net = SiameseUnet(encoder, in_channels=len(BANDS), classes=len(CLASSES)).eval().requires_grad_(False)
        _save(net, path, path.name, multiple_of=32, kind="safetensors", dates=2)
    return path


def _save(net: nn.Module, path: Path, name: str, *, multiple_of: int, kind: str, dates: int = 1) -> None:
    save_package(
        net,
        path,
        name=name,
        bands=BANDS,
        classes=CLASSES,
        format=kind,  # type: ignore[arg-type]
        tile=512,
        overlap=128,
        multiple_of=multiple_of,
        assume_scaling=Scaling(scale=1e-4),
        dates=dates,
        task="change-detection" if dates > 1 else "segmentation",
    )
