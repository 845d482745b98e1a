"""How far each pixel lies from the edge of each class, exactly, on whatever device the labels are."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own documents have it
from torch import Tensor

__all__ = ["signed_distances"]


def signed_distances(labels: Tensor, known: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels (n, class, row, col) to the nearest pixel of a class; inside it, minus those to the nearest other.

    Only known pixels count as either. 0 at unknown pixels, and for a class that an image lacks, or that fills it.

    Args:
        labels: (n, row, col), classes from 0; anything where not known.
        known: (n, row, col), True where labelled.
        classes: How many.
        dtype: Of the distances.
    """
    inside = F.one_hot(torch.where(known, labels, 0).long(), classes).bool().movedim(-1, 1) & known[:, None]
    outside = ~inside & known[:, None]
    edged = inside.flatten(2).any(2) & outside.flatten(2).any(2)  # (n, class)
    distances = torch.zeros(inside.shape, dtype=dtype, device=labels.device)
    if edged.any():
        into, out = (_squares_to(side[edged]).to(dtype).sqrt() for side in (inside, outside))
        distances[edged] = torch.where(inside[edged], -out, into)
    return torch.where(known[:, None], distances, 0.0)


def _squares_to(there: Tensor) -> Tensor:
    """Squared distance (n, row, col) to the nearest True of each image, which must have one: whole numbers as float32.

    Along rows first; then each column takes the least over all rows, nearest rows first, until none can be nearer
    (Saito and Toriwaki 1994, doi:10.1016/0031-3203(94)90133-3).
    """
    along = _distance_along_rows(there) ** 2
    height = there.shape[1]
    least = along.clone()
    for step in range(1, height):
        if step**2 >= least.max():
            break
        for here, other in ((slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None))):
            least[:, here] = torch.minimum(least[:, here], along[:, other] + step**2)
    return least


def _distance_along_rows(there: Tensor) -> Tensor:
    """Distance to the nearest True of the same row; infinite in a row without one."""
    cols = torch.arange(there.shape[2], device=there.device, dtype=torch.float32).expand(there.shape)
    before = cols - torch.where(there, cols, -torch.inf).cummax(2).values
    after = torch.where(there, cols, torch.inf).flip(2).cummin(2).values.flip(2) - cols
    return torch.minimum(before, after)
