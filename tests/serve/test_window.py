"""Windows that are mapped at once: the very pixels of a whole run, in every format, for many who ask together."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.io import MemoryFile
from rio_cogeo.cogeo import cog_validate
from starlette.testclient import TestClient
from torch import Tensor, nn

import geoseg
from geoseg.errors import ModelError
from geoseg.models import load_model, read_spec, save_package
from geoseg.serve.app import create_app
from geoseg.serve.nets import Net, Nets, net_of
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.window import _chosen
from geoseg.settings import Settings
from geoseg.spec import ModelSpec
from geoseg.tracing.polygons import polygonize
from tests.conftest import CHECKOUT
from tests.serve.conftest import SIDE, Connect, until

TILE, OVERLAP = 64, 16


class Contrast(nn.Module):
    """Two classes: brighter or darker than what lies up to four pixels around; every label depends on its place."""

    def __init__(self) -> None:
        super().__init__()
        self.around = nn.AvgPool2d(9, 1, 4)

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, class, row, col)."""
        brighter = 100 * (batch - self.around(batch)).sum(1, keepdim=True)
        return torch.cat([-brighter, brighter], 1)


GEOJSON = "application/geo+json"


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What a run made of the whole scene."""

    labels: npt.NDArray[np.uint8]
    transform: rasterio.Affine
    package: Path
    folder: Path
    """Its run directory."""

    def bounds(self, row: int, col: int, height: int, width: int) -> list[float]:
        """West, south, east, north of a window, a little within its outer pixels' rims."""
        west, north = self.transform * (col + 0.25, row + 0.25)
        east, south = self.transform * (col + width - 0.25, row + height - 0.25)
        return [west, south, east, north]


@pytest.fixture(scope="module")
def whole(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A net that sees beyond a pixel, with tiles so small that the scene has many, and its map of the scene."""
    folder = tmp_path_factory.mktemp("whole")
    package = save_package(
        Contrast(), folder / "net", name="contrast", bands=("green", "red", "nir"), classes=("dark", "bright"),
        format="pt2", tile=TILE, overlap=OVERLAP, multiple_of=1,
    )  # fmt: skip
    run = geoseg.segment(catalog / "before" / "item.json", model=package, out=folder / "run", device="cpu")
    with rasterio.open(run.labels) as file:
        labels = file.read(1)
        assert {0, 1} <= set(np.unique(labels)), "a map of one class proves nothing"
        return Whole(labels=labels, transform=file.transform, package=package, folder=folder / "run")


@pytest.fixture
def with_net(settings: ServiceSettings, whole: Whole) -> ServiceSettings:
    return settings.model_copy(update={"models": (str(whole.package),)})


@pytest.fixture
def asking(connect: Connect, with_net: ServiceSettings) -> TestClient:
    return connect(with_net)


def ask(client: Any, bbox: Sequence[float], accept: str = "image/tiff", **more: Any) -> Any:
    body = {"scene": "before", "model": "contrast", "bbox": list(bbox), "crs": "EPSG:32632", **more}
    content = json.dumps({name: value for name, value in body.items() if value is not None})
    headers = {"Accept": accept, "Content-Type": "application/json"}
    return client.post("/segment", content=content, headers=headers)


def labels_of(response: Any) -> npt.NDArray[np.uint8]:
    assert response.status_code == 200, response.text
    with MemoryFile(response.content) as memory, memory.open() as file:
        found: npt.NDArray[np.uint8] = file.read(1)
        return found


# --- the same pixels ---


def test_any_window_equals_the_same_place_of_a_whole_run(asking: TestClient, whole: Whole) -> None:
    places = st.integers(0, SIDE - 1)

    @settings(max_examples=12)
    @given(places, places, st.integers(1, SIDE), st.integers(1, SIDE))
    def check(row: int, col: int, height: int, width: int) -> None:
        height, width = min(height, SIDE - row), min(width, SIDE - col)
        found = labels_of(ask(asking, whole.bounds(row, col, height, width)))
        np.testing.assert_array_equal(found, whole.labels[row : row + height, col : col + width])

    check()


def test_what_others_ask_meanwhile_changes_no_pixel(asking: TestClient, whole: Whole) -> None:
    random = np.random.default_rng(1)
    places = [(*random.integers(0, 100, 2).tolist(), *random.integers(1, 60, 2).tolist()) for _ in range(24)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda place: ask(asking, whole.bounds(*place)), places))
    for (row, col, height, width), answer in zip(places, answers, strict=True):
        np.testing.assert_array_equal(labels_of(answer), whole.labels[row : row + height, col : col + width])


def test_a_box_of_degrees_means_what_it_means_to_a_run(
    asking: TestClient, whole: Whole, catalog: Path, tmp_path: Path
) -> None:
    item = catalog / "before" / "item.json"
    west, south, east, north = json.loads(item.read_text())["bbox"]
    width, height = east - west, north - south
    box = (west + 0.3 * width, south + 0.2 * height, west + 0.7 * width, south + 0.9 * height)
    run = geoseg.segment(item, model=whole.package, bbox=box, out=tmp_path / "run", device="cpu", vector=())
    answer = ask(asking, box, crs=None)
    assert answer.status_code == 200, answer.text
    with rasterio.open(run.labels) as file, MemoryFile(answer.content) as memory, memory.open() as window:
        np.testing.assert_array_equal(window.read(1), file.read(1))
        assert (window.transform, window.crs) == (file.transform, file.crs)


# --- files ---


def test_the_geotiff_is_a_cog_with_the_runs_colours(asking: TestClient, whole: Whole, tmp_path: Path) -> None:
    answer = ask(asking, whole.bounds(20, 30, 50, 70))
    assert answer.headers["content-type"].startswith("image/tiff")
    (tmp_path / "window.tif").write_bytes(answer.content)
    assert cog_validate(tmp_path / "window.tif", strict=True, quiet=True)[0]
    with rasterio.open(tmp_path / "window.tif") as file, rasterio.open(whole.folder / "labels.tif") as run:
        assert file.colormap(1) == run.colormap(1)
        assert (file.nodata, file.crs, file.dtypes) == (run.nodata, run.crs, run.dtypes)
        assert file.transform == run.transform * rasterio.Affine.translation(30, 20)
        bounds = ",".join(f"{value:.15g}" for value in file.bounds)
    assert answer.headers["content-bbox"] == bounds
    assert answer.headers["content-crs"] == "<http://www.opengis.net/def/crs/EPSG/0/32632>"


def test_the_picture_shows_each_pixel_in_the_colour_of_its_class(asking: TestClient, whole: Whole) -> None:
    answer = ask(asking, whole.bounds(5, 0, 40, 33), "image/png")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    colors = {info.value: (*bytes.fromhex(info.color), 255) for info in read_spec(whole.package).classes}
    expected = [[colors.get(int(value), (0, 0, 0, 0)) for value in row] for row in whole.labels[5:45, :33]]
    np.testing.assert_array_equal(picture, np.array(expected, np.uint8))


def test_the_polygons_are_those_of_the_windows_labels(asking: TestClient, whole: Whole) -> None:
    answer = ask(asking, whole.bounds(16, 16, 64, 48), GEOJSON)
    assert answer.headers["content-type"] == GEOJSON
    frame = geopandas.read_file(io.BytesIO(answer.content))
    labels = np.ascontiguousarray(whole.labels[16:80, 16:64])
    assert sorted(frame["class_id"]) == sorted(polygonize(labels, nodata=255).values)
    assert frame.geometry.is_valid.all()
    assert {"class_name", "area_m2", "confidence_mean", "scene", "datetime", "model"} <= set(frame.columns)
    assert frame["confidence_mean"].between(0.5, 1).all()
    areas = frame.to_crs(32632).area.groupby(frame["class_id"]).sum()
    for value, area in areas.items():
        assert area == pytest.approx(100 * int((labels == value).sum()), rel=1e-3)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/tiff"), ("image/*", "image/tiff"), ("image/png", "image/png"), ("application/*", GEOJSON),
        ("image/png;q=0.3, application/geo+json;q=0.4", GEOJSON), ("image/tiff;q=0, */*", "image/png"),
        ("IMAGE/PNG", "image/png"), ("image/tiff; application=geotiff", "image/tiff"),
        ("text/html, */*;q=0.1", "image/tiff"),
    ],
)  # fmt: skip
def test_the_client_chooses_the_format(accept: str, kind: str) -> None:
    assert _chosen(accept) == kind


# --- what cannot be answered ---

HOSTILE: dict[str, tuple[Any, int]] = {
    "outside": ([0, 0, 1, 1], 422),
    "empty": ([600_100, 5_399_000, 600_100, 5_399_100], 400),
    "between two centres": ([600_100.1, 5_399_000.1, 600_100.2, 5_399_000.2], 422),
    "south above north": ([600_000, 5_399_900, 600_500, 5_399_100], 400),
    "east before west": ([600_500, 5_399_100, 600_000, 5_399_900], 400),
    "three numbers": ([0, 0, 1], 400),
    "words": (["0", "0", "1", "1"], 400),
    "NaN": ([float("nan"), 0, 1, 1], 400),
    "infinite": ([0, 0, float("inf"), 1], 400),
    "beyond anything": ([-1e300, -1e300, 1e300, 1e300], 400),
    "beyond double": ([0, 0, 10**400, 1], 400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_box_that_is_none_is_a_problem(asking: TestClient, name: str) -> None:
    box, status = HOSTILE[name]
    answer = ask(asking, box)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("box", "status"),
    [
        ([179.5, -10, -179.5, 10], 422),  # across the antimeridian, and elsewhere
        ([10, 95, 11, 96], 422),
        ([-400, 0, 400, 10], 422),
        ([11, 0, 10, 90], 422),  # all around the Earth, but not here
        ([1e300, 0, 2e300, 1], 400),
    ],
)
def test_a_box_of_degrees_elsewhere_is_a_problem(asking: TestClient, box: list[float], status: int) -> None:
    answer = ask(asking, box, crs=None)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_the_whole_earth_is_the_scene(asking: TestClient, whole: Whole) -> None:
    np.testing.assert_array_equal(labels_of(ask(asking, [-180, -90, 180, 90], crs=None)), whole.labels)
    huge = [-1e9, -1e9, 1e9, 1e9]
    np.testing.assert_array_equal(labels_of(ask(asking, huge)), whole.labels)


def test_a_window_that_is_too_large_says_by_how_much(connect: Connect, with_net: ServiceSettings, whole: Whole) -> None:
    client = connect(with_net.model_copy(update={"window_side": 40}))
    refused = ask(client, whole.bounds(0, 0, 40, 41))
    assert refused.status_code == 422
    assert {name: refused.json()[name] for name in ("height", "width", "limit")} == {
        "height": 40, "width": 41, "limit": 40,
    }  # fmt: skip
    assert ask(client, whole.bounds(0, 0, 40, 40)).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"scene": "nowhere"}, 400), ({"scene": "../before"}, 400), ({"scene": "/etc/passwd"}, 400),
        ({"model": "spectral-baseline"}, 400), ({"model": "../net"}, 400), ({"crs": "EPSG:999999"}, 400),
        ({"crs": "+proj=utm"}, 400), ({"crs": "EPSG:7789"}, 422), ({"more": 1}, 400), ({"scene": 1}, 400),
        ({"scene": "x" * 300}, 400),
    ],
)  # fmt: skip
def test_what_the_service_does_not_know_is_a_problem(
    asking: TestClient, whole: Whole, change: dict[str, Any], status: int
) -> None:
    answer = ask(asking, whole.bounds(0, 0, 9, 9), **change)
    assert answer.status_code == status, answer.text
    assert str(whole.package.parent) not in answer.text


def test_a_format_that_nobody_makes_is_not_acceptable(asking: TestClient, whole: Whole) -> None:
    assert ask(asking, whole.bounds(0, 0, 9, 9), "text/html").status_code == 406


def test_a_scene_that_changes_is_read_anew(
    connect: Connect, with_net: ServiceSettings, whole: Whole, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    shutil.copytree(with_net.catalog or "", catalog)
    client = connect(with_net.model_copy(update={"catalog": catalog}))
    box = whole.bounds(0, 0, 100, 100)
    before = labels_of(ask(client, box))
    shutil.copy(catalog / "after" / "scene.tif", catalog / "new.tif")
    (catalog / "new.tif").replace(catalog / "before" / "scene.tif")
    after = labels_of(ask(client, box))
    np.testing.assert_array_equal(after, labels_of(ask(client, box, scene="after")))
    assert (before != after).any()


# --- many who ask ---


SMALL, LARGE = (120, 120, 9, 9), (0, 0, SIDE, SIDE)
"""Windows of one tile and of nine."""


class PretendModel:
    """A net that gives ones, waits until it is let go, and notes the sizes of its batches."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.go, self.begun = spec, threading.Event(), threading.Semaphore(0)
        self.sizes: list[int] = []
        self.nets: list[Net] = []

    def predict(self, batch: Tensor) -> Tensor:
        self.sizes.append(len(batch))
        self.begun.release()
        assert self.go.wait(15)
        return torch.ones(len(batch), 2, *batch.shape[-2:])


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, whole: Whole) -> PretendModel:
    """What every service loads in this test; like a GPU it takes four tiles at once."""
    model = PretendModel(read_spec(whole.package))

    def load(_nets: Nets, _name: str) -> Net:
        model.nets.append(net_of(model, Settings(batch=4)))
        return model.nets[-1]

    monkeypatch.setattr(Nets, "_load", load)
    return model


def test_windows_of_several_clients_share_batches(asking: TestClient, pretended: PretendModel, whole: Whole) -> None:
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, asking, whole.bounds(*SMALL)) for _ in range(8)]
        assert pretended.begun.acquire(timeout=30)
        until(lambda: len(pretended.nets[0].batcher._queue) >= 3, 30)
        pretended.go.set()
        assert {answer.result().status_code for answer in asked} == {200}
    assert set(pretended.sizes) == {4}, "the net always sees a full batch"
    assert len(pretended.sizes) < 8, "as many batches as windows, each of one tile"


def test_too_many_are_sent_away_and_those_who_wait_are_answered(
    asking: TestClient, pretended: PretendModel, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoseg.serve.window._INSIDE", 3)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, asking, whole.bounds(*SMALL)) for _ in range(3)]
        assert pretended.begun.acquire(timeout=30)
        until(lambda: ask(asking, whole.bounds(*SMALL)).status_code == 503, 30)
        refused = ask(asking, whole.bounds(*SMALL))
        assert int(refused.headers["retry-after"]) > 0
        pretended.go.set()
        assert {answer.result().status_code for answer in asked} == {200}
    assert ask(asking, whole.bounds(*SMALL)).status_code == 200


def test_a_window_that_takes_too_long_is_given_up(
    connect: Connect, with_net: ServiceSettings, pretended: PretendModel, whole: Whole
) -> None:
    client = connect(with_net.model_copy(update={"patience": 0.5}))
    refused = ask(client, whole.bounds(*LARGE))
    assert (refused.status_code, refused.json()["title"]) == (503, "Too slow")
    tiles = len(pretended.sizes)
    pretended.go.set()
    assert ask(client, whole.bounds(*SMALL)).status_code == 200
    assert len(pretended.sizes) == tiles + 1, "tiles of the window that was given up still ran"


def test_a_client_that_goes_away_frees_the_device(with_net: ServiceSettings, pretended: PretendModel) -> None:
    app = create_app(with_net)
    body = json.dumps({"scene": "before", "model": "contrast", "bbox": [-180, -90, 180, 90]}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/segment", "raw_path": b"/segment", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip

    async def leave() -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            assert await asyncio.to_thread(pretended.begun.acquire, timeout=30)
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            return None

        await asyncio.wait_for(app(scope, receive, send), 30)

    asyncio.run(leave())
    pretended.go.set()
    until(lambda: not [each for each in threading.enumerate() if each.name.startswith("geoseg-lane")], 30)
    assert len(pretended.sizes) <= 2, "what waited still ran"


def test_a_net_that_fails_is_a_problem_of_those_who_asked_for_it(
    asking: TestClient, pretended: PretendModel, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batch: Tensor) -> Tensor:
        return torch.full((len(batch), 2, *batch.shape[-2:]), torch.nan)

    monkeypatch.setattr(pretended, "predict", fail)
    answer = ask(asking, whole.bounds(*SMALL))
    assert answer.status_code == 422
    assert "NaN" in answer.json()["detail"]


# --- models that stay ---


def test_models_are_loaded_once_and_the_oldest_makes_room(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    before = set(threading.enumerate())

    def load(_nets: Nets, name: str) -> Net:
        loaded.append(name)
        return net_of(load_model(whole.package), Settings())

    monkeypatch.setattr(Nets, "_load", load)
    nets = Nets({name: str(whole.package) for name in "abc"}, "cpu", most=2)
    with ThreadPoolExecutor(8) as threads:
        assert len({future.result(30) for future in threads.map(nets.get, "a" * 8)}) == 1
    first = nets.get("a").result(30)
    nets.get("b").result(30)
    nets.get("a").result(30)
    nets.get("c").result(30)
    assert until(lambda: len(nets._held) == 2, 30)
    assert nets.get("a").result(30) is first
    nets.get("b").result(30)
    assert loaded == ["a", "b", "c", "b"]
    nets.close()
    assert until(lambda: not [each for each in {*threading.enumerate()} - before if each.name == "geoseg-device"], 30)


def test_a_model_that_cannot_be_loaded_is_tried_again(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = Nets({"a": str(whole.package / "nowhere"), "b": str(whole.package)}, "cpu")
    for _ in range(2):
        assert isinstance(nets.get("a").exception(30), ModelError)
    go = threading.Event()

    def load(_nets: Nets, _name: str) -> Net:
        assert go.wait(15)
        return net_of(load_model(whole.package), Settings())

    monkeypatch.setattr(Nets, "_load", load)
    late = nets.get("b")
    nets.close()
    go.set()
    assert isinstance(late.exception(30), ModelError)


def test_a_batch_changes_no_score_beyond_float_noise(whole: Whole) -> None:
    """Whatever shares the batch: the same tile alone, among copies, and among noise."""
    model = load_model(whole.package, Settings(batch=8))
    net = net_of(model, Settings(batch=8))
    tiles = torch.randn(24, 3, TILE, TILE, generator=torch.Generator().manual_seed(0))
    with net.batcher.turn(len(tiles) + 1) as turn:
        alone = turn.submit(tiles[0]).result(30)
        together = [turn.submit(tile) for tile in tiles]
        scores = torch.stack([future.result(30) for future in together])
    net.close()
    assert float((scores[0] - alone).abs().max()) < 1e-5
    reference = torch.cat([load_model(whole.package).predict(tile[None]) for tile in tiles])
    assert float((scores - reference).abs().max()) < 1e-5
    assert torch.equal(scores.argmax(1), reference.argmax(1))


def test_torch_is_loaded_with_the_first_window_and_not_before(tmp_path: Path) -> None:
    code = (
        "import sys; from geoseg.serve.app import create_app; from geoseg.serve.settings import ServiceSettings; "
        f"create_app(ServiceSettings(root={str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert done.stdout.strip() == "False"
