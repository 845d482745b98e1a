"""Which chips are seen when: all of them once in an epoch, rare classes more often where that is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from geoseg.train.augment import Augmenter
from geoseg.train.feed import TrainFeed
from geoseg.train.fit import rate_at
from geoseg.train.options import DataOptions, FitOptions
from geoseg.train.samples import open_chips
from geoseg.train.statistics import Statistics
from geoseg.train.view import View, classes_on
from tests.train.fields import PLAIN, SIDE, SPLITS, make_chips


def feed_of(folder: Path, *, balanced: bool = False, **fit: int) -> TrainFeed:
    chips = open_chips(folder)
    values = {name: {"mean": 0.0, "sd": 1.0, "histogram": {"low": 0.0, "high": 1.0}} for name in chips.bands}
    return TrainFeed(
        chips=chips,
        chosen=chips.of("train"),
        view=View.of(chips, DataOptions(), classes_on(chips, {}), None),
        augmenter=Augmenter(options=PLAIN, side=SIDE, statistics=Statistics(values=values)),
        fit=FitOptions(**fit),  # type: ignore[arg-type]
        balanced=balanced,
    )


@pytest.mark.parametrize(("batch", "accumulate", "steps"), [(1, 1, 4), (1, 2, 2), (3, 1, 2), (8, 1, 1)])
def test_an_epoch_shows_every_chip(tmp_path: Path, batch: int, accumulate: int, steps: int) -> None:
    feed = feed_of(make_chips(tmp_path / "chips"), batch=batch, accumulate=accumulate)
    assert feed.steps == steps
    for epoch in range(3):
        seen = Counter(feed._order(epoch))
        assert sum(seen.values()) == steps * batch * accumulate
        assert set(seen) == set(range(SPLITS["train"]))
        assert max(seen.values()) - min(seen.values()) <= 1
    assert feed._order(0) != feed._order(1) or feed._order(0) != feed._order(2)


def test_an_epoch_goes_on_in_the_middle_with_what_it_would_have_shown(tmp_path: Path) -> None:
    feed = feed_of(make_chips(tmp_path / "chips"), batch=2, accumulate=2, steps=4)
    every, rest = list(feed.epoch(3, 0)), list(feed.epoch(3, 2))
    assert [len(step) for step in every] == [2] * 4
    for one, other in zip(every[2:], rest, strict=True):
        for (channels, labels), (again, known) in zip(one, other, strict=True):
            assert torch.equal(channels, again)
            assert torch.equal(labels, known)


def test_rare_classes_are_drawn_more_often(tmp_path: Path) -> None:
    feed = feed_of(make_chips(tmp_path / "chips"), balanced=True, batch=8, steps=100)
    chosen = tuple(replace(chip, pixels=(100, 10 if number == 0 else 0)) for number, chip in enumerate(feed.chosen))
    drawn = Counter(replace(feed, chosen=chosen)._order(0))
    assert drawn[0] / 800 == pytest.approx((1 + 0.25) / 2, abs=0.06)  # all of the rare class, a quarter of the other


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_highest_and_never_again(schedule: str) -> None:
    options = FitOptions(rate=0.5, warmup=0.2, schedule=schedule)  # type: ignore[arg-type]
    rates = [rate_at(options, step, 50) for step in range(50)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[9] == rates[10] == 0.5
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert (rates[-1] == 0.5) == (schedule == "constant")
    assert min(rates) > 0
