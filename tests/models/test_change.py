"""Nets that compare dates, and flood-s2, the one that ships: what they promise of any pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from geoseg.models import load_model, package_path, read_spec, save_package, validate_package
from geoseg.models.change import SiameseUnet
from geoseg.models.convert import AGREEMENT, difference, onnx_graph
from geoseg.models.package import open_package
from geoseg.models.registry import build, recipe_of
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet
from geoseg.settings import Settings
from pipelines.flood_s2.chips import Chips, read_chips
from pipelines.flood_s2.measure import counts_of
from tests.models.cards import card_of

SMALL = "tu-mobilenetv3_small_050"
FIELD, WATER = (0.20, 0.35, 0.08), (0.01, 0.03, 0.06)
"""Reflectance in swir16, nir, green."""


def net_of(channels: int = 3, classes: int = 2, encoder: str = SMALL, depth: int = 5) -> SiameseUnet:
    torch.manual_seed(5)
    return SiameseUnet(encoder, depth, channels, classes, (32, 24, 16, 16, 8)[:depth]).eval()


@pytest.mark.parametrize(
    ("encoder", "depth", "channels", "classes"),
    [("resnet18", 5, 3, 2), ("tu-regnetx_002", 4, 6, 3), ("tu-convnext_atto", 5, 1, 4), ("mit_b0", 5, 3, 2)],
)
def test_a_pair_becomes_one_map_of_scores(encoder: str, depth: int, channels: int, classes: int) -> None:
    with torch.inference_mode():
        scores = net_of(channels, classes, encoder, depth)(torch.rand(2, 2, channels, 64, 96))
    assert scores.shape == (2, classes, 64, 96)
    assert scores.isfinite().all()


def test_equal_dates_differ_nowhere() -> None:
    date = torch.rand(2, 1, 3, 64, 64)
    with torch.inference_mode():
        for features in net_of().features(date.expand(-1, 2, -1, -1, -1)):
            difference_of_features, before, after = features.chunk(3, 1)
            assert not difference_of_features.any()
            torch.testing.assert_close(before, after)


@settings(max_examples=5)
@given(st.integers(0, 99))
def test_swapping_the_dates_keeps_their_difference(seed: int) -> None:
    pairs = torch.rand(2, 2, 3, 32, 64, generator=torch.Generator().manual_seed(seed))
    net = net_of()
    with torch.inference_mode():
        for features, swapped in zip(net.features(pairs), net.features(pairs.flip(1)), strict=True):
            kept, before, after = features.chunk(3, 1)
            torch.testing.assert_close(swapped, torch.cat([kept, after, before], 1))
            torch.testing.assert_close(kept, (before - after).abs())
        assert not torch.allclose(net(pairs), net(pairs.flip(1)))


def test_a_pair_does_not_see_its_neighbours_in_the_batch() -> None:
    pairs, net = torch.rand(3, 2, 3, 32, 32), net_of()
    with torch.inference_mode():
        torch.testing.assert_close(net(pairs)[1:2], net(pairs[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2"])
def test_two_dates_cost_at_most_twice_one(encoder: str) -> None:
    """Operations against a U-Net with the same encoder: encoded twice, decoded once."""

    def operations(net: torch.nn.Module, batch: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            net.eval()(batch)
        return int(counter.get_total_flops())

    one = operations(smp.Unet(encoder, encoder_weights=None, in_channels=4), torch.rand(1, 4, 128, 128))
    two = operations(SiameseUnet(encoder, in_channels=4), torch.rand(1, 2, 4, 128, 128))
    assert two <= 2.1 * one


def test_the_registry_builds_it_from_its_own_arguments() -> None:
    net = net_of(4, 3, depth=4)
    recipe = recipe_of(net)
    assert recipe is not None
    again = build(*recipe)
    again.load_state_dict(net.state_dict())
    pairs = torch.rand(1, 2, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(pairs), net(pairs))


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_it_comes_back_from_its_package(kind: str, tmp_path: Path) -> None:
    net = net_of()
    path = save_package(
        net, tmp_path / "net", name="a net", bands=("a", "b", "c"), classes=("same", "new"), tile=64, dates=2,
        task="change-detection", format=kind,  # type: ignore[arg-type]  # a name from the list above
    )  # fmt: skip
    assert (read_spec(path).dates, read_spec(path).task) == (2, "change-detection")
    for size in (32, 96):
        pairs = torch.randn(2, 2, 3, size, size)
        with torch.inference_mode():
            expected = net(pairs)
        assert difference(load_model(path).predict(pairs), expected) < 5 * AGREEMENT


def test_onnxruntime_runs_it(tmp_path: Path) -> None:
    net = net_of()
    path = save_package(
        net, tmp_path / "net", name="a net", bands=("a", "b", "c"), classes=("same", "new"), tile=64, dates=2
    )
    assert onnx_graph(open_package(path), (64, 32)).is_file()
    pairs = torch.randn(3, 2, 3, 64, 32)
    with torch.inference_mode():
        expected = net(pairs)
    found = load_model(path, Settings(backend="onnxruntime")).predict(pairs)
    assert difference(found, expected) < 5 * AGREEMENT


# --- flood-s2 -------------------------------------------------------------------------------------------------------


def flooded(before: torch.Tensor, after: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Probability of flood (row, col) of two dates of reflectance (swir16, nir, green; row, col)."""
    spec = read_spec("flood-s2")
    names = [f"{date}.{name}" for date in ("before", "after") for name in spec.bands]
    bands = BandSet(tuple(Band(name=name, dtype="float32") for name in names))
    dates = [prepare(torch.cat([before, after]), valid, recipe) for recipe in recipes_for(spec, bands)]
    return load_model("flood-s2").predict(torch.stack(dates)[None]).softmax(1)[0, 1]


def ground(cover: tuple[float, float, float], size: int = 256) -> torch.Tensor:
    """One cover, a little uneven."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(int(1000 * cover[0])))
    return torch.tensor(cover)[:, None, None] * (1 + 0.05 * noise)


def test_the_shipped_package_keeps_what_its_card_promises() -> None:
    assert validate_package("flood-s2") == []
    folder = package_path("flood-s2")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8e6
    spec = read_spec("flood-s2")
    assert spec.bands == ("swir16", "nir", "green")
    assert [(info.value, info.name) for info in spec.classes] == [(0, "unchanged"), (1, "flood")]
    assert (spec.dates, spec.task, spec.activation) == (2, "change-detection", "softmax")
    assert spec.assume_scaling is not None
    assert spec.assume_scaling.scale == 1e-4


def test_its_card_says_where_it_comes_from_and_how_good_it_is() -> None:
    fields = card_of(package_path("flood-s2"))["properties"]
    provenance = fields["geoseg:provenance"]
    assert fields["license"] == "other"
    assert "no licence file" in provenance["licence"]
    for owner in ("Copernicus Sentinel", "Copernicus Emergency Management Service", "Drakonakis et al. 2022"):
        assert owner in provenance["attribution"]
    assert provenance["metrics"]["val"]["iou"] >= 0.48
    assert provenance["metrics"]["test_public"]["pairs"] == 10
    assert set(fields["geoseg:training_statistics"]) == {"swir16", "nir", "green"}


def test_water_over_a_field_is_a_flood_and_nothing_else_is() -> None:
    field, water = ground(FIELD), ground(WATER)
    after = field.clone()
    after[:, 64:192, 64:192] = water[:, 64:192, 64:192]
    probability = flooded(field, after)
    assert probability[80:176, 80:176].mean() > 0.9
    assert probability[:32].mean() < 0.1
    for before, now in ((field, field), (water, water), (after, after), (after, field)):
        assert (flooded(before, now) > 0.5).float().mean() < 0.01


def test_what_lies_below_lost_pixels_does_not_matter() -> None:
    field, water = ground(FIELD), ground(WATER)
    valid = torch.ones(256, 256, dtype=torch.bool)
    valid[100:, :90] = False
    torch.testing.assert_close(flooded(field, water, valid), flooded(field, water.where(valid, field), valid))


def test_the_figures_of_its_card_are_those_of_the_data(shared: Path) -> None:
    """One block of the validation pairs, measured again from the package."""
    claimed = card_of(package_path("flood-s2"))["properties"]["geoseg:provenance"]["metrics"]["val"]["blocks"]
    block = min(claimed, key=lambda name: int(claimed[name]["pairs"]))
    chips = read_chips(shared / "data" / "ombria_s2_flood_pairs", "val")
    keep = [position for position, name in enumerate(chips.blocks) if name == block]
    part = Chips(
        names=tuple(chips.names[position] for position in keep),
        blocks=(block,) * len(keep),
        levels=chips.levels[keep],
        flood=chips.flood[keep],
        valid=chips.valid[keep],
        agreement=chips.agreement[keep],
    )
    counts = counts_of(load_model("flood-s2").predict, part)
    assert len(keep) == claimed[block]["pairs"]
    for figure in ("iou", "precision", "recall"):
        assert getattr(counts, figure) == pytest.approx(claimed[block][figure], abs=0.002)
