"""Which chips a net sees when: the order of each epoch, batches, and reading ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoseg.train import IGNORE
from geoseg.train.augment import Augmenter
from geoseg.train.draws import generator_at
from geoseg.train.options import FitOptions
from geoseg.train.samples import Chip, ChipReader
from geoseg.train.view import View

__all__ = ["Batch", "TrainFeed", "judged_batches"]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""What the net sees float32 (n, ..., channel, row, col), and labels int64 (n, row, col)."""

_AHEAD = 2
"""Batches that are made while the net is at work; they depend on their place only, not on when they are made."""
_ORDER, _DRAWS = 0, 1
"""What a place's chance is for."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainFeed:
    """The training chips, step by step."""

    chips: ChipReader
    chosen: Sequence[Chip]
    view: View
    augmenter: Augmenter
    fit: FitOptions
    balanced: bool
    """Whether chips with rare classes are drawn more often."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.fit.steps or -(-len(self.chosen) // (self.fit.batch * self.fit.accumulate))

    def epoch(self, epoch: int, first: int) -> Iterator[list[Batch]]:
        """The batches of each step of an epoch from step `first` on.

        Raises:
            SourceError: A chip cannot be read.
        """
        order = self._order(epoch)
        return _ahead(lambda step: self._step(order, epoch, step), range(first, self.steps))

    def _order(self, epoch: int) -> list[int]:
        """The chips of all batches of an epoch, one after the other."""
        random, needed = (
            generator_at(self.fit.seed, epoch, 0, _ORDER),
            self.steps * self.fit.batch * self.fit.accumulate,
        )
        if self.balanced:
            return torch.multinomial(_worth(self.chosen), needed, replacement=True, generator=random).tolist()
        rounds = -(-needed // len(self.chosen))
        once = [torch.randperm(len(self.chosen), generator=random) for _ in range(rounds)]
        return torch.cat(once)[:needed].tolist()

    def _step(self, order: Sequence[int], epoch: int, step: int) -> list[Batch]:
        random = generator_at(self.fit.seed, epoch, step, _DRAWS)
        parts, size = self.fit.accumulate, self.fit.batch
        starts = range(step * parts * size, (step + 1) * parts * size, size)
        return [self._batch(order[start : start + size], random) for start in starts]

    def _batch(self, numbers: Sequence[int], random: torch.Generator) -> Batch:
        samples = [self.chips.read(self.chosen[number]) for number in numbers]
        bands, labels, valid = self.augmenter(samples, random)
        channels = self.view.show(bands, valid)
        return self.augmenter.drop_channels(channels, self.view.spec.fill, random), labels.long()


def _worth(chips: Sequence[Chip]) -> Tensor:
    """How often each chip is drawn, relative to the others: the sum, over classes, of its part of their pixels."""
    pixels = torch.tensor([chip.pixels for chip in chips]).double()
    return (pixels / pixels.sum(0).clamp(min=1)).sum(1)


def judged_batches(chips: ChipReader, chosen: Sequence[Chip], view: View, size: int, stride: int) -> Iterator[Batch]:
    """All of `chosen` as they are, in order; rows and columns are filled up to multiples of `stride`.

    Raises:
        SourceError: A chip cannot be read.
    """
    starts = range(0, len(chosen), size)
    return _ahead(lambda start: _plain_batch(chips, chosen[start : start + size], view, stride), starts)


def _plain_batch(chips: ChipReader, chosen: Sequence[Chip], view: View, stride: int) -> Batch:
    samples = [chips.read(chip) for chip in chosen]
    rows, cols = (stride * -(-max(sample.valid.shape[axis] for sample in samples) // stride) for axis in (0, 1))
    more = [(0, cols - sample.valid.shape[1], 0, rows - sample.valid.shape[0]) for sample in samples]
    bands = torch.stack([pad(sample.bands, room) for sample, room in zip(samples, more, strict=True)])
    valid = torch.stack([pad(sample.valid, room, value=False) for sample, room in zip(samples, more, strict=True)])
    labels = torch.stack([pad(sample.labels, room, value=IGNORE) for sample, room in zip(samples, more, strict=True)])
    return view.show(bands, valid), labels.long()


def _ahead(make: Callable[[int], _Made], places: range) -> Iterator[_Made]:
    """What `make` makes of each place, in order, a few of them ahead."""
    with ThreadPoolExecutor(1, thread_name_prefix="chips") as pool:
        left = iter(places)
        waiting: deque[Future[_Made]] = deque(pool.submit(make, place) for place in islice(left, _AHEAD))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(make, place) for place in islice(left, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()
