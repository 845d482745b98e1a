"""Nets that compare dates: one encoder for all of them, one decoder for the map of what changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

__all__ = ["SiameseUnet"]


class SiameseUnet(nn.Module):
    """Scores (n, class, row, col) of a pair of dates (n, 2, channel, row, col), before first.

    Both dates pass through one encoder. At every scale F_diff = |F_before - F_after| is joined with F_before and
    F_after: the difference says where something changed (FC-Siam-diff: Daudt et al. 2018,
    doi:10.1109/ICIP.2018.8451652), the dates say from what to what, which a difference without sign cannot. A U-Net's
    decoder (Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28) reads the joined features once.

    Args:
        encoder_name: Any encoder of segmentation_models_pytorch or, as ``tu-NAME``, of timm; its weights are random.
        encoder_depth: Scales: rows and columns must be multiples of ``2**encoder_depth``.
        in_channels: Channels of one date.
        classes: Scores per pixel.
        decoder_channels: Width of the decoder from the coarsest scale to the finest, one per scale.
    """

    def __init__(
        self,
        encoder_name: str = "resnet18",
        encoder_depth: int = 5,
        in_channels: int = 3,
        classes: int = 2,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__()
        self.arguments = {
            "encoder_name": encoder_name,
            "encoder_depth": encoder_depth,
            "in_channels": in_channels,
            "classes": classes,
            "decoder_channels": list(decoder_channels),
        }
        self.encoder = get_encoder(encoder_name, in_channels=in_channels, depth=encoder_depth, weights=None)
        finest, *widths = self.encoder.out_channels
        last = decoder_channels[-1]
        self.joints = nn.ModuleList([_joint(finest, last), *(_joint(width, width) for width in widths)])
        self.decoder = UnetDecoder((last, *widths), decoder_channels, n_blocks=encoder_depth)
        self.head = nn.Sequential(
            nn.Conv2d(2 * last, last, 3, padding=1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, classes, 1),
        )

    def features(self, pairs: Tensor) -> list[Tensor]:
        """|F_before - F_after|, F_before, F_after along the channels: (n, 3 * width, row, col), from fine to coarse.

        The first are those of the pixels themselves.
        """
        stacked: list[Tensor] = self.encoder(pairs.flatten(0, 1))  # each (n * date, width, row, col)
        dates = [features.reshape(*pairs.shape[:2], *features.shape[1:]) for features in stacked]
        return [torch.cat([(one[:, 0] - one[:, 1]).abs(), one[:, 0], one[:, 1]], 1) for one in dates]

    def forward(self, pairs: Tensor) -> Tensor:
        """Scores of a batch of pairs."""
        joined = [joint(features) for joint, features in zip(self.joints, self.features(pairs), strict=True)]
        decoded: Tensor = self.decoder(joined)  # of the first entry a U-Net's decoder takes only rows and columns
        scores: Tensor = self.head(torch.cat([decoded, joined[0]], 1))  # the pixels themselves draw sharp outlines
        return scores


def _joint(width: int, out: int) -> nn.Module:
    """Three times `width` channels to `out`; encoders without a scale give it no channels at all."""
    if not width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(3 * width, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
