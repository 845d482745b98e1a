"""Items by place, time and what is known of them; what comes out can be mapped."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.catalog.collection import add_runs
from geoseg.catalog.query import box_shape
from geoseg.catalog.search import interval_of, search_catalog
from geoseg.errors import ConfigError, SourceError
from geoseg.models import package_path
from geoseg.source.items import list_items
from geoseg.window import GeoBox
from tests.buckets import Bucket
from tests.runs import ZONE_32, make_run

DAYS = {"a": datetime(2024, 5, 3, tzinfo=UTC), "b": datetime(2024, 6, 30, 23, 59, 30, tzinfo=UTC), "c": None}


EARLY, LATE = datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2100-01-01")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs side by side from west to east, the last without a time, and a model."""
    folder = tmp_path_factory.mktemp("search")
    for number, (name, when) in enumerate(DAYS.items()):
        place = GeoBox((20, 30), ZONE_32.transform.translation(20_000 * number, 0) @ ZONE_32.transform, ZONE_32.crs)
        make_run(folder / name, geobox=place, when=when, seed=number, vector=())
    item = json.loads((folder / "b" / "item.json").read_text())
    item["properties"] |= {"start_datetime": "2024-06-01T00:00:00Z", "end_datetime": "2024-06-30T23:59:30Z"}
    (folder / "b" / "item.json").write_text(json.dumps(item))
    add_runs(folder / "catalog", [*(folder / name for name in DAYS), package_path("spectral-baseline")])
    return folder / "catalog"


def names(catalog: Path, **asked: Any) -> list[str]:
    return [item["id"].removesuffix("-cover") for item in search_catalog(catalog, **asked)]


def test_without_conditions_all_are_found_the_newest_first(catalog: Path) -> None:
    assert names(catalog) == ["c", "b", "a"]  # c bears the time of its run
    assert names(catalog, limit=2) == ["c", "b"]


def test_by_place(catalog: Path) -> None:
    bounds = {item["id"][0]: item["bbox"] for item in search_catalog(catalog)}
    assert names(catalog, area=shapely.box(*bounds["b"])) == ["b"]
    west, south, _, north = bounds["a"]
    assert names(catalog, area=box_shape(west, south - 0.01, bounds["b"][0] + 1e-3, north + 0.01)) == ["b", "a"]
    assert names(catalog, area=box_shape(170, -90, -170, 90)) == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("2024", "ba"),
        ("2024-05", "a"),
        ("2024-05-03", "a"),
        ("2024-05-03T00:00:00Z", "a"),
        ("2024-05-04/2024-05-31", ""),
        ("2024-06-15", "b"),
        ("2024-05/2024-06", "ba"),
        ("../2024-05", "a"),
        ("2024-06-30/..", "cb"),
        ("2024-07/", "c"),
    ],
)
def test_by_time(catalog: Path, times: str, expected: str) -> None:
    assert names(catalog, times=times) == list(expected)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("scene = 'a'", "a"),
        ("\"geoseg:datetime_source\" = 'run'", "c"),
        ("model = 'cover' AND \"proj:code\" = 'EPSG:32632' AND scene <> 'b'", "ca"),
        ("scene = 'a' OR scene = 'b' -- whatever", "ba"),
        ("'water' IN (SELECT unnest(assets.labels.bands[1].\"classification:classes\").name)", "cba"),
    ],
)
def test_by_whatever_is_known(catalog: Path, where: str, expected: str) -> None:
    assert names(catalog, where=where) == list(expected)


@pytest.mark.parametrize("where", ["scene ==", "nothing = 1", "1); COPY items TO 'x' --", "true) UNION SELECT 'x' --"])
def test_a_wrong_condition_is_told(catalog: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="query"):
        search_catalog(catalog, where=where)
    assert not list(tmp_path.iterdir())


def test_by_collection(catalog: Path) -> None:
    assert names(catalog, collections=["changes"]) == []
    assert names(catalog, collections=["changes", "maps"]) == ["c", "b", "a"]


def test_what_is_found_stands_on_its_own(catalog: Path, tmp_path: Path) -> None:
    found = search_catalog(catalog, where="scene = 'a'")
    saved = tmp_path / "elsewhere" / "found.json"
    saved.parent.mkdir()
    saved.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    (item,) = pystac.ItemCollection.from_file(str(saved)).items
    assert Path(item.assets["labels"].href) == catalog.parent / "a" / "labels.tif"
    (listed,) = list_items(str(saved))
    assert listed.document is not None
    assert listed.document["assets"]["labels"]["href"] == str(catalog.parent / "a" / "labels.tif")


def test_in_a_bucket(tmp_path: Path, bucket: Bucket) -> None:
    run = make_run(tmp_path / "may", vector=()).folder
    for path in run.iterdir():
        bucket.put(f"maps/may/{path.name}", path.read_bytes())
    add_runs(f"s3://{bucket.name}/catalog", [f"s3://{bucket.name}/maps/may"])
    (item,) = search_catalog(f"s3://{bucket.name}/catalog")
    assert item["assets"]["labels"]["href"] == f"s3://{bucket.name}/maps/may/labels.tif"


def test_a_catalog_that_lost_an_item_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "may", vector=())
    (place,) = add_runs(tmp_path / "catalog", [tmp_path / "may"])
    Path(place).unlink()
    with pytest.raises(SourceError, match=r"may-cover\.json: cannot be read"):
        search_catalog(tmp_path / "catalog")


@given(
    first=st.datetimes(EARLY, LATE, timezones=st.just(UTC)),
    span=st.timedeltas(timedelta(0), timedelta(days=9999)),
)
def test_two_moments_are_what_they_say(first: datetime, span: timedelta) -> None:
    assert interval_of(f"{first.isoformat()}/{(first + span).isoformat()}") == (first, first + span)


@given(day=st.dates(EARLY.date(), LATE.date()))
def test_a_day_a_month_and_a_year_are_whole(day: Any) -> None:
    for form in ("%Y-%m-%d", "%Y-%m", "%Y"):
        since, until = interval_of(day.strftime(form))
        assert since is not None
        assert until is not None
        after = until + timedelta(microseconds=1)
        assert since.strftime(form) == until.strftime(form) == day.strftime(form)
        assert after.strftime(form) != day.strftime(form)
        assert (since - timedelta(microseconds=1)).strftime(form) != day.strftime(form)


@pytest.mark.parametrize("text", ["", "..", "yesterday", "2024-13", "2024-02-30", "2024-05/2024-04", "24-05", "2024-5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--datetime"):
        interval_of(text)
