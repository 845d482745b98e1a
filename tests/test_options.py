"""`SegmentOptions`: values from numpy, rasterio and pyproj mean the same as plain ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio.crs
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS

from geoseg.errors import ConfigError
from geoseg.options import SegmentOptions

WHOLE = ("tile", "overlap", "chunk", "workers", "batch_size")
NUMBERS = ("scale", "offset", "nodata", "resolution", "worker_timeout", "min_area", "simplify")


def options(names: tuple[str, ...], value: Any) -> SegmentOptions:
    each: dict[str, Any] = dict.fromkeys(names, value)
    return SegmentOptions(**each)


@given(value=st.integers(4, 127), kind=st.sampled_from([np.int8, np.uint16, np.int64, np.uint64]))
def test_whole_numbers_of_numpy_are_plain_ones(value: int, kind: Any) -> None:
    plain = options((*WHOLE, "max_vertices"), value)
    given = options((*WHOLE, "max_vertices"), kind(value))
    assert given == plain
    assert json.dumps(asdict(given)) == json.dumps(asdict(plain))


@given(value=st.floats(0, 1e4, width=32), kind=st.sampled_from([np.float32, np.float64, float]))
def test_numbers_of_numpy_are_plain_ones(value: float, kind: Any) -> None:
    given = options(NUMBERS, kind(value))
    assert given == options(NUMBERS, value)
    assert {type(getattr(given, name)) for name in NUMBERS} == {float}
    assert json.dumps(asdict(given))


@pytest.mark.parametrize(
    "crs", ["EPSG:32633", rasterio.crs.CRS.from_epsg(32633), pyproj.CRS(32633), CRS("EPSG:32633")], ids=type
)
def test_a_crs_may_be_an_object(crs: Any) -> None:
    named = SegmentOptions(crs=crs, assume_crs=crs)
    assert (named.crs, named.assume_crs) == ("EPSG:32633", "EPSG:32633")


def test_a_whole_nodata_stays_exact() -> None:
    assert SegmentOptions(nodata=2**63 - 1).nodata == 2**63 - 1
    assert SegmentOptions(nodata=np.uint64(2**64 - 1)).nodata == 2**64 - 1  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", ["64", 64.5, (64, 64), np.float32(64)])
def test_what_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name} .*64.* is no whole number"):
        options((name,), value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["much", (20, 20), None])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    if value is None and name in {"scale", "offset", "nodata", "resolution"}:
        assert getattr(options((name,), value), name) is None
        return
    with pytest.raises(ConfigError, match=rf"{name} .* is no number"):
        options((name,), value)
