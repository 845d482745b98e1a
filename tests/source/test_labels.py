"""Label readers read what rasterio reads, on any thread, and say what belongs to no region."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoseg.errors import GridError, SourceError
from geoseg.protocols import LabelReader
from geoseg.source.labels import ArrayLabels, RasterLabels
from geoseg.tracing.regions import trace_regions
from geoseg.window import Window
from tests.source.rasters import PLACE, ramp, write

EVERYTHING = Window(row_off=0, col_off=0, height=50, width=70)


def test_a_file_reads_as_rasterio_reads_it(tmp_path: Path) -> None:
    pixels = ramp(2)
    labels = RasterLabels(write(tmp_path / "labels.tif", pixels, nodata=7), band=2)
    assert isinstance(labels, LabelReader)
    assert (labels.shape, labels.dtype, labels.nodata) == ((50, 70), np.dtype(np.uint16), 7)
    assert labels.geobox.transform == PLACE
    windows = list(EVERYTHING.pieces(13, 17))
    with ThreadPoolExecutor(4) as pool:
        for window, found in zip(windows, pool.map(labels.read, windows), strict=True):
            np.testing.assert_array_equal(found, pixels[1][window.slices])


def test_it_travels_as_its_arguments(tmp_path: Path) -> None:
    labels = RasterLabels(write(tmp_path / "labels.tif", ramp(1)), nodata=3)
    labels.read(EVERYTHING)
    again = pickle.loads(pickle.dumps(labels))
    assert (again.nodata, again.shape) == (3, (50, 70))


def test_it_is_opened_when_it_is_asked(tmp_path: Path) -> None:
    labels = RasterLabels(tmp_path / "gone.tif")
    with pytest.raises(SourceError, match="gone"):
        labels.read(EVERYTHING)


def test_what_a_mask_hides_is_nodata(tmp_path: Path) -> None:
    hidden = np.zeros((50, 70), bool)
    hidden[3:9, 5:] = True
    path = write(tmp_path / "masked.tif", ramp(1, dtype="uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(~hidden)
    with pytest.raises(GridError, match="mask, but no nodata value"):
        _ = RasterLabels(path).nodata
    found = RasterLabels(path, nodata=255).read(EVERYTHING)
    np.testing.assert_array_equal(found, np.where(hidden, 255, ramp(1, dtype="uint8")[0]))


@pytest.mark.parametrize(("nodata", "expected"), [(None, None), (0, 0), (300, None)])
def test_nodata_is_a_number_that_pixels_can_have(tmp_path: Path, nodata: int | None, expected: int | None) -> None:
    path = write(tmp_path / "labels.tif", ramp(1, dtype="uint8"))
    assert RasterLabels(path, nodata=nodata).nodata == expected


def test_what_holds_no_labels_is_refused(tmp_path: Path) -> None:
    floats = write(tmp_path / "floats.tif", ramp(1, dtype="float32"))
    with pytest.raises(GridError, match=r"floats\.tif: holds float32"):
        _ = RasterLabels(floats).dtype
    with pytest.raises(SourceError, match="no band 2"):
        _ = RasterLabels(write(tmp_path / "labels.tif", ramp(1)), band=2).dtype
    with pytest.raises(GridError, match="float64"):
        ArrayLabels(np.zeros((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(GridError, match="3 axes"):
        ArrayLabels(np.zeros((1, 2, 2), np.uint8))


def test_a_file_has_the_regions_of_its_array(tmp_path: Path) -> None:
    pixels = (ramp(1) // 300 % 4).astype(np.uint8)
    path = write(tmp_path / "labels.tif", pixels, nodata=0)

    def found(labels: LabelReader) -> dict[int, bytes]:
        batches = trace_regions(labels, chunk=9)
        pairs = (pair for batch in batches for pair in zip(batch.first, batch.polygons, strict=True))
        return {int(first): region.wkb for first, region in pairs}

    assert found(RasterLabels(path)) == found(ArrayLabels(pixels[0], 0)) != {}
