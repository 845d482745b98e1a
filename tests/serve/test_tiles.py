"""Tiles over HTTP: pictures show the map's pixels where they lie, and GDAL reads vector tiles as the run's polygons."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geoseg.serve import row_groups
from geoseg.serve.features import polygons_of
from geoseg.serve.opened import Opened
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.tiles import vector_tile
from geoseg.serve.vector_tiles import BUFFER, EXTENT, LayerEncoder, TilePlace
from geoseg.window import GeoBox
from tests.runs import Made, make_run
from tests.serve.conftest import Connect

LARGE = GeoBox((500, 640), Affine(10, 0, 600_000, 0, -10, 5_400_000), "EPSG:32632")
TURNED = GeoBox((200, 180), Affine(8, 3, 600_000, 3, -8, 5_400_000), "EPSG:32632")
FIJI = GeoBox((60, 60), Affine(1000, 0, 800_000, 0, -1000, 8_080_000), "EPSG:32760")
"""Across the antimeridian."""
COLORS = {0: (0x20, 0x60, 0xA0), 1: (0x10, 0x80, 0x20), 2: (0xC0, 0x30, 0x30)}
RADIUS = 20_037_508.342789244


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Runs with classes in colours and a raster of confidence."""
    root = tmp_path_factory.mktemp("service")
    runs = {}
    for name, geobox in {"large": LARGE, "turned": TURNED, "fiji": FIJI}.items():
        runs[name] = make_run(root / "runs" / name, geobox=geobox)
        paint(runs[name].folder)
        shade(runs[name])
    return runs


def paint(folder: Path) -> None:
    """Gives the classes of a run colours."""
    item = json.loads((folder / "item.json").read_bytes())
    for entry in item["assets"]["labels"]["bands"][0]["classification:classes"]:
        entry["color_hint"] = "".join(f"{part:02X}" for part in COLORS[entry["value"]])
    (folder / "item.json").write_text(json.dumps(item))


def shade(made: Made) -> None:
    """Adds a raster of confidence: a ramp from west to east, stored as runs store it."""
    with rasterio.open(made.folder / "labels.tif") as labels:
        profile = labels.profile | {"dtype": "uint8", "nodata": 255}
    ramp = np.broadcast_to(np.linspace(0, 254, made.labels.shape[1]).astype(np.uint8), made.labels.shape)
    with rasterio.open(made.folder / "confidence.tif", "w", **profile) as raster:
        raster.write(ramp, 1)
        raster.scales, raster.offsets = (1 / 254,), (0.0,)
    report = json.loads((made.folder / "run.json").read_bytes())
    (made.folder / "run.json").write_text(json.dumps({"outputs": [*report["outputs"], "confidence.tif"]}))


@pytest.fixture
def api(connect: Connect, made: dict[str, Made]) -> Any:
    """A client of a service over these runs."""
    root = made["large"].folder.parent.parent
    return connect(ServiceSettings(root=root, rate=1e6, burst=10**6))


def tile_at(lon: float, lat: float, z: int) -> TilePlace:
    """The tile that holds a place, by the textbook's formula."""
    down = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2
    return TilePlace(z=z, x=int((lon + 180) / 360 * 2**z), y=int(down * 2**z))


def middle(made: Made, row: float = 0.5, col: float = 0.5) -> tuple[float, float]:
    """Longitude and latitude of a place of a map, as parts of its rows and columns."""
    height, width = made.labels.shape
    x, y = made.geobox.transform * (col * width, row * height)
    lon, lat = pyproj.Transformer.from_crs(str(made.geobox.crs), 4326, always_xy=True).transform(x, y)
    return lon, lat


def seen(made: Made, tile: TilePlace) -> npt.NDArray[Any]:
    """The labels (256, 256) under the middles of a tile's pixels, by PROJ alone; -1 beyond the map."""
    side = 2 * RADIUS / 2**tile.z
    steps = (np.arange(256) + 0.5) / 256
    x, y = np.meshgrid(-RADIUS + (tile.x + steps) * side, RADIUS - (tile.y + steps) * side)
    east, north = pyproj.Transformer.from_crs(3857, str(made.geobox.crs), always_xy=True).transform(x, y)
    cols, rows = ~made.geobox.transform * (east, north)
    height, width = made.labels.shape
    inside = (rows >= 0) & (cols >= 0) & (rows < height) & (cols < width)
    picked = made.labels[np.clip(rows, 0, height - 1).astype(int), np.clip(cols, 0, width - 1).astype(int)]
    return np.where(inside, picked.astype(int), -1)


def picture(answer: Any) -> npt.NDArray[np.uint8]:
    """A PNG as RGBA (256, 256, 4)."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


@pytest.mark.parametrize("run", ["large", "turned", "fiji"])
@pytest.mark.parametrize("deeper", [-1, 0, 2])
def test_labels_are_shown_where_they_lie_in_their_colours(
    api: Any, made: dict[str, Made], run: str, deeper: int
) -> None:
    told = api.get(f"/runs/{run}/tiles/labels/tilejson.json").json()
    tile = tile_at(*middle(made[run]), told["maxzoom"] + deeper)
    got = picture(api.get(f"/runs/{run}/tiles/labels/{tile.z}/{tile.x}/{tile.y}.png"))
    truth = seen(made[run], tile)
    wanted = np.zeros((256, 256, 4), np.uint8)
    for value, color in COLORS.items():
        wanted[truth == value] = (*color, 255)
    # GDAL's warper is off by an eighth of a pixel at most, so only what lies at an edge may differ.
    assert (got == wanted).all(axis=-1).mean() > (0.9 if deeper < 0 else 0.97)
    assert {tuple(pixel) for pixel in got.reshape(-1, 4)} <= {(*color, 255) for color in COLORS.values()} | {(0,) * 4}


def test_both_sides_of_the_antimeridian_are_shown(api: Any) -> None:
    sides = [picture(api.get(f"/runs/fiji/tiles/labels/6/{x}/{tile_at(180 - 1e-9, -17.5, 6).y}.png")) for x in (0, 63)]
    assert all(side[..., 3].any() for side in sides)
    assert sides[0][:, 0, 3].any()  # each up to the line itself
    assert sides[1][:, -1, 3].any()


def test_confidence_is_shown_in_shades(api: Any, made: dict[str, Made]) -> None:
    tile = tile_at(*middle(made["large"]), 13)
    got = picture(api.get(f"/runs/large/tiles/confidence/{tile.z}/{tile.x}/{tile.y}.png"))
    shown = got[..., 3] == 255
    shades = got[128, shown[128], 0].astype(int)
    assert (got[..., :1] == got[..., :3]).all()
    assert (np.diff(shades) >= 0).all()
    assert shades.max() - shades.min() > 100


def test_tilejson_leads_to_tiles(api: Any, made: dict[str, Made]) -> None:
    lon, lat = middle(made["large"])
    for layer in ("labels", "confidence", "polygons"):
        told = api.get(f"/runs/large/tiles/{layer}/tilejson.json").json()
        west, south, east, north = told["bounds"]
        assert west < lon < east
        assert south < lat < north
        assert 0 <= told["minzoom"] <= told["maxzoom"] <= 30
        for z in range(told["minzoom"], told["maxzoom"] + 1):
            tile = tile_at(lon, lat, z)
            url = told["tiles"][0].format(z=z, x=tile.x, y=tile.y)
            assert api.get(url).status_code == 200
    assert told["vector_layers"][0]["id"] == "polygons"
    assert set(told["vector_layers"][0]["fields"]) == {"class_id", "class_name", "area_m2", "confidence_mean"}


def test_a_tile_is_fetched_once(api: Any, made: dict[str, Made]) -> None:
    tile = tile_at(*middle(made["large"]), 13)
    for name in ("labels/{}/{}/{}.png", "polygons/{}/{}/{}.mvt"):
        url = f"/runs/large/tiles/{name.format(tile.z, tile.x, tile.y)}"
        first = api.get(url)
        assert "max-age" in first.headers["cache-control"]
        again = api.get(url, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert api.get(url, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("labels/3/7/7.png", 204),
        ("polygons/12/0/0.mvt", 204),
        ("polygons/3/4/2.mvt", 404),
        ("labels/3/8/0.png", 404),
        ("polygons/0/0/1.mvt", 404),
        ("change/3/0/0.png", 404),
        ("../../labels/3/0/0.png", 404),
        ("polygons/3/0/0.png", 404),
        ("labels/-1/0/0.png", 400),
        ("labels/31/0/0.png", 400),
        ("labels/3/x/0.png", 400),
        ("change/tilejson.json", 404),
        ("probabilities/tilejson.json", 404),
    ],
)
def test_what_lies_nowhere_is_no_tile(api: Any, path: str, status: int) -> None:
    answer = api.get(f"/runs/large/tiles/{path}")
    assert answer.status_code == status, answer.text
    if status > 300:
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_run_made_anew_has_new_tiles(connect: Connect, tmp_path: Path) -> None:
    tile = tile_at(10.363, 48.7435, 13)
    url = f"/runs/one/tiles/labels/{tile.z}/{tile.x}/{tile.y}.png"
    folder = tmp_path / "runs" / "one"
    make_run(folder)
    api = connect(ServiceSettings(root=tmp_path))
    before = api.get(url)
    with rasterio.open(folder / "labels.tif", "r+") as raster:
        raster.write(255 - np.zeros(raster.shape, np.uint8), 1)
    after = api.get(url, headers={"If-None-Match": before.headers["etag"]})
    assert (before.status_code, after.status_code) == (200, 204)


def decoded(tile: bytes, place: TilePlace, folder: Path) -> Any:
    """What GDAL makes of a vector tile: a frame in Mercator's metres."""
    path = folder / f"{place.z}-{place.x}-{place.y}.mvt"
    path.write_bytes(tile)
    return pyogrio.read_dataframe(
        f"MVT:{path}", layer="polygons", X=str(place.x), Y=str(place.y), Z=str(place.z), CLIP="NO"
    )


def test_gdal_reads_a_tile_as_the_polygons_of_the_run(api: Any, made: dict[str, Made], tmp_path: Path) -> None:
    run = made["large"]
    told = api.get("/runs/large/tiles/polygons/tilejson.json").json()
    place = tile_at(*middle(run), told["maxzoom"])
    answer = api.get(f"/runs/large/tiles/polygons/{place.z}/{place.x}/{place.y}.mvt")
    assert answer.headers["content-type"] == "application/vnd.mapbox-vector-tile"
    read = decoded(answer.content, place, tmp_path).set_index("mvt_id")
    truth = run.frame.assign(id=np.arange(1, len(run.frame) + 1)).set_index("id").to_crs(3857)
    side = 2 * RADIUS / 2**place.z
    margin = side * BUFFER / EXTENT
    x, y = -RADIUS + place.x * side, RADIUS - (place.y + 1) * side
    reach = shapely.box(x - margin, y - margin, x + side + margin, y + side + margin)
    cut = truth.assign(geometry=truth.geometry.intersection(reach))
    cut = cut[cut.area > 4 * (side / EXTENT) ** 2]
    assert set(cut.index) <= set(read.index) <= set(truth.index[truth.intersects(reach)])
    assert len(cut) > 100
    for polygon, row in cut.iterrows():
        found = read.loc[polygon]
        assert (found.class_id, found.class_name, found.area_m2) == (row.class_id, row.class_name, row.area_m2)
        apart = shapely.symmetric_difference(found.geometry, row.geometry).area
        assert apart < side / EXTENT * row.geometry.length
    assert read.geometry.is_valid.all()


def test_neighbours_on_a_tile_leave_no_gap(api: Any, made: dict[str, Made], tmp_path: Path) -> None:
    place = tile_at(*middle(made["large"]), 11)
    read = decoded(vector_tile(polygons_of(found(api, "large")), place, exact=False), place, tmp_path)
    whole = shapely.union_all(read.geometry.array)
    assert whole.area == pytest.approx(read.area.sum(), rel=1e-6)  # none overlaps another


def found(api: Any, run: str) -> Any:
    """A run of the service."""
    return api.app.state.service.runs.find(run)


def test_lower_zooms_show_what_can_be_seen(api: Any, made: dict[str, Made], tmp_path: Path) -> None:
    file = polygons_of(found(api, "large"))
    sizes = []
    for z in (13, 11, 9):
        place = tile_at(*middle(made["large"]), z)
        read = decoded(vector_tile(file, place, exact=False), place, tmp_path)
        assert read.area_m2.min() >= (2 * place.metres()) ** 2
        sizes.append(len(vector_tile(file, place, exact=False)))
    assert max(sizes) < 500_000


def test_a_crowded_tile_shows_the_largest(
    api: Any, made: dict[str, Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("geoseg.serve.tiles.MOST", 50)
    place = tile_at(*middle(made["large"]), 10)
    read = decoded(vector_tile(polygons_of(found(api, "large")), place, exact=True), place, tmp_path)
    largest = made["large"].frame.area_m2.sort_values(ascending=False)
    assert read.area_m2.min() >= largest.iloc[min(len(largest) - 1, 60)]
    assert 40 <= len(read) <= 60


@pytest.mark.parametrize("exact", [True, False])
def test_polygons_in_pieces_look_the_same(
    api: Any, made: dict[str, Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exact: bool
) -> None:
    place, file = tile_at(*middle(made["large"]), 12), polygons_of(found(api, "large"))
    whole = decoded(vector_tile(file, place, exact=exact), place, tmp_path).set_index("mvt_id")
    monkeypatch.setattr(row_groups, "_LARGE", 200)
    monkeypatch.setattr(row_groups, "_PIECE", 8)
    monkeypatch.setattr(row_groups, "_KEPT", Opened(most=1))
    cut = decoded(vector_tile(file, place, exact=exact), place, tmp_path).set_index("mvt_id")
    assert set(cut.index) == set(whole.index)
    assert cut.geometry.is_valid.all()
    apart = shapely.symmetric_difference(cut.geometry.loc[whole.index].array, whole.geometry.array)
    assert shapely.area(apart).sum() <= 1e-3 * whole.area.sum()


def test_row_groups_are_kept_within_a_bound(api: Any, made: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Opened[Any](most=1, weigh=lambda group: group.size)
    monkeypatch.setattr(row_groups, "_KEPT", kept)
    lon, lat = middle(made["large"])
    for step in range(4):
        vector_tile(polygons_of(found(api, "large")), tile_at(lon + step * 5e-3, lat, 14), exact=True)
        assert len(kept) == 1  # what is in use, though it weighs more


@st.composite
def squares(draw: st.DrawFn) -> list[Any]:
    """Polygons on whole numbers: squares, some with a hole, some two at once."""
    shapes = []
    for _ in range(draw(st.integers(1, 6))):
        x, y = (draw(st.integers(-BUFFER, EXTENT - 500)) for _ in range(2))
        size = draw(st.integers(3, 300))
        shape = shapely.box(x, y, x + size, y + size)
        if draw(st.booleans()):
            shape -= shapely.box(x + 1, y + 1, x + size - 1, y + size - 1)
        if draw(st.booleans()):
            shape = shapely.MultiPolygon([shape, shapely.box(x + 400, y, x + 401, y + 7)])
        shapes.append(shape if draw(st.booleans()) else shapely.reverse(shape))
    return shapes


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@given(shapes=squares(), data=st.data())
def test_what_is_encoded_is_what_gdal_decodes(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[Any], data: st.DataObject
) -> None:
    count = len(shapes)
    ids = np.array(data.draw(st.lists(st.integers(0, 2**53), min_size=count, max_size=count)))
    words = data.draw(st.lists(st.none() | WORDS, min_size=count, max_size=count))
    whole = data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=count, max_size=count))
    parts = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=count, max_size=count))
    layer = LayerEncoder(name="polygons")
    for half in (slice(0, count // 2), slice(count // 2, count)):
        told: dict[str, list[Any]] = {"word": words[half], "whole": whole[half], "part": parts[half]}
        layer.add(ids[half], told, np.array(shapes, dtype=object)[half])
    place = TilePlace(z=0, x=0, y=0)
    read = decoded(layer.tile(), place, tmp_path_factory.mktemp("tile"))
    units = shapely.transform(
        read.geometry.array, lambda at: (at * [1, -1] + RADIUS) * EXTENT / (2 * RADIUS)
    )  # from metres
    assert read.mvt_id.tolist() == ids.tolist()
    assert read.whole.tolist() == whole
    assert read.part.tolist() == parts
    if any(word is not None for word in words):
        assert [word if isinstance(word, str) else None for word in read.word] == words
    for shape, other in zip(shapes, units, strict=True):
        assert shapely.symmetric_difference(shape, shapely.set_precision(other, 1)).area == 0


def test_no_feature_is_no_tile() -> None:
    layer = LayerEncoder(name="polygons")
    layer.add(np.array([], np.int64), {}, np.array([], object))
    assert layer.tile() == b""


@given(z=st.integers(0, 22), data=st.data())
def test_a_tile_lies_where_mercator_says(z: int, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, 2**z - 1)) for _ in range(2))
    tile = TilePlace(z=z, x=x, y=y)
    assert tile.exists
    west, south, east, north = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform_bounds(
        *tile.area().bounds
    )
    side = 2 * RADIUS / 2**z
    wanted = [-RADIUS + x * side, RADIUS - (y + 1) * side, -RADIUS + (x + 1) * side, RADIUS - y * side]
    assert np.allclose([west, south, east, north], wanted, atol=side * 1e-3)
