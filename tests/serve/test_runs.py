"""Finished runs and catalogued scenes, as the disk has them now."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from geoseg.errors import ConfigError, SourceError
from geoseg.serve.runs import Runs
from geoseg.serve.scenes import Scenes
from tests.serve.conftest import add_scene, write_listing


def put(root: Path, made: Path, name: str, when: int) -> Path:
    """A finished run below ``runs``."""
    folder = root / "runs" / name
    shutil.copytree(made, folder)
    os.utime(folder / "run.json", (when, when))
    return folder


def test_runs_are_listed_the_newest_first_wherever_they_are(tmp_path: Path, made_run: Path) -> None:
    for name, when in (("old", 100), ("new", 300)):
        put(tmp_path, made_run, name, when)
    shutil.copytree(made_run, tmp_path / "jobs" / "abc" / "run")
    os.utime(tmp_path / "jobs" / "abc" / "run" / "run.json", (200, 200))
    runs = Runs(tmp_path)
    assert [run.id for run in runs.list()] == ["new", "abc", "old"]
    found = runs.find("abc")
    assert found is not None
    assert (found.kind, found.folder) == ("segment", tmp_path / "jobs" / "abc" / "run")
    assert {"labels.tif", "polygons.parquet", "item.json", "run.json"} <= found.files().keys()


def test_what_is_no_finished_run_is_not_there(tmp_path: Path, made_run: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.list() == []
    unfinished = put(tmp_path, made_run, "unfinished", 1)
    (unfinished / ".run").mkdir()
    (unfinished / ".run" / "request.json").write_text("{}")
    torn = put(tmp_path, made_run, "torn", 1)
    (torn / "item.json").write_text('{"assets":')
    odd = put(tmp_path, made_run, "odd", 1)
    (odd / "run.json").write_text("[]")
    put(tmp_path, made_run, ".hidden", 1)
    (tmp_path / "runs" / "file").write_text("")
    assert runs.list() == []
    for name in ("unfinished", "torn", "odd", ".hidden", "..", ".", "", "file", "a/b", "../runs/odd", "x" * 65):
        assert runs.find(name) is None


def test_a_run_that_is_made_anew_or_removed_is_seen(tmp_path: Path, made_run: Path) -> None:
    folder, runs = put(tmp_path, made_run, "a", 100), Runs(tmp_path)
    first = runs.find("a")
    assert first is not None
    assert runs.find("a") is first, "read once"
    item = json.loads((folder / "item.json").read_text()) | {"id": "another"}
    (folder / "item.json").write_text(json.dumps(item))
    os.utime(folder / "run.json", (200, 200))
    again = runs.find("a")
    assert again is not None
    assert again.item["id"] == "another"
    shutil.rmtree(folder)
    assert runs.find("a") is None


def test_files_that_lead_elsewhere_are_none_of_a_run(tmp_path: Path, made_run: Path) -> None:
    folder = put(tmp_path, made_run, "a", 1)
    item = json.loads((folder / "item.json").read_text())
    item["assets"]["evil"] = {"href": "../../../etc/passwd"}
    item["assets"]["far"] = {"href": "https://elsewhere.example/a.tif"}
    (folder / "item.json").write_text(json.dumps(item))
    run = Runs(tmp_path).find("a")
    assert run is not None
    assert not [name for name in run.files() if "/" in name]


def test_scenes_are_read_anew_when_the_catalog_changes(tmp_path: Path) -> None:
    add_scene(tmp_path, "a", side=32)
    scenes = Scenes(write_listing(tmp_path))
    assert [scene.id for scene in scenes.list()] == ["a"]
    add_scene(tmp_path, "b", side=32)
    write_listing(tmp_path)
    os.utime(tmp_path / "catalog.json", (1, 1))
    assert [scene.id for scene in scenes.list()] == ["a", "b"]
    found = scenes.find("b")
    assert found is not None
    assert "nir" in found.bands
    assert found.feature()["properties"]["datetime"] == "2024-05-01T10:20:00Z"
    assert str(tmp_path) not in json.dumps(found.feature())
    assert scenes.find("c") is None
    assert Scenes(None).list() == []


def test_a_catalog_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="catalog of scenes"):
        Scenes(tmp_path / "nowhere.json").list()
    for name in ("a", "b"):
        add_scene(tmp_path, name, side=32)
    file = tmp_path / "b" / "item.json"
    item = json.loads(file.read_text())
    file.write_text(json.dumps(item | {"id": "a"}))
    with pytest.raises(ConfigError, match="two items have the id a"):
        Scenes(write_listing(tmp_path)).list()
    file.write_text(json.dumps({**item, "bbox": None}))
    with pytest.raises(SourceError, match="bbox"):
        Scenes(tmp_path).list()
