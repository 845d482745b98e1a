"""A change that was interrupted ends with the same bytes, and goes on with the same request only."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geoseg
from geoseg.errors import ConfigError
from geoseg.journal import RunDirectory
from geoseg.testing import LinearModel
from tests.pairs import (
    BANDS,
    COVERS,
    GRID,
    Date,
    detect,
    moved,
    write_pair,
)
from tests.source.sources import write_raster

COMPARED = (
    "change.tif", "change_probability.tif", "polygons.geojson", "polygons.parquet", "preview.png", "compare.html",
    "item.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Date]:
    return write_pair(tmp_path_factory.mktemp("pair"))


class Dying(LinearModel):
    """Works for a while."""

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        if len(self.batches) > 12:
            raise SystemError("killed")
        return super().predict(batch)


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED}


CUT: dict[str, Any] = {"tile": 64, "overlap": 8, "chunk": 100, "vector": ("geojson", "parquet")}


@pytest.fixture(scope="module")
def whole(pair: list[Date], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    detect(pair, out, model=COVERS, **CUT)
    return digests(out)


def test_an_interrupted_run_ends_with_the_same_bytes_and_takes_no_other_request(
    pair: list[Date], whole: dict[str, str], tmp_path: Path
) -> None:
    out, mask = tmp_path / "out", tmp_path / "mask.tif"
    write_raster(mask, np.zeros((1, *GRID.shape), np.uint8), GRID)
    with pytest.raises(geoseg.GeosegError, match="killed"):
        detect(pair, out, model=Dying(COVERS.weights), **CUT)
    requests: list[tuple[dict[str, Any], str]] = [
        ({"dates": pair[::-1]}, r"pair\.dates"),
        ({"align": "after"}, r"pair\.align"),
        ({"register": True}, r"pair\.register"),
        ({"mask_after": str(mask)}, r"pair\.mask_after"),
        ({"bands_before": dict(zip(BANDS, (2, 4, 3, 1), strict=True))}, r"pair\.bands_before"),
        ({"datetime_before": "2024-05-01"}, r"pair\.datetime_before"),
        ({"blend": "crop"}, r"options\.blend"),
    ]
    for other, named in requests:
        words: dict[str, Any] = {"dates": pair, "model": COVERS, **CUT, **other}
        with pytest.raises(ConfigError, match=f"{named}.*--restart"):
            detect(words.pop("dates"), out, **words)
    done = len(RunDirectory(out).finished())
    assert done > 0
    detect(pair, out, model=COVERS, **CUT)
    assert digests(out) == whole
    with pytest.raises(ConfigError, match="--overwrite"):
        detect(pair, out, model=COVERS, **CUT)
    detect(pair[::-1], out, model=COVERS, overwrite=True, **CUT)
    assert digests(out)["change.tif"] != whole["change.tif"]


def test_a_grid_that_moved_is_another_request(pair: list[Date], tmp_path: Path) -> None:
    grid = tmp_path / "grid.tif"
    for row, outcome in ((10, geoseg.GeosegError), (11, ConfigError)):
        write_raster(grid, np.zeros((1, 130, 170), np.uint8), moved(row, 10, (130, 170)))
        with pytest.raises(outcome, match=r"killed|pair\.grid"):
            detect(pair, tmp_path / "out", model=Dying(COVERS.weights), align=grid, **CUT)


def test_a_run_that_ends_over_its_pictures_makes_them_the_next_time(
    pair: list[Date], whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SystemError("killed")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("geoseg.pages.compare.write_compare", fail)
        with pytest.raises(SystemError, match="killed"):
            detect(pair, out, model=COVERS, **CUT)
    assert not (out / "change.tif").exists()
    detect(pair, out, model=Dying(COVERS.weights), **CUT)  # there is nothing left for the net to do
    assert digests(out) == whole


class Slow(LinearModel):
    """Takes its time, so that there is a moment to be killed in."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Slow, (self.weights, self.bias)

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return super().predict(batch)


def _detect_slowly(pair: list[Date], out: Path) -> None:
    os.setsid()
    detect(pair, out, model=Slow(COVERS.weights), **CUT)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(pair: list[Date], whole: dict[str, str], tmp_path: Path) -> None:
    out, journal = tmp_path / "out", tmp_path / "out" / ".run" / "journal.jsonl"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_detect_slowly, args=(pair, out))
    process.start()
    deadline = time.monotonic() + 60
    while not journal.exists() or len(journal.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (out / "run.json").exists()
    detect(pair, out, model=COVERS, **CUT)
    assert digests(out) == whole
