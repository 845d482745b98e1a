"""A run that lives in a bucket ends as one in a folder: the same bytes, whatever happened on the way."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geoseg.errors import ConfigError, SinkError
from geoseg.journal import RunDirectory
from geoseg.pipeline import segment
from geoseg.result import RunResult
from geoseg.testing import LinearModel
from tests.buckets import SECRET, Bucket
from tests.test_pipeline import WEIGHTS, write_tiff
from tests.test_resume import SlowModel

COMPARED = ("labels.tif", "confidence.tif", "polygons.geojson", "preview.png", "labels.qml")
PARTS = "maps/run1/.run/parts/"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(5).integers(1, 9999, (4, 130, 130), dtype=np.uint16)
    return write_tiff(tmp_path_factory.mktemp("scene") / "scene.tif", pixels)


def _segment(scene: Path, out: Path | str, **options: Any) -> RunResult:
    given: dict[str, Any] = {"model": LinearModel(WEIGHTS), "vector": ("geojson",)} | options
    return segment(scene, out=out, tile=40, overlap=6, chunk=70, **given)


@pytest.fixture(scope="module")
def reference(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what a run in a folder leaves."""
    out = tmp_path_factory.mktemp("reference") / "out"
    _segment(scene, out)
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED}


def _digests(bucket: Bucket) -> dict[str, str]:
    found = bucket.objects("maps/run1/")
    return {name: hashlib.sha256(found[f"maps/run1/{name}"]).hexdigest() for name in COMPARED}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_outputs_are_those_of_a_run_in_a_folder(
    scene: Path, bucket: Bucket, reference: dict[str, str], workers: int
) -> None:
    result = _segment(scene, bucket.url, workers=workers)
    assert _digests(bucket) == reference
    assert result.labels == f"{bucket.url}/labels.tif"
    assert result.out == bucket.url
    left = bucket.objects()
    assert not [key for key in left if key.startswith((PARTS, "maps/run1/.run/staging", "maps/run1/.run/locks"))]
    assert not [key for key, content in left.items() if SECRET.encode() in content]
    item = json.loads(left["maps/run1/item.json"])
    [link] = [link for link in item["links"] if link["rel"] == "derived_from"]
    assert link["href"] == str(scene)


def test_results_open_as_a_dataset_from_the_bucket(scene: Path, bucket: Bucket) -> None:
    result = _segment(scene, bucket.url)
    dataset = result.open()
    with rasterio.MemoryFile(bucket.objects()["maps/run1/labels.tif"]) as memory, memory.open() as file:
        np.testing.assert_array_equal(dataset["labels"].values, file.read(1))
    assert float(dataset["confidence"].max()) <= 1.0


def test_finished_results_stay_unless_overwritten(scene: Path, bucket: Bucket, reference: dict[str, str]) -> None:
    _segment(scene, bucket.url, probabilities=True)
    with pytest.raises(ConfigError, match=r"s3://.*/run1: already holds labels\.tif; --overwrite"):
        _segment(scene, bucket.url)
    again = _segment(scene, bucket.url, overwrite=True)
    assert again.probabilities is None
    assert "maps/run1/probabilities.tif" not in bucket.objects()
    assert _digests(bucket) == reference
    assert _segment(scene, bucket.url, skip_finished=True).timings == again.timings


def _run(scene: Path, url: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    _segment(scene, url, model=SlowModel(WEIGHTS))


@pytest.fixture(scope="module")
def start(scene: Path) -> Callable[[Bucket], BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_bucket_runs"])

    def start(bucket: Bucket) -> BaseProcess:
        process = context.Process(target=_run, args=(scene, bucket.url, bucket.environment))
        process.start()
        return process

    return start


def _killed_once(start: Callable[[Bucket], BaseProcess], bucket: Bucket, *, records: int) -> None:
    """Kills a run once its journal holds so many records."""
    process = start(bucket)
    deadline = time.monotonic() + 90
    while sum("files" in line for line in RunDirectory(bucket.url).lines()) < records:
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.02)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_killed_and_resumed_gives_the_same_bytes(
    start: Callable[[Bucket], BaseProcess], scene: Path, bucket: Bucket, reference: dict[str, str]
) -> None:
    for records in (1, 4, 7):
        _killed_once(start, bucket, records=records)
        assert "maps/run1/run.json" not in bucket.objects()
        bucket.put(f"{PARTS}r0009c0009.labels.tif", b"an upload that nobody waited for")
    finished = RunDirectory(bucket.url).finished()
    assert len(finished) >= 7
    model = LinearModel(WEIGHTS)
    result = _segment(scene, bucket.url, model=model)
    done = sum(record["counts"].get("tiles", 0) for record in finished.values())
    assert model.tiles_run == result.counts["tiles"] - done
    assert _digests(bucket) == reference


def test_a_damaged_part_is_done_again(
    start: Callable[[Bucket], BaseProcess], scene: Path, bucket: Bucket, reference: dict[str, str]
) -> None:
    _killed_once(start, bucket, records=5)
    key, content = next((key, content) for key, content in bucket.objects(PARTS).items() if key.endswith("labels.tif"))
    bucket.put(key, content[:-1] + bytes([content[-1] ^ 1]))
    chunk = key.removeprefix(PARTS).removesuffix(".labels.tif")
    assert chunk not in RunDirectory(bucket.url).finished()
    _segment(scene, bucket.url)
    assert _digests(bucket) == reference


def test_an_output_that_cannot_be_put_leaves_nothing_finished(
    scene: Path, bucket: Bucket, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(bucket.url)
    put = type(directory.store).put

    def fail(self: Any, name: str, content: Any) -> None:
        if name == "polygons.geojson":
            raise SinkError(f"{self.href(name)}: no connection")
        put(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(type(directory.store), "put", fail)
        with pytest.raises(SinkError, match="no connection"):
            _segment(scene, bucket.url)
    assert not directory.is_finished
    assert directory.stored_request() is not None
    _segment(scene, bucket.url)
    assert _digests(bucket) == reference
    assert directory.is_finished
