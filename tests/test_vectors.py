"""From labels to features: every option together with every other, the same for every chunking, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import geoseg
from geoseg.earth import PixelAreas
from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.polygon_options import PolygonOptions
from geoseg.sink.features import joined_frames
from geoseg.source.labels import ArrayLabels, RasterLabels
from geoseg.spec import ClassInfo
from geoseg.tracing.sieve import sieve
from geoseg.types import Labels
from geoseg.vectors import Drawing, map_features, vectorize
from geoseg.window import GeoBox, Window
from tests.source.sources import write_raster

NODATA = 255
PLACE = Affine(10, 0, 600_000, 0, -10, 5_400_000)

rasters = arrays.arrays(
    np.uint8, st.tuples(st.integers(2, 22), st.integers(2, 22)), elements=st.sampled_from([0, 0, 1, 1, 2, NODATA])
)


def box_of(labels: Labels) -> GeoBox:
    rows, cols = labels.shape
    return GeoBox((rows, cols), PLACE, "EPSG:32632")


def regions_of(
    labels: Labels, options: PolygonOptions, scratch: Path, chunk: int, hidden: int | None = None
) -> dict[int, tuple[Any, ...]]:
    """By first pixel."""
    drawing = Drawing(options=options, scratch=scratch, chunk=chunk, threads=2)
    batches = drawing.regions(ArrayLabels(labels, NODATA), box_of(labels), rasters={}, hidden=hidden)
    return {
        int(first): (int(value), int(pixels), polygon.wkb, float(area), None if part is None else int(part))
        for batch in batches
        for first, value, pixels, polygon, area, part in zip(
            batch.first,
            batch.values,
            batch.pixels,
            batch.polygons,
            batch.areas,
            [None] * len(batch) if batch.parts is None else batch.parts,
            strict=True,
        )
    }


options_of = st.builds(
    PolygonOptions,
    min_area=st.sampled_from([0.0, 250.0, 1000.0]),
    simplify=st.sampled_from([0.0, 10.0, 30.0]),
    smooth=st.booleans(),
    max_vertices=st.sampled_from([None, 16, 40]),
    connectivity=st.sampled_from([4, 8]),
)


@settings(max_examples=60)
@given(labels=rasters, options=options_of, hidden=st.sampled_from([None, 0]), chunk=st.integers(3, 30))
def test_no_option_loses_ground_or_knows_of_chunks(
    tmp_path_factory: pytest.TempPathFactory, labels: Labels, options: PolygonOptions, hidden: int | None, chunk: int
) -> None:
    scratch = tmp_path_factory.getbasetemp()
    found = regions_of(labels, options, scratch, chunk, hidden)
    everything = regions_of(labels, options, scratch, 64)
    assert found == {first: region for first, region in everything.items() if region[0] != hidden}
    geobox, whole = box_of(labels), Window(row_off=0, col_off=0, height=labels.shape[0], width=labels.shape[1])
    sieved = ArrayLabels(labels, NODATA)
    if options.min_area:
        reader = sieve(sieved, options.min_area, areas=PixelAreas(geobox), connectivity=options.connectivity)
        sieved = ArrayLabels(reader.read(whole), NODATA)
    shown = (sieved.array != NODATA) & (sieved.array != (NODATA if hidden is None else hidden))
    polygons = shapely.from_wkb([wkb for _, _, wkb, _, _ in found.values()])
    assert sum(pixels for _, pixels, _, _, _ in found.values()) == shown.sum()
    assert shapely.is_valid(polygons).all()
    if hidden is None:
        assert shapely.area(polygons).sum() == pytest.approx(100 * shown.sum(), rel=1e-9)
    if options.connectivity == 4:
        assert shapely.coverage_is_valid(polygons)
    if options.simplify == 0 and not options.smooth and len(polygons):
        burned = rasterio.features.rasterize(
            zip(polygons, (value for value, *_ in found.values()), strict=True),
            out_shape=labels.shape, transform=PLACE, fill=NODATA, dtype="uint8",
        )  # fmt: skip
        np.testing.assert_array_equal(burned, np.where(shown, sieved.array, NODATA))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Labels]:
    """A label raster, its confidence (scaled), and the labels."""
    folder, random = tmp_path_factory.mktemp("map"), np.random.default_rng(5)
    labels = np.kron(random.integers(0, 3, (15, 20)), np.ones((2, 2))).astype(np.uint8)
    labels[:3, :7] = NODATA
    confidence = random.integers(100, 250, labels.shape).astype(np.uint8)
    path = write_raster(folder / "labels.tif", labels[None], box_of(labels), nodata=NODATA)
    sure = write_raster(folder / "confidence.tif", confidence[None], box_of(labels), nodata=NODATA, scales=(0.004,))
    return path, sure, labels


def test_a_feature_holds_the_mean_confidence_of_its_pixels(mapped: tuple[Path, Path, Labels]) -> None:
    path, confidence, labels = mapped
    names = [ClassInfo(value=value, name=name) for value, name in enumerate(("water", "forest", "town"))]
    frame = vectorize(path, classes=names, confidence=confidence, scene="s", model="m")
    assert list(frame.columns) == [
        "id", "class_id", "class_name", "area_m2", "perimeter_m", "confidence_mean", "scene", "datetime", "model",
        "geometry",
    ]  # fmt: skip
    assert list(frame["id"]) == list(range(1, len(frame) + 1))
    stored = rasterio.open(confidence).read(1)
    for _, row in frame.iterrows():
        inside = ~rasterio.features.geometry_mask([row.geometry], labels.shape, PLACE)
        assert set(labels[inside]) == {row.class_id}
        assert row.confidence_mean == pytest.approx(stored[inside].mean() * 0.004, abs=1e-5)
        assert row.class_name == names[row.class_id].name
    assert vectorize(path)["confidence_mean"].isna().all()


def test_pixels_without_confidence_do_not_count(tmp_path: Path) -> None:
    labels = np.ones((6, 8), np.uint8)
    labels[:, 6:] = 2
    stored = np.full(labels.shape, 200, np.uint8)
    stored[:3] = stored[:, 6:] = 255
    path = write_raster(tmp_path / "labels.tif", labels[None], box_of(labels))
    sure = write_raster(tmp_path / "sure.tif", stored[None], box_of(labels), nodata=255, scales=(0.004,))
    np.testing.assert_allclose(vectorize(path, confidence=sure)["confidence_mean"], [0.8, np.nan])


def test_pieces_bear_numbers_and_statistics_have_columns(mapped: tuple[Path, Path, Labels]) -> None:
    pytest.importorskip("exactextract", reason="statistics need exactextract")
    path, confidence, labels = mapped
    frame = vectorize(path, max_vertices=16, stats=[f"{confidence}:min,max"])
    stored = rasterio.open(confidence).read(1) * 0.004
    assert set(frame["part"]) > {0}
    assert shapely.get_num_coordinates(frame.geometry.array).max() <= 16 + 8
    for _, row in frame.iterrows():
        inside = ~rasterio.features.geometry_mask([row.geometry], labels.shape, PLACE)
        assert row.confidence_max == pytest.approx(stored[inside].max(), abs=1e-6)
    whole = vectorize(path)
    assert frame["area_m2"].sum() == pytest.approx(whole["area_m2"].sum(), rel=1e-12)


def test_what_cannot_be_is_refused(mapped: tuple[Path, Path, Labels], tmp_path: Path) -> None:
    path, confidence, _ = mapped
    with pytest.raises(ConfigError, match="no option colour"):
        vectorize(path, colour="red")
    with pytest.raises(ConfigError, match="at least 0"):
        vectorize(path, simplify=-1)
    with pytest.raises(ConfigError, match="are not RASTER"):
        vectorize(path, stats=[f"{confidence}:best"])
    with pytest.raises(ConfigError, match="confidence_mean, a column that polygons have"):
        vectorize(path, stats=[f"{confidence}:max,mean"])
    with pytest.raises(SourceError):
        vectorize(tmp_path / "none.tif")
    small = write_raster(tmp_path / "small.tif", np.ones((1, 4, 4), np.uint8), box_of(np.ones((4, 4), np.uint8)))
    with pytest.raises(GridError, match="confidence_mean"):
        vectorize(path, confidence=small)


def test_the_public_function_is_this_one() -> None:
    assert geoseg.vectorize is vectorize


def test_a_map_without_any_label_has_no_features(tmp_path: Path) -> None:
    blank = np.full((1, 30, 40), NODATA, np.uint8)
    path = write_raster(tmp_path / "blank.tif", blank, box_of(blank[0]), nodata=NODATA)
    frame = vectorize(path, simplify=10, min_area=500, max_vertices=20)
    assert isinstance(frame, geopandas.GeoDataFrame)
    assert len(frame) == 0
    assert "part" in frame.columns
    assert joined_frames(map_features(RasterLabels(path), drawing=Drawing(), classes=())).empty
