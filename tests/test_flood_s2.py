"""The recipe of flood-s2 on a few chips of its own making: what it reads, draws, measures, and that it goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoseg.models import load_model, read_spec, validate_package
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet
from pipelines.flood_s2 import training
from pipelines.flood_s2.__main__ import main
from pipelines.flood_s2.augment import Augmentation, draw
from pipelines.flood_s2.chips import Chips, channels_of, read_chips
from pipelines.flood_s2.measure import Counts, counts_of
from pipelines.flood_s2.training import Training, loss_of, train

SIDE = 64
FIELD, WATER = (60, 90, 20), (4, 10, 24)
"""Levels of swir16, nir, green."""


def write_chips(folder: Path) -> Path:
    """Three splits of two pairs, the left half flooded; the first two rows are nodata."""
    rows = []
    for split in ("train", "val", "test_public"):
        for name in ("one", "two"):
            rows.append({"id": name, "split": split, "block": f"block-{name}", "mndwi_iou": 0.9})
            before, mask = np.full((SIDE, SIDE, 3), FIELD, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
            after = before.copy()
            after[:, : SIDE // 2], mask[:, : SIDE // 2] = WATER, 255
            before[:2] = after[:2] = 0
            for kind, pixels in (("before", before), ("after", after), ("mask", mask)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / split / kind / f"{name}.png")
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, tuple(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chips(tmp_path_factory.mktemp("chips"))


@pytest.fixture(scope="module")
def chips(data: Path) -> Chips:
    return read_chips(data, "train")


def small(**changes: int) -> Training:
    return Training(**{"steps": 4, "batch": 2, **changes}, augmentation=Augmentation(side=32))  # type: ignore[arg-type]


def test_chips_are_read_as_they_lie_on_disk(chips: Chips) -> None:
    assert (chips.names, chips.blocks) == (("one", "two"), ("block-one", "block-two"))
    assert chips.levels.shape == (2, 2, 3, SIDE, SIDE)
    assert chips.levels[0, 1, :, 5, 5].tolist() == list(WATER)
    assert chips.levels[0, 0, :, 5, 5].tolist() == list(FIELD)
    assert not chips.valid[:, :2].any()
    assert chips.valid[:, 2:].all()
    assert chips.flood[:, :, : SIDE // 2].all()
    assert not chips.flood[:, :, SIDE // 2 :].any()


def test_clouds_whose_reflectance_wrapped_are_not_used(tmp_path: Path) -> None:
    folder = write_chips(tmp_path)
    pixels = np.asarray(Image.open(folder / "train" / "after" / "one.png")).copy()
    pixels[20:24, 40:44] = 250  # a cloud, and a pixel of it above 1: 260 is stored as 4
    pixels[21, 41, 1] = 260 - 256
    Image.fromarray(pixels).save(folder / "train" / "after" / "one.png")
    lost = ~read_chips(folder, "train").valid[0, 2:]
    assert lost[21 - 2, 41]
    assert not lost[:, :39].any()


def test_the_net_sees_what_the_engine_will_show_it(chips: Chips, data: Path, tmp_path: Path) -> None:
    main([str(data), str(tmp_path), "--steps", "1"])
    spec = read_spec(tmp_path / "flood-s2")
    bands = tuple(Band(name=f"{date}.{name}", dtype="float32") for date in ("before", "after") for name in spec.bands)
    reflectance = chips.reflectance(torch.arange(2))
    seen = channels_of(reflectance, chips.valid)
    for number, recipe in enumerate(recipes_for(spec, BandSet(bands))):
        for pair in range(2):
            shown = prepare(reflectance[pair].flatten(0, 1), chips.valid[pair], recipe)
            torch.testing.assert_close(seen[pair, number], shown, rtol=0, atol=0)
    assert (seen[:, :, :, :2] == spec.fill).all()


@settings(max_examples=10)
@given(st.integers(0, 9999))
def test_labels_go_where_their_pixels_go(seed: int) -> None:
    green = torch.randint(1, 255, (3, 1, 48, 48), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    levels = torch.full((3, 2, 3, 48, 48), 100, dtype=torch.uint8)
    levels[:, 1, 2:] = green
    chips = Chips(
        names=("a", "b", "c"), blocks=("a", "b", "c"), levels=levels, flood=green[:, 0] > 127, valid=green[:, 0] > 9,
        agreement=torch.ones(3),
    )  # fmt: skip
    plan = Augmentation(side=32, zoom=(1, 1), gain=0, tint=0, haze=0, faded=0, unchanged=0, lost=0, mixed=0.5)
    reflectance, flood, valid = draw(chips, torch.ones(3), 4, plan, torch.Generator().manual_seed(seed))
    assert reflectance.shape == (4, 2, 3, 32, 32)
    found = (reflectance[:, 1, 2] * 255).floor()
    torch.testing.assert_close(flood, (found > 127).float())
    torch.testing.assert_close(valid, found > 9)


def test_a_date_shown_twice_holds_no_flood(chips: Chips) -> None:
    plan = Augmentation(side=32, gain=0, tint=0, haze=0, unchanged=1, lost=0)
    reflectance, flood, _ = draw(chips, torch.ones(2), 8, plan, torch.Generator().manual_seed(1))
    torch.testing.assert_close(reflectance[:, 0], reflectance[:, 1], rtol=0, atol=0)
    assert not flood.any()


def test_what_is_lost_is_not_valid(chips: Chips) -> None:
    random = torch.Generator().manual_seed(1)
    _, _, valid = draw(chips, torch.ones(2), 16, Augmentation(side=32, lost=1), random)
    assert (~valid).flatten(1).any(1).all()
    assert valid.flatten(1).any(1).all()


def test_pixels_that_are_not_valid_do_not_count() -> None:
    scores, flood = torch.randn(2, 2, 8, 8), torch.ones(2, 8, 8)
    valid = torch.zeros(2, 8, 8, dtype=torch.bool)
    valid[:, :4] = True
    other = scores.clone()
    other[:, :, 4:] = 9
    torch.testing.assert_close(loss_of(scores, flood, valid, 0.1), loss_of(other, flood * valid, valid, 0.1))
    sure = torch.stack([-20 * flood, 20 * flood], 1)
    assert loss_of(sure, flood, valid, 0.0) < 0.01
    assert loss_of(-sure, flood, valid, 0.0) > 1


def test_figures_are_of_pooled_pixels(chips: Chips) -> None:
    def all_flood(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(batch[:, 0, 0]), torch.ones_like(batch[:, 0, 0])], 1)

    counts, usable = counts_of(all_flood, chips), 2 * SIDE * (SIDE - 2)
    assert counts == Counts(hit=usable // 2, false=usable // 2)
    assert (counts.iou, counts.precision, counts.recall) == (0.5, 0.5, 1.0)
    assert Counts().iou == 0


def test_a_stopped_training_goes_on_as_if_it_had_not(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(small(), chips, tmp_path / "whole.pt", every=2).state_dict()
    drawn = []

    def draw_three(*arguments: object) -> object:
        drawn.append(1)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]  # whatever the loop gives

    monkeypatch.setattr(training, "draw", draw_three)
    with pytest.raises(KeyboardInterrupt):
        train(small(), chips, tmp_path / "stopped.pt", every=2)
    drawn.clear()
    resumed = train(small(), chips, tmp_path / "stopped.pt", every=2).state_dict()
    assert len(drawn) == 2  # steps 3 and 4
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_one_command_writes_a_package_that_keeps_its_promise(data: Path, tmp_path: Path) -> None:
    main([str(data), str(tmp_path / "a"), "--steps", "2"])
    main([str(data), str(tmp_path / "b"), "--steps", "2"])
    first, second = tmp_path / "a" / "flood-s2", tmp_path / "b" / "flood-s2"
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (first / "model.json").read_bytes() == (second / "model.json").read_bytes()
    assert validate_package(first) == []
    chips = read_chips(data, "val")
    figures = json.loads((tmp_path / "a" / "figures.json").read_text("utf-8"))["val"]
    assert counts_of(load_model(first).predict, chips).iou == pytest.approx(figures["iou"], abs=1e-3)
    assert set(figures["blocks"]) == {"block-one", "block-two"}
