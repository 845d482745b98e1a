"""Two dates that lie on different grids: refused with what differs, or read on the one that is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine

from geoseg.errors import GridError
from geoseg.events import Event, Warned
from geoseg.source.grids import target_grid
from geoseg.window import GeoBox
from tests.pairs import (
    FLOATING,
    GRID,
    SIGNED,
    UNSIGNED,
    Date,
    assert_loss,
    detect,
    landscape,
    moved,
    read,
    report_of,
    save_ndvi_loss,
    write_date,
)
from tests.source.test_shift import sampled


@pytest.fixture(scope="module")
def ndvi_loss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ndvi_loss(tmp_path_factory.mktemp("models") / "ndvi-loss")


def test_dates_that_do_not_touch_are_refused_with_both_bounds(ndvi_loss: Path, tmp_path: Path) -> None:
    far = moved(0, 500)
    dates = [write_date(tmp_path / f"{at}.tif", landscape(at, grid), grid=grid) for at, grid in enumerate((GRID, far))]
    for align in (None, "before", "after", str(dates[0].path)):
        with pytest.raises(GridError, match=r"4\.98e\+06|4998500") as refused:
            detect(dates, tmp_path / "out", model=ndvi_loss, align=align)
        assert all(side in str(refused.value) for side in ("500000", "501900", "505000", "506900")), refused.value
    assert not (tmp_path / "out").exists()


def test_differing_grids_are_listed_and_nothing_is_written(ndvi_loss: Path, tmp_path: Path) -> None:
    other = GeoBox((70, 90), Affine(20, 0, 500_005, 0, -20, 5e6), GRID.crs)
    dates = [
        write_date(tmp_path / f"{at}.tif", landscape(at, grid), grid=grid) for at, grid in enumerate((GRID, other))
    ]
    with pytest.raises(GridError, match=r"pixel size: 10 x 10 before, 20 x 20 after") as refused:
        detect(dates, tmp_path / "out", model=ndvi_loss)
    assert all(word in str(refused.value) for word in ("grid origin", "extent", "--align before", "--align GRID"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("align", ["before", "after", "grid"])
def test_whole_pixels_are_aligned_exactly(ndvi_loss: Path, tmp_path: Path, align: str) -> None:
    grids = [GRID, moved(20, -30), moved(-5, 10, (90, 100))]
    dates = [
        write_date(tmp_path / f"{at}.tif", landscape(at, grid), storage=storage, grid=grid)
        for at, (grid, storage) in enumerate(zip(grids, (UNSIGNED, SIGNED, FLOATING), strict=True))
    ]
    events: list[Event] = []
    target = str(dates[2].path) if align == "grid" else align
    result = detect(dates[:2], tmp_path / "out", model=ndvi_loss, align=target, on_event=events.append)
    grid = grids[("before", "after", "grid").index(align)]
    assert_loss(result, *(_seen_on(grid, of, date) for of, date in zip(grids, dates[:2], strict=False)))
    with rasterio.open(result.labels) as file:
        assert (file.transform, file.shape) == (grid.transform, tuple(grid.shape))
    assert (
        any(
            "different grids" in event.message and align[:4] in event.message
            for event in events
            if isinstance(event, Warned)
        )
        or align == "grid"
    )
    pair = report_of(result)["pair"]
    assert [line.partition(":")[0] for line in pair["differences"]] == ["extent"]


def _seen_on(grid: GeoBox, of: GeoBox, date: Date) -> Date:
    """A date on another grid of the same lattice."""
    col, row = (round(number) for number in ~of.transform @ (grid.transform.c, grid.transform.f))
    height, width = grid.shape
    rows, cols = np.arange(row, row + height)[:, None], np.arange(col, col + width)
    inside = (rows >= 0) & (rows < of.shape[0]) & (cols >= 0) & (cols < of.shape[1])
    place = rows.clip(0, of.shape[0] - 1), cols.clip(0, of.shape[1] - 1)
    return Date(path=date.path, reflectance=date.reflectance[:, *place], valid=inside & date.valid[place])


@pytest.mark.parametrize("align", ["before", "after"])
def test_ground_seen_from_two_zones_is_the_same_ground(ndvi_loss: Path, tmp_path: Path, align: str) -> None:
    """And what was felled between the dates is found where it is."""
    zone = target_grid(GRID, 10, "EPSG:32632")
    felled = {name: felled_on(grid) for name, grid in (("before", GRID), ("after", zone))}
    ground = landscape(3, zone)
    ground[3, felled["after"]] = ground[2, felled["after"]]  # as much near infrared as red
    dates = [write_date(tmp_path / "before.tif", landscape(3)), write_date(tmp_path / "after.tif", ground, grid=zone)]
    change = read(detect(dates, tmp_path / "out", model=ndvi_loss, align=align).labels)
    before = Date(path=tmp_path, reflectance=landscape(3, GRID if align == "before" else zone), valid=np.ones(1, bool))
    lost = felled[align] & (before.ndvi > 0.25)
    assert lost.sum() > 300
    usable = change != 255
    assert usable[usable.shape[0] // 4 : -usable.shape[0] // 4, usable.shape[1] // 4 : -usable.shape[1] // 4].all()
    assert (change[~felled[align] & usable] == 0).mean() > 0.99
    assert (change[lost & usable] == 1).mean() > 0.95


def felled_on(grid: GeoBox) -> npt.NDArray[np.bool_]:
    """Pixels of `grid` within a circle of 300 m."""
    from pyproj import Transformer

    rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    x, y = grid.transform @ (cols, rows)
    x, y = Transformer.from_crs(str(grid.crs), str(GRID.crs), always_xy=True).transform(x, y)
    return np.asarray(np.hypot(x - 500_950, y - 4_999_250) < 300)


def test_a_shift_is_told_and_removed_on_demand(tmp_path: Path) -> None:
    """The same rough ground, half a pixel off: change at edges that registration takes away."""
    grid = moved(0, 0, (300, 320))
    dates = []
    for at in (0, 1):
        image = 0.1 * sampled(0, 0, 0.5 * at)
        ground = np.stack([np.full(grid.shape, 0.1), np.full(grid.shape, 0.1), 0.3 + image[0], 0.5 + image[1]])
        dates.append(write_date(tmp_path / f"{at}.tif", ground.clip(0.02, 0.95), grid=grid))
    changed = {}
    for register in (False, True):
        events: list[Event] = []
        result = detect(
            dates, tmp_path / f"{register}", model="index-change", register=register, on_event=events.append
        )
        facts, changed[register] = report_of(result)["pair"], result.areas[1].pixels
        assert facts["shift"]["cols"] == pytest.approx(-0.5, abs=0.1)
        assert facts["shift"]["rows"] == pytest.approx(0, abs=0.1)
        assert facts["registered"] is register
        said = [event.message for event in events if isinstance(event, Warned) and "pixels off" in event.message]
        assert len(said) == 1
        assert said[0].endswith("removed" if register else "--register removes it")
    assert changed[False] > 500
    assert changed[True] < changed[False] / 20
