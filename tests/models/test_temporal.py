"""Nets over several dates: what attention promises of its weights, and early fusion as the plain U-Net that it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import segmentation_models_pytorch as smp
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import geoseg
from geoseg.models import load_model, read_spec, save_package
from geoseg.models.package import Format
from geoseg.models.registry import build, recipe_of
from geoseg.models.temporal import FCEF, TemporalUnet, TemporalWeights, attention_net, binary_scores
from geoseg.scene import Scene
from geoseg.source.pair import pair_of
from geoseg.testing.fakes import ArraySource

SMALL: dict[str, Any] = {"encoder_name": "tu-mobilenetv3_small_050", "decoder_channels": [16, 16, 16, 8, 8]}


@pytest.fixture(scope="module")
def net() -> TemporalUnet:
    """Random weights, and attention far from even."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = TemporalUnet(in_channels=3, classes=2, **SMALL)
        made.eval().requires_grad_(False)
        for weight in made.focus.parameters():
            torch.nn.init.normal_(weight, std=2.0)
    return made


def series(dates: int, seed: int = 0, *, side: int = 64) -> torch.Tensor:
    return torch.rand(2, dates, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dates", [1, 2, 3, 5])
def test_any_number_of_dates_gives_scores_and_weights_that_sum_to_one(net: TemporalUnet, dates: int) -> None:
    batch = series(dates)
    weights = net.attention(batch)
    assert net(batch).shape == (2, 2, 64, 64)
    assert weights.shape == (2, dates, 64, 64)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 64, 64))
    assert dates == 1 or weights.std(dim=(2, 3)).max() > 0.01, "they differ from place to place"


@pytest.mark.parametrize("dates", [2, 3, 4])
def test_equal_dates_weigh_the_same_and_give_what_one_gives(net: TemporalUnet, dates: int) -> None:
    alone = series(1)
    equal = alone.expand(-1, dates, -1, -1, -1)
    torch.testing.assert_close(net.attention(equal), torch.full((2, dates, 64, 64), 1 / dates))
    torch.testing.assert_close(net(equal), net(alone), rtol=1e-4, atol=1e-5)


@examples(max_examples=8)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_the_order_of_dates_orders_the_weights_and_changes_no_score(
    net: TemporalUnet, order: list[int], seed: int
) -> None:
    batch = series(4, seed)
    torch.testing.assert_close(net.attention(batch[:, order]), net.attention(batch)[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(batch[:, order]), net(batch), rtol=1e-4, atol=1e-5)


def test_features_are_weighted_by_the_softmax_of_their_products(net: TemporalUnet) -> None:
    """At the finest scale, by the formula: alpha_t = softmax of (w . F_t), F = sum of alpha_t F_t."""
    batch = series(3)
    seen: list[list[torch.Tensor]] = []
    hook = net.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(batch)
    hook.remove()
    features = torch.stack([net.encoder(batch[:, date])[1] for date in range(3)], 1)  # (n, date, channel, row, col)
    finest: Any = net.focus[0]
    alpha = torch.einsum("c,ntcrw->ntrw", finest.weight[0, :, 0, 0], features).softmax(1)
    torch.testing.assert_close(seen[0][1], torch.einsum("ntrw,ntcrw->ncrw", alpha, features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_package_maps_the_weights_where_the_net_maps_classes(net: TemporalUnet, kind: Format, tmp_path: Path) -> None:
    weights = attention_net(net)
    assert isinstance(weights, TemporalWeights)
    assert not weights.training
    path = save_package(
        weights,
        tmp_path / "weights",
        name="weights of the dates",
        bands=("green", "red", "nir"),
        classes=("before", "after"),
        format=kind,
        dates=2,
        activation="none",
    )
    spec = read_spec(path)
    assert (spec.dates, spec.activation, spec.output_range) == (2, "none", (0.0, 1.0))
    batch = series(2, side=96)
    torch.testing.assert_close(load_model(path).predict(batch), net.attention(batch), rtol=1e-4, atol=1e-4)


def test_a_run_writes_the_weights_as_a_raster(net: TemporalUnet, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    sources = [ArraySource(date, names=("green", "red", "nir"), scaling=None) for date in pixels]
    dates = [
        Scene(id=name, source=one, geobox=one.geobox, bands=one.bands) for name, one in zip("ab", sources, strict=True)
    ]
    path = save_package(
        attention_net(net),
        tmp_path / "weights",
        name="weights of the dates",
        bands=("green", "red", "nir"),
        classes=("before", "after"),
        tile=64,
        dates=2,
        activation="none",
    )
    geoseg.segment(pair_of(*dates), model=path, out=tmp_path / "out", probabilities=True)
    with rasterio.open(tmp_path / "out" / "probabilities.tif") as raster:
        assert raster.descriptions == ("before", "after")
        found = raster.read() * raster.scales[0]
    expected = net.attention(torch.from_numpy(pixels)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.0021)
    np.testing.assert_allclose(found.sum(0), 1.0, atol=0.0041)


def test_a_net_in_training_stays_there_and_the_random_stream_stays_as_it_was(net: TemporalUnet) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    weights = attention_net(net.train())
    net.eval()
    assert weights.training
    assert torch.rand(1) == expected


def test_early_fusion_is_a_unet_on_all_channels() -> None:
    plain = smp.Unet(in_channels=6, classes=2, encoder_weights=None, **SMALL).eval()
    fused = FCEF(in_channels=3, classes=2, **SMALL).eval()
    fused.load_state_dict(plain.state_dict())
    batch = series(2)
    with torch.inference_mode():
        torch.testing.assert_close(fused(batch), plain(torch.cat([batch[:, 0], batch[:, 1]], 1)))


@pytest.mark.parametrize("name", ["FCEF", "TemporalUnet", "TemporalWeights"])
def test_the_registry_builds_what_a_net_says_of_itself(name: str) -> None:
    made = build(name, {"in_channels": 4, "classes": 3, **SMALL})
    recipe = recipe_of(made)
    assert recipe is not None
    assert recipe[1].get("encoder_weights") is None
    again = build(*recipe)
    assert type(again) is type(made)
    again.load_state_dict(made.state_dict())


@given(st.floats(-8, 8))
def test_one_logit_becomes_two_scores_of_the_same_probability(logit: float) -> None:
    one = torch.full((1, 1, 2, 2), logit)
    torch.testing.assert_close(binary_scores(one).softmax(1)[:, 1:], one.sigmoid())
    several = torch.rand(1, 3, 2, 2)
    assert binary_scores(several) is several
