"""Nets over several dates of one place: early fusion, and attention that weighs the dates pixel by pixel."""

from __future__ import annotations

from typing import Any

import torch
from segmentation_models_pytorch import Unet
from torch import Tensor, nn

__all__ = ["FCEF", "TemporalUnet", "TemporalWeights", "attention_net", "binary_scores"]


class FCEF(Unet):  # type: ignore[misc]  # segmentation_models_pytorch ships no types
    """A U-Net that sees the channels of all dates at once (FC-EF: Daudt et al. 2018, doi:10.1109/ICIP.2018.8451652).

    Its weights are those of a U-Net of ``dates * in_channels`` channels, before first.
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, dates: int = 2, **unet: Any) -> None:
        super().__init__(in_channels=dates * in_channels, classes=classes, **_plain(unet))
        self.arguments = {"in_channels": in_channels, "classes": classes, "dates": dates, **unet}

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, class, row, col) of a batch (n, date, channel, row, col)."""
        return binary_scores(super().forward(batch.flatten(1, 2)))


class TemporalUnet(Unet):  # type: ignore[misc]  # segmentation_models_pytorch ships no types
    """A U-Net over the dates' features, weighted by attention; it takes any number of dates, in any order.

    One encoder sees every date. At each scale ``alpha_t = softmax over t of (w . F_t)``, one learned w per scale, and
    the decoder sees ``F = sum over t of alpha_t F_t``. The weights are a softmax over the dates as in Garnot and
    Landrieu 2021 (doi:10.1109/ICCV48922.2021.00483), but of the features alone: no query, no date of acquisition.
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, **unet: Any) -> None:
        super().__init__(in_channels=in_channels, classes=classes, **_plain(unet))
        self.arguments = {"in_channels": in_channels, "classes": classes, **unet}
        widths = self.encoder.out_channels[1:]  # the first is the input itself, which the decoder does not use
        self.focus = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)  # a bias would cancel

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, class, row, col) of a batch (n, date, channel, row, col)."""
        pooled = [(weights.unsqueeze(2) * features).sum(1) for weights, features in self._scales(batch)]
        scores: Tensor = self.segmentation_head(self.decoder([batch[:, 0], *pooled]))
        return scores

    def attention(self, batch: Tensor) -> Tensor:
        """Weights (n, date, row, col) at the finest scale, which sum to 1 over the dates, at the batch's own size."""
        weights, _ = self._scales(batch)[0]
        return nn.functional.interpolate(weights, batch.shape[-2:], mode="bilinear", align_corners=False)

    def _scales(self, batch: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights (n, date, row, col) and features (n, date, channel, row, col) of each scale, finest first."""
        scales = []
        for focus, flat in zip(self.focus, self.encoder(batch.flatten(0, 1))[1:], strict=True):
            features = flat.reshape(*batch.shape[:2], *flat.shape[1:])
            weights = focus(flat).reshape(*batch.shape[:2], *flat.shape[2:]).softmax(1)
            scales.append((weights, features))
        return scales


class TemporalWeights(TemporalUnet):
    """A `TemporalUnet` whose outputs are its weights: one per date, which sum to 1."""

    def forward(self, batch: Tensor) -> Tensor:
        """Weights (n, date, row, col) of a batch (n, date, channel, row, col)."""
        return self.attention(batch)


def attention_net(net: TemporalUnet) -> TemporalWeights:
    """The net that gives the weights of `net` where that gives scores: a package of it maps them like any classes.

    Save it with one class per date, ``activation="none"`` and the same bands; a run with ``--probabilities`` then
    writes one band of weights per date.
    """
    with torch.random.fork_rng(devices=[]):
        weights = TemporalWeights(**net.arguments)
    weights.load_state_dict(net.state_dict())
    weights.train(net.training)
    return weights


def binary_scores(scores: Tensor) -> Tensor:
    """Scores (n, class, row, col) as they are; of a single logit z the scores (0, z), whose softmax is its sigmoid."""
    return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores


def _plain(unet: dict[str, Any]) -> dict[str, Any]:
    """A U-Net's other arguments: no weights but those asked for, no second output."""
    return {"encoder_weights": None, **unet, "aux_params": None}
