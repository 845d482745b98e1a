"""Splits keep their distance on the ground, their parts and their classes, and are the same for the same seed."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, reject
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer

from geoseg.errors import ConfigError, GridError
from geoseg.testing.fakes import geobox_of
from geoseg.train.ground import Geometries, Ground, common_ground
from geoseg.train.split import (
    SPLITS,
    assign,
    block_names,
    check_apart,
    closest,
    parse_rule,
    too_close,
)
from geoseg.window import GeoBox, Window, whole

UTM = Ground(crs=CRS("EPSG:32632"), stretch=1.0)
FRACTIONS = {"train": 0.6, "val": 0.25, "test": 0.15}


def squares(places: list[tuple[float, float]], side: float = 100) -> Geometries:
    return np.array([shapely.box(x, y, x + side, y + side) for x, y in places], object)


# --- assigning ---

counts = st.integers(1, 4).flatmap(
    lambda classes: st.lists(
        st.lists(st.sampled_from([0, 0, 1, 7, 40, 1000]), min_size=classes, max_size=classes).filter(any),
        min_size=12,
        max_size=40,
    )
)


@given(pixels=counts, seed=st.integers(0, 99))
def test_parts_are_kept_as_far_as_groups_allow_and_train_sees_every_class(pixels: list[list[int]], seed: int) -> None:
    table = np.array(pixels)
    try:
        splits = assign(table, FRACTIONS, seed)
    except ConfigError:  # a few groups hold nearly all
        reject()
    np.testing.assert_array_equal(splits, assign(table, FRACTIONS, seed))
    largest, total = table.sum(1).max(), table.sum()
    got = [table[splits == number].sum() for number in range(3)]
    assert got[1] < FRACTIONS["val"] * total + largest
    assert got[2] < FRACTIONS["test"] * total + largest
    assert got[0] < FRACTIONS["train"] * total + largest * table.shape[1]
    assert ((table[splits == 0].sum(0) > 0) == (table.sum(0) > 0)).all()


def test_with_many_equal_blocks_every_split_has_its_part_of_every_class() -> None:
    table = np.random.default_rng(0).integers(0, 50, (400, 3)) * np.array([[1, 10, 100]])
    splits = assign(table, FRACTIONS, 3)
    for number, name in enumerate(SPLITS):
        shares = table[splits == number].sum(0) / table.sum(0)
        np.testing.assert_allclose(shares, FRACTIONS[name], atol=0.03)


def test_another_seed_is_another_split() -> None:
    table = np.full((60, 1), 10)
    assert (assign(table, FRACTIONS, 0) != assign(table, FRACTIONS, 1)).any()


def test_two_splits_need_no_third() -> None:
    splits = assign(np.full((10, 1), 10), {"train": 8, "val": 2}, 0)
    assert np.bincount(splits).tolist() == [8, 2]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.0, "val": 1.0}, "train's above 0"),
        ({"train": 1.0, "val": -0.1}, "val -0.1"),
        ({"train": 1.0, "dev": 0.1}, "dev 0.1"),
        ({"train": float("nan")}, "train nan"),
    ],
)
def test_fractions_that_make_no_sense_are_refused(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign(np.ones((5, 1), np.int64), fractions, 0)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 groups of labelled chips leave nothing for test: choose smaller blocks"):
        assign(np.array([[5], [5]]), FRACTIONS, 0)


# --- keeping apart ---


@given(
    places=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=40),
    seed=st.integers(0, 99),
    buffer=st.sampled_from([0.0, 1.0, 100.0, 250.0]),
)
def test_no_two_chips_of_different_splits_are_within_the_buffer(
    places: list[tuple[int, int]], seed: int, buffer: float
) -> None:
    footprints = squares([(100.0 * x, 100.0 * y) for x, y in places])
    splits = np.random.default_rng(seed).integers(0, 3, len(places))
    worth = np.random.default_rng(seed).random(len(places)) + 0.1
    dropped = too_close(footprints, splits, worth, buffer, UTM)
    np.testing.assert_array_equal(dropped, too_close(footprints, splits, worth, buffer, UTM))
    kept = np.flatnonzero(~dropped)
    for one, other in combinations(kept, 2):
        if splits[one] != splits[other]:
            assert footprints[one].distance(footprints[other]) > buffer
    for chip in np.flatnonzero(dropped):  # none goes that does not have to
        other_splits = footprints[splits != splits[chip]]
        assert any(footprints[chip].distance(other) <= buffer + 0.011 for other in other_splits)
    assert all(metres > buffer for metres in closest(footprints[kept], splits[kept]).values())


def test_a_small_split_is_not_eaten_up_by_a_large_one() -> None:
    """A column of val beside columns of train: one chip of either would do for each pair."""
    footprints = squares([(100.0 * x, 100.0 * y) for x in range(6) for y in range(5)])
    splits = np.array([0] * 5 + [1] * 5 + [0] * 20)
    worth = np.where(splits == 1, 1 / 5, 1 / 25)
    dropped = too_close(footprints, splits, worth, 0, UTM)
    assert np.flatnonzero(dropped).tolist() == [*range(5), *range(10, 15)]


def test_the_chip_in_the_way_of_most_goes_first() -> None:
    around = [(x, y) for x, y in product((0.0, 110.0, 220.0), repeat=2) if (x, y) != (110.0, 110.0)]
    footprints = squares([*around, (110.0, 110.0)])
    splits = np.array([0] * 8 + [1])
    assert np.flatnonzero(too_close(footprints, splits, np.ones(9), 50, UTM)).tolist() == [8]


def test_the_distance_between_splits_is_the_least_of_all_pairs() -> None:
    random = np.random.default_rng(1)
    footprints = squares([(float(x), float(y)) for x, y in random.integers(0, 20_000, (60, 2))])
    splits = random.integers(0, 3, 60)
    for (one, other), metres in closest(footprints, splits).items():
        mine, others = (footprints[splits == SPLITS.index(name)] for name in (one, other))
        assert metres == min(a.distance(b) for a in mine for b in others)


@pytest.mark.parametrize(("gap", "words"), [(-20.0, "overlap"), (0.0, "touch"), (30.0, "lie 30.0 m apart")])
def test_a_split_by_hand_that_is_too_close_is_refused_by_name(gap: float, words: str) -> None:
    polygons = squares([(0, 0), (5000, 0), (5100 + gap, 0)])
    with pytest.raises(ConfigError) as caught:
        check_apart(polygons, np.array([0, 0, 2]), ["field 1", "field 2", "field 3"], 50, UTM)
    assert f"field 2 (train) and field 3 (test) {words}, where 50 m must lie between splits" in str(caught.value)


def test_a_split_by_hand_that_keeps_the_buffer_is_taken() -> None:
    polygons = squares([(0, 0), (150, 0), (150, 100)])
    check_apart(polygons, np.array([0, 1, 1]), ["a", "b", "c"], 50, UTM)
    check_apart(polygons, np.array([0, 1, 1]), ["a", "b", "c"], 0, UTM)


# --- the ground ---

GRIDS = {
    "utm": [geobox_of(400, 500)],
    "degrees": [GeoBox((300, 300), Affine(1e-3, 0, 12, 0, -1e-3, 61), "EPSG:4326")],
    "web mercator": [GeoBox((300, 300), Affine(30, 0, 1_000_000, 0, -30, 9_000_000), "EPSG:3857")],
    "two zones": [geobox_of(300, 300), GeoBox((300, 300), Affine(10, 0, 300_000, 0, -10, 5_400_000), "EPSG:32633")],
    "antimeridian": [GeoBox((200, 400), Affine(0.01, 0, 178, 0, -0.01, -10), "EPSG:4326")],
    "feet": [GeoBox((200, 200), Affine(30, 0, 6_000_000, 0, -30, 2_000_000), "EPSG:2229")],
}


@pytest.mark.parametrize("name", GRIDS)
def test_metres_of_the_plane_are_no_longer_than_it_says(name: str) -> None:
    """The geodesic between the nearest points of two windows is at least their distance / stretch."""
    ground = common_ground(GRIDS[name])
    assert ground.crs.is_projected
    assert 0.99 < ground.stretch < 1.01
    back = Transformer.from_crs(ground.crs, "OGC:CRS84", always_xy=True)
    random = np.random.default_rng(0)
    for grid in GRIDS[name]:
        corners = random.integers(0, 150, (12, 2)).tolist()
        windows = [Window(row_off=row, col_off=col, height=20, width=20) for row, col in corners]
        for one, other in combinations(ground.footprints(windows, grid), 2):
            line = shapely.get_coordinates(shapely.shortest_line(one, other))
            lon, lat = back.transform(*line.T)
            metres = Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])[2]
            assert metres * ground.stretch >= one.distance(other) - 1e-3
            assert metres == pytest.approx(one.distance(other), rel=0.02, abs=1e-3)


def test_scenes_in_utm_are_measured_in_their_own_metres_and_others_are_not() -> None:
    assert common_ground(GRIDS["utm"]).crs == CRS("EPSG:32632")
    for name in GRIDS.keys() - {"utm"}:
        assert (
            common_ground(GRIDS[name])
            .crs.to_json_dict()["conversion"]["method"]["name"]
            .startswith("Lambert Azimuthal")
        )


def test_a_footprint_is_where_the_window_is() -> None:
    grid = geobox_of(40, 50)
    (footprint,) = UTM.footprints([Window(row_off=10, col_off=5, height=20, width=30)], grid)
    assert footprint.bounds == (600_050, 5_399_700, 600_350, 5_399_900)
    (other,) = common_ground(GRIDS["degrees"]).footprints([whole(GRIDS["degrees"][0])], GRIDS["degrees"][0])
    assert other.area == pytest.approx(
        abs(Geod(ellps="WGS84").polygon_area_perimeter([12, 12.3, 12.3, 12], [61, 61, 60.7, 60.7])[0]), rel=1e-3
    )


def test_a_scene_beyond_the_earth_is_refused() -> None:
    with pytest.raises(GridError, match="beyond the Earth"):
        common_ground([GeoBox((10, 10), Affine(1e7, 0, 0, 0, -1e7, 0), "EPSG:32632")])


def test_chips_belong_to_the_block_of_their_middle() -> None:
    footprints = squares([(0, 0), (940, 0), (960, 0), (-60, -60)])
    assert block_names(footprints, 1000) == ["0_0", "0_0", "1_0", "-1_-1"]


# --- rules ---


def test_rules_are_read() -> None:
    assert parse_rule("blocks").metres is None
    assert parse_rule("file").kind == "file"
    assert parse_rule("areas:a:b.geojson").place == "a:b.geojson"


@pytest.mark.parametrize("text", ["random", "blocks:0", "blocks:far", "blocks:nan", "column:", "areas", "file:x", ""])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"split {text!r}"):
        parse_rule(text)
