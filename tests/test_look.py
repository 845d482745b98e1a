"""The preview, looked at by counting its pixels."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from PIL import Image

from geoseg import look
from geoseg import picture as drawing
from geoseg.errors import SinkError, SourceError
from geoseg.look import write_preview
from geoseg.picture import DatePicture
from geoseg.sink.cog import CogSink
from geoseg.source import open as opening
from geoseg.spec import ClassInfo
from geoseg.window import GeoBox, whole

NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
WATER, PLANTS, BARE = "1F78B4", "33A02C", "B15928"
CLASSES = (
    ClassInfo(value=1, name="water", title="Water", color=WATER),
    ClassInfo(value=2, name="plants", title="Plants", color=PLANTS),
    ClassInfo(value=3, name="bare", title="Bare ground", color=BARE),
)


def write_labels(
    path: Path, labels: npt.NDArray[Any], transform: Affine = NORTH_UP, crs: str | None = "EPSG:32632"
) -> Path:
    geobox = GeoBox(labels.shape, transform, crs)
    nodata = 255 if labels.dtype == np.uint8 else 65535
    sink = CogSink(path, geobox=geobox, dtype=labels.dtype.name, nodata=nodata, workdir=path.parent)
    sink.write(whole(geobox), labels[None])
    return sink.close()[0]


def halves(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Water above, plants below."""
    labels = np.full((height, width), 2, np.uint8)
    labels[: height // 2] = 1
    return labels


def draw(folder: Path, labels: npt.NDArray[Any], **options: Any) -> npt.NDArray[np.uint8]:
    place = {key: options.pop(key) for key in ("transform", "crs") if key in options}
    classes = options.pop("classes", CLASSES)
    source = write_labels(folder / "labels.tif", labels, **place)
    nodata = 255 if labels.dtype == np.uint8 else 65535
    path = write_preview(folder / "preview.png", source, classes, nodata, **options)
    assert sorted(file.name for file in folder.iterdir()) == ["labels.tif", "preview.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def pixels_of(picture: npt.NDArray[np.uint8], color: str) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (picture == np.array(list(bytes.fromhex(color)))).all(axis=-1)
    return same


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 700), (900, 1), (3, 2), (700, 3), (40, 60), (799, 801), (1500, 900), (300, 4000), (4000, 300)]
)
def test_any_shape_becomes_a_small_picture(tmp_path: Path, shape: tuple[int, int]) -> None:
    picture = draw(tmp_path, np.full(shape, 2, np.uint8), title="A title")
    height, width = picture.shape[:2]
    assert max(height, width) <= drawing.LARGEST + 300
    drawn = pixels_of(picture, PLANTS)
    rows, cols = drawn.any(axis=1).sum(), drawn.any(axis=0).sum()
    assert min(rows, cols) >= drawing.THINNEST
    assert max(rows, cols) >= drawing.TINY - 50 if max(shape) < drawing.TINY else max(rows, cols) >= min(*shape, 400)
    for color in (WATER, PLANTS, BARE):  # the legend has them all
        assert pixels_of(picture, color).sum() >= (look.SWATCH - 2) ** 2


def test_the_map_shows_each_class_where_it_is(tmp_path: Path) -> None:
    picture = draw(tmp_path, halves(1600, 1600))
    inside = picture[look.MARGIN : look.MARGIN + 800, look.MARGIN : look.MARGIN + 800]
    assert pixels_of(inside[:400], WATER).all()
    assert pixels_of(inside[400:], PLANTS).all()


@pytest.mark.parametrize(
    ("transform", "upper"), [(NORTH_UP, WATER), (Affine(10, 0, 5e5, 0, 10, 5e6), PLANTS)], ids=["north-up", "south-up"]
)
def test_north_is_up(tmp_path: Path, transform: Affine, upper: str) -> None:
    picture = draw(tmp_path, halves(800, 800), transform=transform)
    assert pixels_of(picture[look.MARGIN : look.MARGIN + 390, look.MARGIN : look.MARGIN + 800], upper).all()


def test_west_is_left(tmp_path: Path) -> None:
    labels = np.ascontiguousarray(halves(800, 800).T)
    picture = draw(tmp_path, labels, transform=Affine(-10, 0, 5e5, 0, -10, 5e6))
    assert pixels_of(picture[look.MARGIN : look.MARGIN + 800, look.MARGIN : look.MARGIN + 390], PLANTS).all()


def test_nodata_is_a_checkerboard_and_unknown_values_are_grey(tmp_path: Path) -> None:
    labels = halves(800, 800)
    labels[:400], labels[400:500] = 255, 77
    inside = draw(tmp_path, labels)[look.MARGIN : look.MARGIN + 800, look.MARGIN : look.MARGIN + 800]
    light, dark = (pixels_of(inside[:400], bytes(color).hex()) for color in drawing.CHECKS)
    assert (light ^ dark).all()
    assert light.mean() == dark.mean() == 0.5
    assert pixels_of(inside[400:500], "808080").all()


def test_only_an_overview_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []

    class Spy:
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._dataset.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._dataset, name)

        def read(self, *args: Any, **options: Any) -> Any:
            pixels = self._dataset.read(*args, **options)
            read.append(pixels.shape)
            return pixels

    monkeypatch.setattr(drawing, "open_raster", lambda path: Spy(opening.open_raster(path)))
    draw(tmp_path, halves(5000, 3001))
    assert read == [(1250, 751)]


def test_an_overview_is_drawn_as_it_is(tmp_path: Path) -> None:
    """A checkerboard of two by two pixels vanishes in every overview but shows in none as a third class."""
    labels = np.where(np.add.outer(np.arange(1700) // 2, np.arange(1700) // 2) % 2, 1, 2).astype(np.uint8)
    inside = draw(tmp_path, labels)[look.MARGIN : look.MARGIN + 800, look.MARGIN : look.MARGIN + 800]
    assert not pixels_of(inside, BARE).any()
    assert not pixels_of(inside, "808080").any()


def test_shares() -> None:
    labels = np.array([[1, 1, 1, 255], [2, 255, 255, 255]], np.uint8)
    shares = look._shares(labels, 255)
    assert shares == {1: 0.75, 2: 0.25}
    entries = look._entries(CLASSES, shares, has_nodata=True)
    assert [(entry.text, entry.share) for entry in entries] == [
        ("Water", "75.0 %"),
        ("Plants", "25.0 %"),
        ("Bare ground", "0 %"),
        ("no data", ""),
    ]
    assert look._shares(np.full((2, 2), 255, np.uint8), 255) == {}


def test_given_shares_are_shown_instead_of_counted_ones(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    counted, given = draw(tmp_path / "a", halves(50, 50)), draw(tmp_path / "b", halves(50, 50), shares={1: 1.0})
    assert counted.tobytes() != given.tobytes()


def test_of_many_classes_the_largest_are_listed_in_the_order_of_the_card() -> None:
    classes = [ClassInfo(value=value, name=f"c{value}") for value in range(100)]
    shares = {value: (value + 1) / 5050 for value in range(100)}
    entries = look._entries(classes, shares, has_nodata=False)
    assert len(entries) == look.ROWS
    assert [entry.text for entry in entries[:-1]] == [f"c{value}" for value in range(77, 100)]
    assert entries[-1].text == "77 more"
    assert entries[-1].share == f"{sum(shares[value] for value in range(77)) * 100:.1f} %"


def test_sixteen_bit_labels_with_many_classes_and_long_names(tmp_path: Path) -> None:
    classes = [ClassInfo(value=value * 100, name=f"class {value} " + "of a long name " * 9) for value in range(40)]
    picture = draw(tmp_path, np.full((300, 200), 300, np.uint16), classes=classes, title="long title " * 40)
    assert max(picture.shape) < 1400


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32632", NORTH_UP, 10.0),
        ("EPSG:32632", Affine.translation(5e5, 5e6) * Affine.rotation(30) * Affine.scale(10, -10), 10.0),
        ("EPSG:4326", Affine(1e-4, 0, 11, 0, -1e-4, 60.005), 1e-4 * 111_320 * 0.5),
        (
            "EPSG:3857",
            Affine(10, 0, 0, 0, -10, 8_400_500),
            5.0,
        ),  # at 60 degrees north a Mercator map is twice too large
        ("EPSG:2263", Affine(10, 0, 1e6, 0, -10, 2e5), 3.048),
        (None, NORTH_UP, 0.0),
    ],
)
def test_the_scale_is_that_of_the_ground(crs: str | None, transform: Affine, metres: float) -> None:
    geobox = GeoBox((100, 100), transform, crs)
    assert drawing.metres_per_column(transform, geobox.crs, (100, 100)) == pytest.approx(metres, rel=5e-3)


def test_without_a_crs_there_is_no_bar(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with_bar = draw(tmp_path / "a", halves(900, 900))
    without = draw(tmp_path / "b", halves(900, 900), crs=None)
    assert with_bar.shape[0] == without.shape[0] + look.LINE + look.GAP


def test_letters_that_the_font_lacks() -> None:
    named = [
        ClassInfo(value=1, name="water", title="水面"),
        ClassInfo(value=2, name="meadow", title="Prairie fleurie é"),
    ]
    assert [look._class_text(info) for info in named] == ["water", "Prairie fleurie e"]
    font = look._font(15)
    missing = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(chr(letter))) != missing for letter in range(33, 127))


@pytest.mark.parametrize("width", [0, 10, 50, 1000])
def test_text_is_cut_to_its_room(width: int) -> None:
    font = look._font(15)
    text = look._fitted("a rather long class name", font, width)
    assert font.getlength(text) <= max(width, font.getlength("..."))
    assert text == "a rather long class name" or text.endswith("...")


def test_same_bytes_again(tmp_path: Path) -> None:
    source = write_labels(tmp_path / "labels.tif", halves(900, 900))
    digests = {
        hashlib.sha256(write_preview(tmp_path / name, source, CLASSES, 255, title="x").read_bytes()).hexdigest()
        for name in ("a.png", "b.png")
    }
    assert len(digests) == 1


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"missing\.tif"):
        write_preview(tmp_path / "preview.png", tmp_path / "missing.tif", CLASSES, 255)
    source = write_labels(tmp_path / "labels.tif", halves(20, 20))
    with pytest.raises(SinkError, match=r"preview\.png"):
        write_preview(tmp_path / "missing" / "preview.png", source, CLASSES, 255)


# --- before, after, change ---


def date_of(name: str, rgba: npt.NDArray[np.uint8], **facts: Any) -> DatePicture:
    return DatePicture(**{"name": name, "scene_id": name, "datetime": None, "bands": ("nir",), "rgba": rgba, **facts})


def dates_of(shape: tuple[int, int], **facts: Any) -> list[DatePicture]:
    """Before is red above and transparent below, after is blue."""
    before, after = np.zeros((*shape, 4), np.uint8), np.zeros((*shape, 4), np.uint8)
    before[: -(-shape[0] // 2)], after[:] = (255, 0, 0, 255), (0, 0, 255, 255)
    return [date_of("before", before, **facts), date_of("after", after, **facts)]


def draw_change(folder: Path, shape: tuple[int, int], **options: Any) -> npt.NDArray[np.uint8]:
    source = write_labels(folder / "change.tif", halves(*shape))
    dates = options.pop("dates", None) or dates_of(shape)
    path = look.write_change_preview(folder / "preview.png", source, CLASSES, 255, dates, **options)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def place_of(picture: npt.NDArray[np.uint8], color: str) -> tuple[int, int, int, int]:
    """First and last row, first and last column of the pixels of `color`."""
    rows, cols = np.nonzero(pixels_of(picture, color))
    return rows.min(), rows.max(), cols.min(), cols.max()


def test_before_after_and_change_stand_side_by_side(tmp_path: Path) -> None:
    picture = draw_change(tmp_path, (1040, 1040))
    top, side = look.MARGIN, look.PANEL
    panels = [picture[top : top + side, left : left + side] for left in range(top, 3 * side, side + look.GAP)]
    inner = [panel[1:-1, 1:-1] for panel in panels]  # without the frame
    assert pixels_of(inner[0][: side // 2 - 2], "FF0000").all()
    light, dark = (pixels_of(inner[0][side // 2 + 2 :], bytes(color).hex()) for color in drawing.CHECKS)
    assert (light ^ dark).all()
    assert pixels_of(inner[1], "0000FF").all()
    assert pixels_of(inner[2][: side // 2 - 2], WATER).all()
    assert pixels_of(inner[2][side // 2 + 2 :], PLANTS).all()


def test_wide_dates_stand_one_below_the_other(tmp_path: Path) -> None:
    picture = draw_change(tmp_path, (300, 900))
    before, after = place_of(picture, "FF0000"), place_of(picture, "0000FF")
    water = place_of(picture[after[1] + 1 :], WATER)
    assert before[1] < after[0] < after[1]
    assert before[2:] == after[2:] == water[2:]


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (900, 1), (3, 2), (60, 40), (799, 801), (300, 4000), (4000, 300)])
def test_dates_of_any_shape_become_a_small_picture(tmp_path: Path, shape: tuple[int, int]) -> None:
    picture = draw_change(tmp_path, shape, title="A title")
    assert max(picture.shape) <= 3 * look.PANEL + 500
    for color in ("FF0000", "0000FF", PLANTS):
        first_row, last_row, first_col, last_col = place_of(picture, color)
        assert min(last_row - first_row, last_col - first_col) >= drawing.THINNEST // 2 - 2


@pytest.mark.parametrize(
    "facts",
    [{"bands": ("red", "green", "blue")}, {"datetime": datetime(2024, 5, 1, tzinfo=UTC)}],
    ids=["bands", "time"],
)
def test_bands_and_times_stand_below_the_dates(tmp_path: Path, facts: dict[str, Any]) -> None:
    plain, told = (
        draw_change(tmp_path, (600, 600)),
        draw_change(tmp_path, (600, 600), dates=dates_of((600, 600), **facts)),
    )
    rows, cols = np.nonzero((plain != told).any(axis=-1))
    bottom, right = look.MARGIN + look.PANEL, look.MARGIN + 2 * look.PANEL + look.GAP
    assert bottom < rows.min() <= rows.max() < bottom + look.GAP + 2 * look.LINE
    assert cols.max() < right


def test_the_bar_is_as_long_on_the_change_as_on_a_map_of_that_size(tmp_path: Path) -> None:
    picture = draw_change(tmp_path, (1040, 1040))  # 20 metres per pixel of the picture
    length = look._bar(20.0, 3 * look.PANEL)
    assert length == (250, "5 km")
    dark = pixels_of(picture, bytes(look.INK).hex())[look.MARGIN + look.PANEL :, : look.MARGIN + 250 + look.GAP]
    assert dark.sum(axis=1).max() == pytest.approx(251, abs=1)


def test_of_many_kinds_of_change_those_that_occur_are_listed() -> None:
    classes = [ClassInfo(value=value, name=f"kind {value}") for value in range(20)]
    labels = np.array([[0, 0, 3, 7, 255]], np.uint8)
    entries = look._legend_of(labels, classes, 255, None, most=look.FEW)
    assert [entry.text for entry in entries] == ["kind 0", "kind 3", "kind 7", "no data"]
    assert len(look._legend_of(labels, classes, 255, None)) == 21
    nothing = np.full((1, 1), 255, np.uint8)
    assert look._legend_of(nothing, classes, 255, {}, most=look.FEW)[-1].text == "no data"
