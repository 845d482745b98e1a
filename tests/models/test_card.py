"""What a card says is what the engine keeps; what geoseg does not do is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GeosegError, ModelError
from geoseg.models.card import rescale_of, spec_of
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet, Scaling
from tests.models.cards import plain_card

NUMBERS = st.floats(-4, 4).map(lambda value: round(value, 3))
SCALINGS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "min-max": (("minimum", "maximum"), lambda x, low, high: (x - low) / (high - low)),
    "z-score": (("mean", "stddev"), lambda x, mean, sd: (x - mean) / sd),
    "clip": (("minimum", "maximum"), lambda x, low, high: np.minimum(np.maximum(x, low), high)),
    "clip-min": (("minimum",), np.maximum),
    "clip-max": (("maximum",), np.minimum),
    "offset": (("value",), lambda x, value: x - value),
    "scale": (("value",), lambda x, value: x / value),
}


@given(st.sampled_from(sorted(SCALINGS)), NUMBERS, NUMBERS, st.integers(0, 99))
def test_value_scaling_is_what_the_extension_says(kind: str, first: float, second: float, seed: int) -> None:
    names, formula = SCALINGS[kind]
    low, high = min(first, second), max(first, second) + 0.5
    numbers = {"minimum": low, "maximum": high, "mean": low, "stddev": 0.5 + abs(second), "value": 0.5 + abs(first)}
    entry = {"type": kind} | {name: numbers[name] for name in names}
    card = plain_card()
    card["properties"]["mlm:input"][0]["value_scaling"] = [entry]
    spec = spec_of(card)
    pixels = np.random.default_rng(seed).uniform(-3, 3, (2, 4, 5)).astype(np.float32)
    bands = BandSet(tuple(Band(name=name, dtype="float32") for name in spec.bands))
    found = prepare(torch.from_numpy(pixels), None, recipes_for(spec, bands)[0]).numpy()
    expected = formula(pixels.astype(np.float64), *(numbers[name] for name in names))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_one_scaling_per_band_keeps_its_band_and_null_is_none() -> None:
    card = plain_card()
    card["properties"]["mlm:input"][0]["value_scaling"] = [{"type": "offset", "value": 2}, {"type": None}]
    red, nir = spec_of(card).channels
    assert (red.rescale[0].offset, nir.rescale) == (-2.0, ())


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "processing", "format": "python", "expression": "os:system"},
        {"type": "log"},
        {"type": "scale", "value": 0},
        {"type": "min-max", "minimum": 1, "maximum": 1},
        {"type": "z-score", "mean": 0},
        {"type": "clip", "minimum": "0", "maximum": 1},
        {"type": "offset", "value": float("nan")},
        {"type": "offset", "value": True},
    ],
)
def test_scalings_that_cannot_be_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        rescale_of(entry)


def test_a_plain_card() -> None:
    spec = spec_of(plain_card(), digest="ab")
    assert spec.bands == ("red", "nir")
    assert [channel.name for channel in spec.channels] == ["red", "nir"]
    assert spec.values == (3, 7)
    assert [info.color for info in spec.classes] == ["00FF00", "228833"]
    assert [info.title for info in spec.classes] == ["low", "High"]
    assert (spec.tile, spec.overlap, spec.multiple_of, spec.dates, spec.activation) == (128, None, 1, 1, "softmax")
    assert (spec.static_batch, spec.static_tile, spec.assume_scaling, spec.digest) == (None, None, None, "ab")


def test_own_fields_of_a_card() -> None:
    card = plain_card()
    card["properties"] |= {
        "geoseg:tile": 96,
        "geoseg:overlap": 24,
        "geoseg:multiple_of": 8,
        "geoseg:halo": 5,
        "geoseg:fill": -1,
        "geoseg:activation": "none",
        "geoseg:output_range": [-1, 3],
        "geoseg:assume_scaling": {"scale": 1e-4, "offset": -0.1},
        "geoseg:task": "change-detection",
        "geoseg:training_statistics": {"red": {"mean": 0.2}},
    }
    spec = spec_of(card)
    assert (spec.tile, spec.overlap, spec.multiple_of, spec.halo, spec.fill) == (96, 24, 8, 5, -1.0)
    assert (spec.activation, spec.output_range, spec.task) == ("none", (-1.0, 3.0), "change-detection")
    assert spec.assume_scaling == Scaling(scale=1e-4, offset=-0.1)
    assert spec.training_statistics == {"red": {"mean": 0.2}}


def test_indices_come_from_the_catalogue_or_the_card_and_add_the_bands_they_need() -> None:
    card = plain_card()
    entry = card["properties"]["mlm:input"][0]
    entry["bands"] = [
        {"name": "ndwi", "format": "spyndex", "expression": "NDWI"},
        "nir",
        {"name": "ratio", "format": "rio-tiler", "expression": "nir / B04"},
    ]
    entry["input"]["shape"] = [-1, 3, 128, 128]
    spec = spec_of(card)
    assert [channel.expression for channel in spec.channels] == ["(green - nir) / (green + nir)", None, "nir / red"]
    assert spec.bands == ("nir", "green", "red")


def test_pairs_have_dates() -> None:
    card = plain_card()
    structure = card["properties"]["mlm:input"][0]["input"]
    structure["shape"], structure["dim_order"] = [-1, 2, 2, 64, 64], ["batch", "time", "bands", "height", "width"]
    assert (spec_of(card).dates, spec_of(card).tile) == (2, 64)


def test_what_the_graph_fixes_wins_and_a_contradiction_is_refused() -> None:
    spec = spec_of(plain_card(), limits=(4, 128))
    assert (spec.static_batch, spec.static_tile, spec.tile) == (4, 128, 128)


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no mlm:input": lambda p: p.pop("mlm:input"),
    "two inputs": lambda p: p["mlm:input"].append(p["mlm:input"][0]),
    "no bands": lambda p: p["mlm:input"][0].pop("bands"),
    "empty bands": lambda p: p["mlm:input"][0].update(bands=[]),
    "band is a number": lambda p: p["mlm:input"][0].update(bands=[4, "nir"]),
    "band without name": lambda p: p["mlm:input"][0].update(bands=[{}, "nir"]),
    "code in an expression": lambda p: p["mlm:input"][0].update(
        bands=["nir", {"name": "x", "format": "rio-tiler", "expression": "__import__('os')"}]
    ),
    "python expression": lambda p: p["mlm:input"][0].update(
        bands=["nir", {"name": "x", "format": "python", "expression": "os:system"}]
    ),
    "unknown index": lambda p: p["mlm:input"][0].update(
        bands=["nir", {"name": "x", "format": "spyndex", "expression": "NOPE"}]
    ),
    "order": lambda p: p["mlm:input"][0]["input"].update(dim_order=["batch", "height", "width", "bands"]),
    "axes": lambda p: p["mlm:input"][0]["input"].update(shape=[-1, 2, 128]),
    "not square": lambda p: p["mlm:input"][0]["input"].update(shape=[-1, 2, 128, 64]),
    "channels": lambda p: p["mlm:input"][0]["input"].update(shape=[-1, 5, 128, 128]),
    "dtype": lambda p: p["mlm:input"][0]["input"].update(data_type="uint8"),
    "scaling count": lambda p: p["mlm:input"][0].update(value_scaling=[{"type": None}] * 3),
    "preprocessing": lambda p: p["mlm:input"][0].update(
        pre_processing_function={"format": "python", "expression": "a:b"}
    ),
    "resize": lambda p: p["mlm:input"][0].update(resize_type="interpolation-linear"),
    "no output": lambda p: p.update({"mlm:output": []}),
    "classes count": lambda p: p["mlm:output"][0]["classification:classes"].pop(),
    "class value": lambda p: p["mlm:output"][0]["classification:classes"][0].update(value="3"),
    "same value": lambda p: p["mlm:output"][0]["classification:classes"][0].update(value=7),
    "colour": lambda p: p["mlm:output"][0]["classification:classes"][0].update(color_hint="green"),
    "output order": lambda p: p["mlm:output"][0]["result"].update(dim_order=["batch", "height", "width", "classes"]),
    "postprocessing": lambda p: p["mlm:output"][0].update(post_processing_function={"format": "x", "expression": "y"}),
    "tile text": lambda p: p.update({"geoseg:tile": "512"}),
    "tile not a multiple": lambda p: p.update({"geoseg:tile": 100, "geoseg:multiple_of": 32}),
    "activation": lambda p: p.update({"geoseg:activation": "relu"}),
    "range": lambda p: p.update({"geoseg:activation": "none", "geoseg:output_range": [3, 1]}),
    "task": lambda p: p.update({"geoseg:task": "detection"}),
}


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_a_card_that_cannot_be_kept_is_refused_in_one_line(what: str) -> None:
    card = plain_card()
    BROKEN[what](card["properties"])
    with pytest.raises(ModelError) as caught:
        spec_of(card)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(plain_card()["properties"])), JSON)
def test_whatever_stands_in_a_field_the_error_is_ours(key: str, value: Any) -> None:
    card = plain_card()
    card["properties"][key] = value
    # `open_package` turns the builtin errors into a ModelError; anything else would be a crash.
    with contextlib.suppress(GeosegError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        assert spec_of(card).channels
