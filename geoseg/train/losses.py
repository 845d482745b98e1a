"""What a net is trained to make small: losses on scores and labels, alone or as a weighted sum.

Each takes `logits` (n, class, row, col), real numbers before softmax, and `labels` (n, row, col), whole numbers that
count the classes from 0, and returns one number. Pixels labelled `ignore_index` have no part in it: neither in the
number, nor, exactly, in any gradient. Where no pixel is left the loss is 0, and so is its gradient.

Overlap losses (Dice to Lovasz) take the batch as one picture and average over the classes that its labels hold, so
that their size does not depend on how many classes happen to be absent.

None of them is the one of segmentation_models_pytorch 0.6: its cross-entropy divides by the ignored pixels too, its
focal loss is one of independent sigmoids (NaN where all is ignored), its overlap losses count an absent class as
perfect, its focal Tversky takes the power after the mean over classes, its Lovasz accumulates in float32 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own documents have it
from torch import Tensor

from geoseg.errors import ConfigError
from geoseg.train import IGNORE
from geoseg.train.distances import signed_distances

__all__ = [
    "LOSSES",
    "boundary",
    "cross_entropy",
    "dice",
    "focal",
    "focal_tversky",
    "jaccard",
    "lovasz",
    "smoothed",
    "tversky",
    "weighted",
]

_FLAT = 1e-7
"""Below this a power of a loss is taken as constant: its slope would be infinite at 0."""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = IGNORE,
    weights: Sequence[float] | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean of -log of the probability that each pixel's own class was given.

    Good 1952, doi:10.1111/j.2517-6161.1952.tb00104.x.

    Args:
        logits: (n, class, row, col).
        labels: (n, row, col).
        ignore_index: Label without a part.
        weights: One per class; a pixel counts as much as its class (Eigen and Fergus 2015, doi:10.1109/ICCV.2015.304).
        smoothing: Part of the target that is spread evenly over all classes (Szegedy et al. 2016,
            doi:10.1109/CVPR.2016.308).

    Raises:
        ConfigError: There is not one weight per class.
    """
    scores, truth = _labelled(logits, labels, ignore_index)
    chances = scores.log_softmax(1)
    likelihood = (1 - smoothing) * chances.gather(1, truth[:, None])[:, 0] + smoothing * chances.mean(1)
    return -_mean(likelihood, _weights_of(truth, weights, scores))


def weighted(logits: Tensor, labels: Tensor, *, weights: Sequence[float], ignore_index: int = IGNORE) -> Tensor:
    """`cross_entropy` with one weight per class (Eigen and Fergus 2015, doi:10.1109/ICCV.2015.304).

    Raises:
        ConfigError: There is not one weight per class.
    """
    return cross_entropy(logits, labels, ignore_index=ignore_index, weights=weights)


def smoothed(logits: Tensor, labels: Tensor, *, smoothing: float = 0.1, ignore_index: int = IGNORE) -> Tensor:
    """`cross_entropy` with label smoothing (Szegedy et al. 2016, doi:10.1109/CVPR.2016.308)."""
    return cross_entropy(logits, labels, ignore_index=ignore_index, smoothing=smoothing)


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = IGNORE,
    gamma: float = 2.0,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Cross-entropy in which a pixel counts (1 - p) ** gamma: the easy, whose class's probability p is high, little.

    Lin et al. 2017, doi:10.1109/ICCV.2017.324; over a softmax, and `weights` (one per class) are its alpha.

    Raises:
        ConfigError: There is not one weight per class.
    """
    scores, truth = _labelled(logits, labels, ignore_index)
    likelihood = scores.log_softmax(1).gather(1, truth[:, None])[:, 0]
    missing = -torch.expm1(likelihood)
    # At p = 1 the power has no slope for gamma < 1, and what it would be multiplied by is 0.
    hardness = missing.clamp_min(_FLAT) ** gamma if gamma < 1 else missing**gamma
    return -_mean(hardness * likelihood, _weights_of(truth, weights, scores))


def dice(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """1 - 2 |both| / (|predicted| + |true|), probabilities counting as parts of pixels.

    Milletari et al. 2016, doi:10.1109/3DV.2016.79; without squares, as Drozdzal et al. 2016,
    doi:10.1007/978-3-319-46976-8_19.
    """
    return _overlap_loss(logits, labels, ignore_index, 0.5, 0.5)


def jaccard(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """1 - |both| / |either|, softly (Rahman and Wang 2016, doi:10.1007/978-3-319-50835-1_22)."""
    return _overlap_loss(logits, labels, ignore_index, 1.0, 1.0)


def tversky(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = IGNORE,
    false_positives: float = 0.3,
    false_negatives: float = 0.7,
) -> Tensor:
    """1 - both / (both + a false positives + b false negatives), softly; both halves give `dice`, both ones `jaccard`.

    Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44.
    """
    return _overlap_loss(logits, labels, ignore_index, false_positives, false_negatives)


def focal_tversky(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = IGNORE,
    false_positives: float = 0.3,
    false_negatives: float = 0.7,
    gamma: float = 4 / 3,
) -> Tensor:
    """Mean over classes of their `tversky` to the power 1 / gamma.

    Abraham and Khan 2019, doi:10.1109/ISBI.2019.8759329.
    """
    return _overlap_loss(logits, labels, ignore_index, false_positives, false_negatives, 1 / gamma)


def lovasz(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """The Lovasz extension of 1 - intersection over union, mean over classes.

    Berman et al. 2018, doi:10.1109/CVPR.2018.00464.
    """
    scores, truth = _labelled(logits, labels, ignore_index)
    target = F.one_hot(truth, scores.shape[1]).to(scores.dtype)  # (pixel, class)
    errors, order = (target - scores.softmax(1)).abs().sort(0, descending=True)
    hits = target.gather(0, order)
    found, total = hits.cumsum(0), hits.sum(0)
    # 1 - intersection over union after the 1, 2, ... worst pixels went wrong; its steps are the slopes.
    loss = 1 - (total - found) / (total + torch.arange(1, len(hits) + 1, device=hits.device)[:, None] - found)
    steps = torch.diff(loss, dim=0, prepend=torch.zeros_like(loss[:1]))
    return _mean((errors * steps).sum(0), (total > 0).to(scores.dtype))


def boundary(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """Mean of probability times the signed distance, in pixels, to the edge of each class; below 0 where right.

    The edge lies between labelled pixels: distances are to the nearest one of the other kind, negative inside.
    A class that a chip lacks, or that fills it, has no edge and adds nothing. Meant to be added to an overlap loss.
    Kervadec et al. 2021, doi:10.1016/j.media.2020.101851.
    """
    known = labels != ignore_index
    scores, _ = _labelled(logits, labels, ignore_index)
    distances = signed_distances(labels, known, logits.shape[1], scores.dtype).movedim(1, -1)[known]
    return _mean((scores.softmax(1) * distances).mean(1))


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss
    for loss in (cross_entropy, weighted, smoothed, focal, dice, jaccard, tversky, focal_tversky, lovasz, boundary)
}
"""Every loss by its name."""


def _labelled(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Scores (pixel, class) and labels (pixel) of the pixels that have one; at least in float32."""
    known = labels != ignore_index
    scores = logits.movedim(1, -1)[known]
    return scores.to(torch.promote_types(scores.dtype, torch.float32)), labels[known].long()


def _mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean; 0 of none, or where all weigh nothing."""
    weights = torch.ones_like(values) if weights is None else weights
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def _weights_of(truth: Tensor, weights: Sequence[float] | None, like: Tensor) -> Tensor | None:
    if weights is None:
        return None
    if len(weights) != like.shape[1]:
        raise ConfigError(f"{len(weights)} weights for {like.shape[1]} classes: give one per class")
    return torch.as_tensor(weights, dtype=like.dtype, device=like.device)[truth]


def _overlap_loss(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    false_positives: float,
    false_negatives: float,
    power: float = 1.0,
) -> Tensor:
    scores, truth = _labelled(logits, labels, ignore_index)
    probs, target = scores.softmax(1), F.one_hot(truth, scores.shape[1])
    present = target.sum(0) > 0
    both = (probs * target).sum(0)
    wrong = false_positives * (probs * (1 - target)).sum(0) + false_negatives * ((1 - probs) * target).sum(0)
    # wrong / (both + wrong) = 1 - both / (both + wrong), without the difference of two numbers close to 1.
    loss = wrong / torch.where(present, both + wrong, torch.ones_like(both))
    if power != 1:
        loss = loss.clamp_min(_FLAT) ** power
    return _mean(loss, present.to(loss.dtype))
