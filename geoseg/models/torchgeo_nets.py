"""Torchgeo's nets for two dates, each with the weights it has there, its output made scores (n, class, row, col).

Nothing is downloaded, so no constructor here takes torchgeo's ``pretrained`` options.
"""

from __future__ import annotations

from typing import Any, Literal

import torchgeo.models
from torch import Tensor, nn

from geoseg.models.temporal import binary_scores

__all__ = ["BTC", "ChangeStarFarSeg", "ChangeViT", "FCSiamConc", "FCSiamDiff"]


class FCSiamConc(torchgeo.models.FCSiamConc):
    """Both dates' features, one after the other (FC-Siam-conc: Daudt et al. 2018, doi:10.1109/ICIP.2018.8451652)."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, class, row, col) of a batch (n, 2, channel, row, col)."""
        return binary_scores(super().forward(x))


class FCSiamDiff(torchgeo.models.FCSiamDiff):
    """The difference of the dates' features (FC-Siam-diff: Daudt et al. 2018, doi:10.1109/ICIP.2018.8451652)."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, class, row, col) of a batch (n, 2, channel, row, col)."""
        return binary_scores(super().forward(x))


class BTC(torchgeo.models.BTC):
    """Swin features of both dates, subtracted (Be the Change: Rolih et al. 2025, arXiv:2507.03367).

    With three channels it is torchgeo's net, which takes values in [0, 1] and normalises them as ImageNet's; with any
    other number of channels nothing but the card normalises.
    """

    def __init__(self, backbone: str = "swin_tiny", in_channels: int = 3, classes: int = 1) -> None:
        super().__init__(backbone, classes=classes)
        self.arguments = {"backbone": backbone, "in_channels": in_channels, "classes": classes}
        if in_channels != 3:
            extractor = self.encoder.feature_extractor
            extractor.set_submodule("features.0.0", _rewired(extractor.get_submodule("features.0.0"), in_channels))
            self.encoder.image_normalization = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, class, row, col) of a batch (n, 2, channel, row, col)."""
        fused = self.difference(self.encoder(x.flatten(0, 1)))
        scores = self.final_layer(self.decoder(self.upernet_padding + fused))
        return binary_scores(nn.functional.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False))


class ChangeViT(torchgeo.models.ChangeViT):
    """A vision transformer with details from a small ResNet (ChangeViT: Zhu et al. 2024, arXiv:2406.12847).

    `backbone` is a name of timm's; `img_size` is the tile that its position embedding was made for, other tiles
    interpolate it.
    """

    def __init__(
        self, backbone: str = "vit_tiny_patch16_224", img_size: int = 256, in_channels: int = 3, num_classes: int = 1
    ) -> None:
        super().__init__(backbone, img_size, in_channels, num_classes)
        self.arguments = {
            "backbone": backbone, "img_size": img_size, "in_channels": in_channels, "num_classes": num_classes
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, class, row, col) of a batch (n, 2, channel, row, col)."""
        return binary_scores(super().forward(x))


class ChangeStarFarSeg(torchgeo.models.ChangeStarFarSeg):
    """A segmentation net with a head for change (ChangeStar: Zheng et al. 2021, arXiv:2108.07002).

    Of its outputs `output` chooses one. ``change``: unchanged and changed, from before to after, whose softmax is
    torchgeo's ``change_prob``. ``maps``: the class scores of both dates, before first; `classes` counts them per date.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        in_channels: int = 3,
        classes: int = 1,
        output: Literal["change", "maps"] = "change",
    ) -> None:
        if output not in ("change", "maps"):
            raise ValueError(f"output must be change or maps, not {output!r}")
        super().__init__(backbone, classes, backbone_pretrained=False)
        self.arguments = {"backbone": backbone, "in_channels": in_channels, "classes": classes, "output": output}
        self._maps = output == "maps"
        if in_channels != 3:
            resnet: Any = self.dense_feature_extractor.backbone
            resnet.conv1 = _rewired(resnet.conv1, in_channels)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # scores, not torchgeo's dict
        """Scores (n, class, row, col) of a batch (n, 2, channel, row, col)."""
        features: Tensor = self.dense_feature_extractor(x.flatten(0, 1))
        if self._maps:
            scores: Tensor = self.seg_classifier(features)
            return scores.reshape(len(x), -1, *scores.shape[2:])
        forth, _ = self.changemixin(features.reshape(*x.shape[:2], *features.shape[1:]))
        return binary_scores(forth)


def _rewired(first: Any, in_channels: int) -> nn.Conv2d:
    """The convolution `first` for another number of channels, its weights random."""
    bias = first.bias is not None
    return nn.Conv2d(in_channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=bias)
