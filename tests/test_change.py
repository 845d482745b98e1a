"""Two dates through the whole line: a map of change that numpy knows pixel by pixel, whatever the files are like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

import geoseg
from geoseg.errors import BandError, ConfigError, ModelError, SourceError
from geoseg.models import load_model
from geoseg.models.post_classification import on_both_dates
from geoseg.spec import from_to_value
from geoseg.testing import LinearModel
from tests.pairs import (
    BANDS,
    COVERS,
    FLOATING,
    GRID,
    SIGNED,
    STEP,
    UNSIGNED,
    Date,
    Storage,
    assert_loss,
    assert_probability,
    detect,
    landscape,
    read,
    report_of,
    save_ndvi_loss,
    write_date,
    write_pair,
)
from tests.source.sources import write_raster


@pytest.fixture(scope="module")
def ndvi_loss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ndvi_loss(tmp_path_factory.mktemp("models") / "ndvi-loss")


@pytest.fixture(scope="module", params=["ndvi-loss", "pair-diff"])
def package(request: pytest.FixtureRequest, ndvi_loss: Path) -> Path:
    """A package for pairs that is known in closed form: of this project's making, and somebody else's."""
    if request.param == "ndvi-loss":
        return ndvi_loss
    path: Path = request.getfixturevalue("shared") / "models" / "pair-diff"
    return path if path.is_dir() else pytest.skip(f"no model package at {path}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Date]:
    return write_pair(tmp_path_factory.mktemp("pair"))


# --- every pixel as numpy says ---


@pytest.mark.parametrize("storages", [(UNSIGNED, SIGNED), (FLOATING, UNSIGNED), (SIGNED, FLOATING)])
def test_every_pixel_is_known_whatever_the_files_are_like(
    package: Path, tmp_path: Path, storages: tuple[Storage, Storage]
) -> None:
    dates = write_pair(tmp_path, storages)
    assert_loss(detect(dates, tmp_path / "out", model=load_model(package)), *dates)


@settings(max_examples=5)
@given(tile=st.integers(32, 120), share=st.floats(0, 0.5), chunk=st.integers(1, 250), data=st.data())
def test_neither_tiles_nor_chunks_are_seen(
    package: Path, pair: list[Date], tmp_path_factory: pytest.TempPathFactory,
    tile: int, share: float, chunk: int, data: st.DataObject,
) -> None:  # fmt: skip
    blend = data.draw(st.sampled_from(["ramp", "linear", "gaussian", "crop"]))
    options = {"tile": tile, "overlap": int(tile * share), "chunk": chunk, "blend": blend}
    out = tmp_path_factory.mktemp("run") / "out"
    assert_loss(detect(pair, out, model=load_model(package), **options), *pair)


def test_packages_are_loaded_by_the_run(package: Path, pair: list[Date], tmp_path: Path) -> None:
    assert_loss(detect(pair, tmp_path / "out", model=package), *pair)


def test_workers_read_both_dates(ndvi_loss: Path, pair: list[Date], tmp_path: Path) -> None:
    assert_loss(detect(pair, tmp_path / "out", model=ndvi_loss, workers=2, chunk=100, tile=96), *pair)


@pytest.mark.parametrize("options", [{}, {"tile": 40, "overlap": 12, "chunk": 60, "batch_size": 3}])
def test_two_maps_are_compared_class_by_class(pair: list[Date], tmp_path: Path, options: dict[str, Any]) -> None:
    result = detect(pair, tmp_path / "out", model=COVERS, probabilities=True, **options)
    probs = [COVERS.expected_probs(date.reflectance.astype(np.float32)) for date in pair]
    was, is_now = (each.argmax(axis=0) for each in probs)
    margins = [np.diff(np.sort(each, axis=0)[-2:], axis=0)[0] for each in probs]
    valid, is_clear = pair[0].valid & pair[1].valid, np.minimum(*margins) > 1e-4
    expected = np.array([[from_to_value(one, other, 3) for other in range(3)] for one in range(3)])[was, is_now]
    change = read(result.labels)
    assert (change[~valid] == 255).all()
    np.testing.assert_array_equal(change[valid & is_clear], expected[valid & is_clear])
    assert len(np.unique(change)) > 4
    assert_probability(result, 0.5 * np.abs(probs[0] - probs[1]).sum(axis=0), valid)
    with rasterio.open(result.probabilities) as file:
        assert np.abs(file.read() * STEP - np.concatenate(probs))[:, valid].max() < 0.51 * STEP
        assert file.descriptions == tuple(
            f"{date}.{info.name}" for date in ("before", "after") for info in COVERS.spec.classes
        )
    table = {(row["from"], row["to"]): row["pixels"] for row in report_of(result)["from_to"]}
    names = [info.name for info in COVERS.spec.classes]
    counts = {
        (names[one], names[other]): (change == 1 + 3 * one + other).sum() for one in range(3) for other in range(3)
    }
    assert table == {key: count for key, count in counts.items() if key[0] != key[1]}


# --- the same date twice, the dates swapped ---


@pytest.mark.parametrize("model", [COVERS, "index-change", "ndvi-loss"], ids=["two maps", "index-change", "ndvi-loss"])
def test_nothing_changes_between_a_date_and_itself(
    model: Any, ndvi_loss: Path, pair: list[Date], tmp_path: Path
) -> None:
    before = pair[0]
    result = detect([before, before], tmp_path / "out", model=ndvi_loss if model == "ndvi-loss" else model)
    np.testing.assert_array_equal(read(result.labels), np.where(before.valid, 0, 255))
    if model is COVERS:
        np.testing.assert_array_equal(read(result.confidence), np.where(before.valid, 0, 255))
    assert sum(area.pixels for area in result.areas[1:]) == 0


def test_swapped_dates_swap_who_became_what_and_nothing_else(pair: list[Date], tmp_path: Path) -> None:
    there, back = (detect(dates, tmp_path / name, model=COVERS) for name, dates in (("a", pair), ("b", pair[::-1])))
    np.testing.assert_array_equal(read(there.confidence), read(back.confidence))
    one = {(row["from"], row["to"]): (row["pixels"], row["km2"]) for row in report_of(there)["from_to"]}
    other = {(row["to"], row["from"]): (row["pixels"], row["km2"]) for row in report_of(back)["from_to"]}
    assert one == other
    assert sum(pixels for pixels, _ in one.values()) > 1000


# --- what either date misses ---


def test_masks_leave_out_their_classes_on_their_date(ndvi_loss: Path, pair: list[Date], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = [np.kron(random.integers(0, 5, (15, 19)), np.ones((10, 10))).astype(np.uint8) for _ in range(2)]
    for name, mask in zip(("before", "after"), masks, strict=True):
        write_raster(tmp_path / f"{name}.tif", mask[None], GRID)
    result = detect(
        pair,
        tmp_path / "out",
        model=ndvi_loss,
        mask_before=f"{tmp_path / 'before.tif'}:3,4",
        mask_after=str(tmp_path / "after.tif"),
    )
    excluded = np.isin(masks[0], (3, 4)) | (masks[1] != 0)
    valid = pair[0].valid & pair[1].valid & ~excluded
    assert 0.1 < valid.mean() < 0.3
    for raster in (result.labels, result.confidence):
        np.testing.assert_array_equal(read(raster) == 255, ~valid)
    both = detect(pair, tmp_path / "both", model=ndvi_loss, mask=f"{tmp_path / 'before.tif'}:3,4")
    np.testing.assert_array_equal(
        read(both.labels) == 255, ~(pair[0].valid & pair[1].valid) | np.isin(masks[0], (3, 4))
    )


@pytest.mark.parametrize("model", [COVERS, "ndvi-loss"], ids=["two maps", "ndvi-loss"])
def test_dates_without_a_pixel_in_common_give_empty_outputs(model: Any, ndvi_loss: Path, tmp_path: Path) -> None:
    left = np.arange(GRID.shape[1]) < 80
    halves = [np.broadcast_to(half, GRID.shape) for half in (left, ~left)]
    dates = [write_date(tmp_path / f"{at}.tif", landscape(at), half) for at, half in enumerate(halves)]
    chosen = ndvi_loss if model == "ndvi-loss" else model
    result = detect(dates, tmp_path / "out", model=chosen, vector=("geojson", "parquet", "fgb", "gpkg"))
    assert result.counts["forward_passes"] == 0
    assert (read(result.labels) == 255).all()
    assert (read(result.confidence) == 255).all()
    assert json.loads((tmp_path / "out" / "polygons.geojson").read_text())["features"] == []
    assert len(result.polygons) == 4
    assert result.compare is not None
    with pytest.raises(SourceError, match=r"no pixel .* valid on both dates"):
        detect(dates, tmp_path / "index", model="index-change")
    assert not (tmp_path / "index").exists()


# --- other ways in ---


def test_arrays_are_compared_as_files_are(ndvi_loss: Path, pair: list[Date], tmp_path: Path) -> None:
    """Two arrays of one name: which is which decides, and a swap is another request."""
    import odc.geo.xr
    import xarray as xr

    arrays = []
    for date, day in zip(pair, ("2024-06-01", "2024-06-21"), strict=True):
        values = np.where(date.valid, date.reflectance, np.nan).astype("float32")
        coords = {"band": list(BANDS), **odc.geo.xr.xr_coords(GRID), "time": np.datetime64(day, "ns")}
        arrays.append(xr.DataArray(values, coords=coords, dims=("band", "y", "x"), name="scene"))
    model = load_model(ndvi_loss)
    result = geoseg.detect_change(*arrays, model=model, out=tmp_path / "out", vector=())
    assert_loss(result, *pair)
    item = json.loads((tmp_path / "out" / "item.json").read_text())
    times = [item["properties"][f"{name}_datetime"] for name in ("start", "end")]
    assert times == ["2024-06-01T00:00:00Z", "2024-06-21T00:00:00Z"]
    swapped = geoseg.detect_change(*arrays[::-1], model=model, out=tmp_path / "swapped", vector=())
    assert_loss(swapped, *pair[::-1])
    assert report_of(result)["request"]["asked"]["inputs"] != report_of(swapped)["request"]["asked"]["inputs"]


def test_what_cannot_be_compared_is_refused(ndvi_loss: Path, pair: list[Date], tmp_path: Path) -> None:
    before, after = (str(date.path) for date in pair)
    with pytest.raises(BandError, match="swir16"):
        geoseg.detect_change(before, after, model=_model("swir16"), out=tmp_path / "out")
    with pytest.raises(ConfigError, match="bands_before and bands_after"):
        geoseg.detect_change(before, after, model=ndvi_loss, bands={"red": after}, out=tmp_path / "out")
    with pytest.raises(ModelError, match="no map of one class per pixel"):
        geoseg.detect_change(before, after, model=LinearModel([[1.0, 0, 0, 0]]), out=tmp_path / "out")
    with pytest.raises(ModelError, match="256 classes, which may become one another in 65536 ways"):
        geoseg.detect_change(before, after, model=LinearModel(np.ones((256, 1))), out=tmp_path / "out")
    with pytest.raises(ModelError, match="use geoseg change"):
        geoseg.segment(before, model=ndvi_loss, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _model(band: str) -> LinearModel:
    from dataclasses import replace

    from geoseg.spec import Channel

    return LinearModel(
        [[1.0], [0.0]],
        spec=replace(COVERS.spec, bands=(band,), channels=(Channel(name=band),), classes=COVERS.spec.classes[:2]),
    )


def test_many_classes_need_two_bytes(pair: list[Date], tmp_path: Path) -> None:
    model = LinearModel(np.random.default_rng(0).normal(0, 9, (20, 4)))
    result = detect(pair, tmp_path / "out", model=model)
    with rasterio.open(result.labels) as file:
        assert (file.dtypes, file.nodata) == (("uint16",), 65535)
    assert len(on_both_dates(model.spec).written.classes) == len(result.areas) == 381
    was, is_now = (model.expected_probs(date.reflectance.astype(np.float32)).argmax(axis=0) for date in pair)
    expected = np.where(was == is_now, 0, 1 + 20 * was + is_now)
    expected[~(pair[0].valid & pair[1].valid)] = 65535
    assert (read(result.labels) == expected).mean() > 0.999
    assert expected[expected < 65535].max() > 255
