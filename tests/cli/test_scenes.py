"""Several scenes in one call: whose files are made when, what a failure costs, and what a second call does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pystac
import pytest
import rasterio

import geoseg.cluster
from geoseg.errors import ChunkError, SinkError
from geoseg.events import Event, StageStarted
from geoseg.models import save_package
from geoseg.models.nets import ThresholdNet
from geoseg.types import Labels
from tests.cli.conftest import Call, FakePipeline, finished

SECONDS = 20.0
"""Upper bound of a wait that only ends early if the promise holds."""


# --- the loop, with a pipeline that does what a test tells it ---


class Elsewhere:
    """A cluster that is somewhere else."""

    elsewhere = True

    def __init__(self, *_: object) -> None:
        """Takes what the real one takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Staged(FakePipeline):
    """Notes when chunks and files of each scene are at work; the files of a scene wait for the next one's chunks."""

    def __init__(self, scenes: list[str]) -> None:
        super().__init__()
        self.scenes, self.log = scenes, list[str]()
        self.begun = {name: threading.Event() for name in scenes}
        self.overlapped: list[str] = []
        self.failing: dict[str, BaseException] = {}

    @contextmanager
    def predicted(
        self, scene: SimpleNamespace, *, out: Path, on_event: Callable[[Event], None], **options: Any
    ) -> Iterator[Callable[[], object]]:
        assert options["cluster"].elsewhere
        self.begun[scene.location].set()
        on_event(StageStarted(stage="predict", total_tiles=1))
        self.log.append(f"chunks of {scene.location}")

        def files() -> object:
            after = self.scenes[self.scenes.index(scene.location) + 1 :]
            if after and self.begun[after[0]].wait(SECONDS):
                self.overlapped.append(scene.location)
            if scene.location in self.failing:
                raise self.failing[scene.location]
            self.log.append(f"files of {scene.location}")
            return finished(out)

        yield files
        self.log.append(f"left {scene.location}")


@pytest.fixture
def staged(fake: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> Staged:
    """Three scenes on a cluster elsewhere."""
    pipeline = Staged(["a.tif", "b.tif", "c.tif"])
    monkeypatch.setattr(fake, "predicted", pipeline.predicted, raising=False)
    monkeypatch.setattr(geoseg.cluster, "Cluster", Elsewhere)
    return pipeline


def test_on_a_cluster_files_are_made_while_the_next_scene_is_at_work(
    call: Call, staged: Staged, tmp_path: Path
) -> None:
    ended = call("segment", *staged.scenes, "--out", tmp_path / "maps")
    assert ended.code == 0, ended.err
    assert staged.overlapped == ["a.tif", "b.tif"]
    assert ended.out.splitlines() == [f"{tmp_path}/maps/{name}/item.json" for name in "abc"]
    assert staged.log.index("left a.tif") < staged.log.index("files of b.tif"), "one at a time"
    assert staged.log[-1] == "left c.tif"


def test_files_that_fail_there_are_told_and_stop_no_other_scene(call: Call, staged: Staged, tmp_path: Path) -> None:
    staged.failing["a.tif"] = SinkError("maps/a/labels.tif: no space left")
    ended = call("segment", *staged.scenes, "--out", tmp_path / "maps")
    assert ended.code == 1
    assert len(ended.error_lines) == 1
    assert "no space left" in ended.error_lines[0]
    assert ended.out.splitlines() == [f"{tmp_path}/maps/{name}/item.json" for name in "bc"]
    assert "geoseg: 3 scenes: 1 failed, 2 done" in ended.err.splitlines()


def test_here_files_are_made_before_the_next_scene_begins(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    order: list[str] = []
    plain = fake.predicted

    @contextmanager
    def noted(scene: SimpleNamespace, **options: Any) -> Iterator[Callable[[], object]]:
        order.append(f"chunks of {scene.location}")
        with plain(scene, **options) as files:

            def noted_files() -> object:
                order.append(f"files of {scene.location}")
                return files()

            yield noted_files

    fake.predicted = noted  # type: ignore[method-assign]
    assert call("segment", "a.tif", "b.tif", "--out", tmp_path / "maps").code == 0
    assert order == ["chunks of a.tif", "files of a.tif", "chunks of b.tif", "files of b.tif"]


def test_an_interruption_ends_the_call_at_that_scene(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.after["b.tif"] = KeyboardInterrupt()
    ended = call("segment", "a.tif", "b.tif", "c.tif", "--out", tmp_path / "maps", "--json")
    assert ended.code == 130
    assert [run["status"] for run in json.loads(ended.out)["runs"]] == ["done", "interrupted"]
    assert f"interrupted; the same command resumes what stands in {tmp_path}/maps/b" in ended.err
    assert len(fake.calls) == 2


def test_no_mosaic_is_made_of_some_of_the_scenes(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.after["b.tif"] = ChunkError("b.tif: a chunk failed", "b", "rows")
    ended = call("segment", "a.tif", "b.tif", "--mosaic", "first", "--out", tmp_path / "maps")
    assert ended.code == 1
    assert "geoseg: warning: no mosaic was made: 1 of 2 scenes failed" in ended.err
    assert not (tmp_path / "maps" / "mosaic").exists()


def test_a_wrong_rule_is_refused(call: Call, tmp_path: Path, fake: FakePipeline) -> None:
    ended = call("segment", "a.tif", "--mosaic", "best", "--out", tmp_path)
    assert ended.code == 2
    assert "--mosaic: should be newest, cloudless or first" in ended.err
    assert not fake.calls


# --- whole runs of a tiny model ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which of two bands is brighter."""
    import torch

    net = ThresholdNet(channels=2, classes=2, criteria=1)
    with torch.no_grad():
        net.margins.weight.copy_(torch.eye(2)[:, :, None, None] * 5)
        net.margins.bias = torch.nn.Parameter(torch.zeros(2))
    path = tmp_path_factory.mktemp("models") / "brighter"
    save_package(net, path, name="brighter", bands=["red", "nir"], classes=["land", "cloud"], tile=64)
    return path


def scene(path: Path, *, seed: int, col: int = 0, day: int = 1) -> Path:
    """Two bands of smooth noise, 50 x 70 pixels, `col` pixels east of the first scene."""
    random = np.random.default_rng(seed)
    pixels = random.random((2, 10, 14)).repeat(5, 1).repeat(5, 2).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 2, "height": 50, "width": 70, "dtype": "float32", "nodata": -1.0}
    transform = rasterio.Affine(10, 0, 5e5 + 10 * col, 0, -10, 5e6)
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=transform) as file:
        file.write(pixels)
        file.descriptions = ("red", "nir")
        file.update_tags(TIFFTAG_DATETIME=f"2024:06:{day:02} 10:20:30")
    return path


def labels(folder: Path) -> Labels:
    with rasterio.open(folder / "labels.tif") as file:
        return np.asarray(file.read(1))


def test_scenes_their_mosaic_and_their_catalog(call: Call, model: Path, tmp_path: Path) -> None:
    paths = [scene(tmp_path / "a.tif", seed=1, day=3), scene(tmp_path / "b.tif", seed=2, day=9, col=30)]
    words = ("segment", *paths, "--model", model, "--out", tmp_path / "maps", "--mosaic", "newest", "--json")
    ended = call(*words)
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert [(run["input"], run["status"]) for run in document["runs"]] == [
        (str(paths[0]), "done"),
        (str(paths[1]), "done"),
        ("mosaic", "done"),
    ]
    maps = tmp_path / "maps"
    one, two, both = labels(maps / "a"), labels(maps / "b"), labels(maps / "mosaic")
    assert both.shape == (50, 100)
    assert np.array_equal(both[:, 30:], two)
    assert np.array_equal(both[:, :30], one[:, :30])
    assert sum(area["pixels"] for area in document["runs"][2]["areas"]) == both.size < one.size + two.size
    catalog = pystac.Catalog.from_file(document["catalog"])
    assert [found.id for found in catalog.get_items()] == ["a-brighter", "b-brighter", "mosaic-brighter"]

    again = call(*words)
    assert [run["status"] for run in json.loads(again.out)["runs"]] == ["skipped"] * 3
    more = scene(tmp_path / "c.tif", seed=3, day=5, col=60)
    third = call("segment", more, *words[1:])
    assert [run["status"] for run in json.loads(third.out)["runs"]] == ["done", "skipped", "skipped", "done"]
    both = labels(maps / "mosaic")
    assert both.shape == (50, 130)
    assert np.array_equal(both[:, 30:100], two)
    assert np.array_equal(both[:, 100:], labels(maps / "c")[:, 40:])


def test_a_map_that_is_gone_is_made_anew_and_one_that_is_changed_is_kept(
    call: Call, model: Path, tmp_path: Path
) -> None:
    paths, maps = (
        [scene(tmp_path / f"{name}.tif", seed=day, day=day) for day, name in enumerate("ab", 1)],
        tmp_path / "m",
    )
    words = ("segment", *paths, "--model", model, "--vector", "none", "--out", maps, "--mosaic", "first", "--json")
    assert call(*words).code == 0
    before = [labels(maps / name) for name in ("a", "b", "mosaic")]
    os.truncate(maps / "a" / "labels.tif", 100)
    (maps / "mosaic" / "labels.tif").unlink()
    ended = call(*words)
    assert ended.code == 1
    assert f"geoseg: error: {maps}/a: labels.tif has 100 bytes, not " in ended.err
    assert (maps / "a" / "labels.tif").stat().st_size == 100
    (maps / "a" / "labels.tif").unlink()
    ended = call(*words)
    assert ended.code == 0, ended.err
    assert [run["status"] for run in json.loads(ended.out)["runs"]] == ["done", "skipped", "done"]
    assert [line for line in ended.err.splitlines() if "made anew" in line] == [
        f"geoseg: warning: {label}: {maps}/{name}: was finished, but labels.tif is gone: it is made anew"
        for label, name in ((paths[0], "a"), ("mosaic", "mosaic"))
    ]
    assert all(np.array_equal(labels(maps / name), old) for name, old in zip(("a", "b", "mosaic"), before, strict=True))


@pytest.mark.parametrize("words", [("--tile", "200000"), ("--batch-size", "100000000")], ids=["tile", "batch"])
@pytest.mark.parametrize("verb", ["segment", "plan"])
def test_what_cannot_fit_is_refused_before_anything_is_timed(
    verb: str, words: tuple[str, ...], call: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoseg.pipeline.tune", lambda *_, **__: pytest.fail("a probe allocates what cannot fit"))
    path = scene(tmp_path / "a.tif", seed=1)
    ended = call(verb, path, "--model", model, "--out", tmp_path / "out", *words)
    assert (ended.code, len(ended.error_lines)) == (3, 1), ended.err
    assert "MB of memory" in ended.err
    assert "Choose a smaller --chunk, --tile or --batch-size" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_failing_scene_keeps_its_name_for_its_next_try(call: Call, model: Path, tmp_path: Path) -> None:
    """The second scene of a name takes the first one's folder if that failed, and keeps it."""
    first, second = tmp_path / "x" / "a.tif", scene(tmp_path / "y" / "a.tif", seed=2)
    first.parent.mkdir()
    first.write_bytes(b"")
    words = ("segment", first, second, "--model", model, "--vector", "none", "--out", tmp_path / "maps", "--json")
    ended = call(*words)
    assert ended.code == 1
    assert [run["status"] for run in json.loads(ended.out)["runs"]] == ["failed", "done"]
    before = labels(tmp_path / "maps" / "a")
    scene(first, seed=1)
    ended = call(*words)
    runs = json.loads(ended.out)["runs"]
    assert [(run["status"], Path(run["out"]).name) for run in runs] == [("done", "a-2"), ("skipped", "a")]
    assert np.array_equal(labels(tmp_path / "maps" / "a"), before)
    runs = json.loads(call("segment", second, first, *words[3:]).out)["runs"]
    assert [(run["status"], Path(run["out"]).name) for run in runs] == [("skipped", "a"), ("skipped", "a-2")]


def test_items_of_a_search_are_scenes(call: Call, model: Path, tmp_path: Path) -> None:
    features: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "geometry": None,
            "properties": {"datetime": f"2024-06-1{number}T00:00:00Z"},
            "links": [],
            "assets": {"data": {"href": f"{number}.tif", "eo:bands": [{"name": "red"}, {"name": "nir"}]}},
        }
        for number, name in enumerate(("b", "a", "broken", "a"))
    ]
    for number in (0, 1, 3):
        scene(tmp_path / f"{number}.tif", seed=number)
    (tmp_path / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    words = ("--items", tmp_path / "search.json", "--model", model, "--vector", "none", "--out", tmp_path / "maps")
    ended = call("segment", *words, "--json")
    assert ended.code == 1
    runs = json.loads(ended.out)["runs"]
    assert [(run["input"], run["status"]) for run in runs] == [
        ("b", "done"),
        ("a", "done"),
        ("broken", "failed"),
        ("a", "done"),
    ]
    assert [Path(run["out"]).name for run in runs] == ["b", "a", "maps", "a-2"]
    assert "2.tif" in runs[2]["error"]
    planned = json.loads(call("plan", *words, "--json", "--no-probe").out)["plans"]
    assert [plan["status"] for plan in planned] == ["planned", "planned", "refused", "planned"]


def test_a_list_that_cannot_be_read_is_2_before_anything_is_done(call: Call, model: Path, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("{}")
    ended = call("segment", "--items", tmp_path / "list.json", "--model", model, "--out", tmp_path / "maps")
    assert (ended.code, len(ended.error_lines)) == (2, 1)
    assert "list.json" in ended.error_lines[0]
    assert not (tmp_path / "maps").exists()
