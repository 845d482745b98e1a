"""A pipeline that does nothing but what a test tells it, and a command line that can be called in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import geoseg
import geoseg.models
import geoseg.source
from geoseg.cli import run
from geoseg.events import Event, RowDone, StageStarted


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("geoseg: error: ")]


Call = Callable[..., Called]


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets up logging and the environment; both are put back."""
    for name in [name for name in os.environ if name.startswith("GEOSEG_") and name != "GEOSEG_CACHE"]:
        monkeypatch.delenv(name)
    for name in ("CPL_LOG", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, os.environ.get(name, "ignore" if name == "PYTHONWARNINGS" else os.devnull))
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.disable(logging.NOTSET)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line with the given words."""

    def _call(*words: object) -> Called:
        capfd.readouterr()
        code = run([str(word) for word in words])
        out, err = capfd.readouterr()
        return Called(code=code, out=out, err=err)

    return _call


def finished(out: Path) -> SimpleNamespace:
    """The result of a run with two classes."""
    areas = (
        SimpleNamespace(value=0, name="water", title="Water", color="0000ff", pixels=3_000_000, km2=300.0),
        SimpleNamespace(value=1, name="other", title="Other", color="aaaaaa", pixels=1_000_000, km2=100.0),
    )
    return SimpleNamespace(
        out=out,
        labels=out / "labels.tif",
        confidence=out / "confidence.tif",
        probabilities=None,
        polygons=(out / "polygons.geojson",),
        preview=out / "preview.png",
        compare=None,
        is_change=False,
        item=out / "item.json",
        report=out / "run.json",
        areas=areas,
        counts={"tiles": 9, "forward_passes": 9, "skipped_tiles": 0, "chunks": 1, "pixels": 4_000_000},
        timings={"seconds": 2.0, "read": 0.1, "wait": 0.1, "compute": 1.5, "write": 0.3},
        peak_memory=750_000_000,
    )


@dataclass
class FakePipeline:
    """Records what it is asked for; raises what it was told to raise, before or after work began."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, BaseException] = field(default_factory=dict)
    after: dict[str, BaseException] = field(default_factory=dict)
    events: tuple[Event, ...] = (RowDone(chunk="0", tiles=3, pixels=1_000_000),)

    ids: dict[str, str] = field(default_factory=dict)
    opened: list[dict[str, Any]] = field(default_factory=list)

    def open_scene(self, location: str | None, *, bands: tuple[str, ...], **options: Any) -> SimpleNamespace:
        self.opened.append({"location": location, "bands": bands, **options})
        if str(location) in self.before:
            raise self.before[str(location)]
        scene_id = self.ids.get(str(location), Path(str(location)).stem)
        return SimpleNamespace(id=scene_id, location=location, href=str(location))

    def segment(
        self, scene: SimpleNamespace, *, out: Path, on_event: Callable[[Event], None], **options: Any
    ) -> object:
        self.calls.append({"scene": scene.location, "out": out, **options})
        on_event(StageStarted(stage="predict", total_tiles=9, total_pixels=4_000_000))
        for event in self.events:
            on_event(event)
        if scene.location in self.after:
            raise self.after[scene.location]
        return finished(out)

    @contextmanager
    def predicted(
        self, scene: SimpleNamespace, *, out: Path, on_event: Callable[[Event], None], **options: Any
    ) -> Iterator[Callable[[], object]]:
        options.pop("cluster")
        result = self.segment(scene, out=out, on_event=on_event, **options)
        yield lambda: result

    def plan_segment(
        self, scene: SimpleNamespace, *, out: Path, on_event: Callable[[Event], None], probe: bool, **options: Any
    ) -> object:
        assert callable(on_event)
        self.calls.append({"scene": scene.location, "out": out, "probe": probe, **options})
        from geoseg.grid import ChunkGrid, TileGrid
        from geoseg.settings import Settings
        from geoseg.window import Window

        grid = TileGrid(height=1000, width=2000, tile=512, overlap=128)
        chunks = ChunkGrid(
            grid=grid,
            crop=Window(row_off=0, col_off=0, height=1000, width=2000),
            rows_per_chunk=2,
            cols_per_chunk=2,
        )
        return SimpleNamespace(
            scene_id="scene",
            model="toy",
            digest="abc" * 20,
            grid=grid,
            chunks=chunks,
            blend="ramp",
            settings=Settings(threads=2),
            workers=1,
            probabilities=False,
            confidence=True,
            tiles=chunks.tiles,
            forward_passes=chunks.tiles,
            exactness="as exact as it gets",
            bytes_to_read=16_000_000,
            bytes_to_write=5_000_000,
            seam_bytes=3_000_000,
            worker_memory=400_000_000,
            peak_memory=800_000_000,
            summary=SimpleNamespace(chunk_tiles=(2, 2)),
            seconds=75.0 if probe else None,
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """Stands in the place of geoseg.pipeline, and of what opens scenes and reads cards."""
    pipeline = FakePipeline()
    monkeypatch.setattr(geoseg.source, "open_scene", pipeline.open_scene)
    monkeypatch.setattr(geoseg.models, "read_spec", lambda _: SimpleNamespace(bands=("red", "nir")))
    monkeypatch.setitem(sys.modules, "geoseg.pipeline", pipeline)
    monkeypatch.setattr(geoseg, "pipeline", pipeline, raising=False)
    return pipeline
