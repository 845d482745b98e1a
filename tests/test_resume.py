"""Killed at any moment and started again, a run ends with the same bytes and redoes only what was in flight."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from geoseg.events import Event, StageStarted
from geoseg.journal import RunDirectory
from geoseg.pipeline import segment
from geoseg.testing import LinearModel
from tests.test_pipeline import WEIGHTS, write_tiff

COMPARED = ("labels.tif", "confidence.tif", "polygons.geojson", "polygons.parquet", "preview.png", "item.json")
TILES = 12 * 12
"""Tiles of the scene below: 400 pixels in tiles of 40 with overlap 6."""


class SlowModel(LinearModel):
    """A net that takes its time, so that there is a moment to be killed in."""

    def __reduce__(self) -> tuple[Any, ...]:
        return SlowModel, (self.weights, self.bias)

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return super().predict(batch)


def _segment(scene: Path, out: Path, workers: int, events: Any = None) -> None:
    os.setsid()  # a group of its own, to be killed as a whole or alone

    def tell(event: Event) -> None:
        if events is not None and isinstance(event, StageStarted):
            events.put((event.stage, event.total_tiles, event.done_tiles))

    segment(scene, model=SlowModel(WEIGHTS), out=out, tile=40, overlap=6, chunk=70, workers=workers, on_event=tell)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(5).integers(1, 9999, (4, 400, 400), dtype=np.uint16)
    return write_tiff(tmp_path_factory.mktemp("scene") / "scene.tif", pixels)


@pytest.fixture(scope="module")
def start(scene: Path) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geoseg.pipeline", "geoseg.sink.vector", "geoseg.catalog.item", __name__])

    def start(out: Path, workers: int = 1, events: Any = None) -> ForkServerProcess:
        process = context.Process(target=_segment, args=(scene, out, workers, events))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def reference(start: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("reference") / "out"
    process = start(out)
    process.join(120)
    assert process.exitcode == 0
    return _digests(out)


def _digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED}


def test_killed_ten_times_and_resumed_gives_the_same_bytes(
    start: Any, reference: dict[str, str], tmp_path: Path
) -> None:
    moments = random.Random(20251121)
    out = tmp_path / "out"
    kills, finished_before = 0, 0
    while kills < 10:
        process = start(out)
        process.join(moments.uniform(0.05, 0.6))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if (out / "run.json").exists():
            break
        kills += 1
        assert not (out / "labels.tif").exists() or (out / ".run" / "staging").exists()
        finished = len(RunDirectory(out).finished())
        assert finished >= finished_before, "a finished chunk was lost"
        finished_before = finished
    assert kills >= 3, "the run ended before it could be killed often enough"
    if not (out / "run.json").exists():
        process = start(out)
        process.join(120)
        assert process.exitcode == 0
    assert _digests(out) == reference


def test_a_resumed_run_begins_where_the_journal_ends(start: Any, reference: dict[str, str], tmp_path: Path) -> None:
    out, context = tmp_path / "out", multiprocessing.get_context("forkserver")
    process = start(out)
    journal = out / ".run" / "journal.jsonl"
    _wait_for(lambda: journal.exists() and len(journal.read_text().splitlines()) >= 4)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done = sum(
        record["counts"]["tiles"] for record in RunDirectory(out).finished().values() if record["kind"] == "chunk"
    )
    events = context.Queue()
    process = start(out, 2, events)  # another number of workers resumes with the stored plan
    stages: dict[str, tuple[int, int]] = {}
    while "predict" not in stages:
        stage, total, finished = events.get(timeout=60)
        stages[stage] = (total, finished)
    process.join(120)
    assert process.exitcode == 0
    assert stages["predict"] == (TILES, done)
    assert done > 0
    assert _digests(out) == reference


def test_workers_die_with_their_master(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, 2)
    _wait_for(lambda: (out / ".run" / "parts").exists() and any((out / ".run" / "parts").iterdir()))
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_killed_worker_costs_its_chunk_only(start: Any, reference: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, 2)
    _wait_for(lambda: (out / ".run" / "parts").exists() and any((out / ".run" / "parts").iterdir()))
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if _is_worker(child)]
    workers[0].kill()
    process.join(120)
    assert process.exitcode == 0
    assert _digests(out) == reference


def _is_worker(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())


def _wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
