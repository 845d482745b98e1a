"""Chance: every draw of a training follows from its seed and from where it stands, never from what was drawn before.

So a training that goes on after it was killed draws what it would have drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["around", "between", "generator_at", "seed_at"]


def seed_at(seed: int, *place: int) -> int:
    """A seed (63 bits) for one place of a training: its epoch, its step, ...; all places have different ones."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_at(seed: int, *place: int) -> Generator:
    """The only source of chance at one place of a training."""
    return Generator().manual_seed(seed_at(seed, *place))


def between(low: float, high: float, random: Generator) -> float:
    """A number that is drawn evenly."""
    return low + (high - low) * float(torch.rand((), generator=random))


def around(spread: float, shape: tuple[int, ...], random: Generator) -> Tensor:
    """Factors of `shape`, drawn evenly from 1 - `spread` to 1 + `spread`."""
    return 1 + spread * (2 * torch.rand(shape, generator=random) - 1)
