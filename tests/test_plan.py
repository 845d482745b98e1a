"""A plan covers the scene, keeps its bounds, and refuses what cannot fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.decide import layers_of
from geoseg.errors import GridError, PlanError
from geoseg.grid import Chunk, ChunkGrid
from geoseg.plan import RunPlan, check_fits, plan_run, tiling_for
from geoseg.settings import Settings
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.testing import ArraySource, LinearModel, scene_of
from geoseg.tuning import ProbedCost
from geoseg.window import GeoBox, Window


def _spec(**fields: object) -> ModelSpec:
    classes = (ClassInfo(value=0, name="a"), ClassInfo(value=1, name="b"))
    return ModelSpec(name="m", bands=("blue",), channels=(Channel(name="blue"),), classes=classes, **fields)  # type: ignore[arg-type]


def _plan(height: int, width: int, **fields: object) -> RunPlan:
    source = ArraySource(np.zeros((4, 1, 1), np.uint16))
    scene = scene_of(source)
    scene = type(scene)(
        id="s", source=source, bands=source.bands, geobox=GeoBox((height, width), scene.geobox.transform, "EPSG:32632")
    )
    spec = fields.pop("spec", LinearModel(np.eye(3, 4)).spec)
    assert isinstance(spec, ModelSpec)
    return plan_run(scene, spec, settings=Settings(), layers=layers_of(spec), **fields)  # type: ignore[arg-type]


@given(st.integers(1, 300_000), st.integers(1, 300_000), st.integers(1, 64))
def test_chunks_of_any_scene_are_bounded_and_enough(height: int, width: int, workers: int) -> None:
    plan = _plan(height, width, tile=512, overlap=128, workers=workers)
    chunk = plan.chunks[0]
    assert chunk.extent.width <= 4608 + 128 or chunk.tile_cols[1] - chunk.tile_cols[0] == 1
    assert chunk.tiles <= 128 + plan.chunks.cols_per_chunk
    assert workers == 1 or len(plan.chunks) >= min(4 * workers, plan.chunks.shape[1] * len(plan.chunks.tile_rows)) // 2
    assert plan.tiles == len(plan.grid)


def test_memory_of_a_wide_or_tall_scene_is_that_of_a_chunk() -> None:
    small, large = (_plan(side, side, tile=512, overlap=128).peak_memory for side in (4096, 100_000))
    assert large <= 1.25 * small


def test_a_slow_net_gets_chunks_of_two_minutes() -> None:
    cost = ProbedCost(seconds_per_tile=1.0, net_bytes=1 << 30)
    plan = _plan(50_000, 50_000, tile=512, overlap=128, cost=cost)
    assert plan.chunks[0].tiles <= 120
    assert plan.seconds == pytest.approx(plan.tiles)


@pytest.mark.parametrize("shape", [(2000, 100_000), (100_000, 2000), (5000, 5000)])
@pytest.mark.parametrize("workers", [2, 8, 32])
def test_every_worker_gets_four_chunks_while_there_are_tiles(shape: tuple[int, int], workers: int) -> None:
    plan = _plan(*shape, tile=512, overlap=128, workers=workers, worker_memory=8 << 30)
    assert min(4 * workers, plan.tiles) <= len(plan.chunks) <= max(12 * workers, plan.tiles // 100)


def test_of_all_shapes_that_keep_all_workers_busy_the_one_that_shares_least_is_chosen() -> None:
    plan = _plan(30_000, 30_000, tile=512, overlap=128, workers=4)
    assert _idle(plan) < 0.05
    for rows in range(1, 40):
        for cols in range(1, 12):
            other = _plan(30_000, 30_000, tile=512, overlap=128, workers=4, pinned=_pinned(rows, cols))
            if rows * cols <= 128 and len(other.chunks) >= 16 and _idle(other) < 0.05:
                assert plan.seam_bytes <= 1.05 * other.seam_bytes


@pytest.mark.parametrize("workers", [2, 3, 7, 64, 256, 1024])
def test_no_worker_idles_long_at_the_end_of_a_large_scene(workers: int) -> None:
    plan = _plan(100_000, 100_000, tile=512, overlap=128, workers=workers)
    assert len(plan.chunks) >= 4 * workers
    assert _idle(plan) < 0.1


def _idle(plan: RunPlan) -> float:
    """By how much the last round of full chunks makes a run longer than its tiles shared out evenly."""
    chunks = plan.chunks
    turns = -(-len(chunks) // plan.workers)
    return turns * plan.workers * chunks.rows_per_chunk * chunks.cols_per_chunk / plan.tiles - 1


def _pinned(rows: int, cols: int) -> dict[str, int]:
    return {"rows_per_chunk": rows, "cols_per_chunk": cols}


def test_a_worker_of_2_gb_can_take_part_in_a_scene_of_100_000_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    plan = _plan(100_000, 100_000, tile=512, overlap=128, workers=64, worker_memory=2 << 30)
    assert plan.worker_memory <= 2 << 30
    check_fits(plan, tmp_path)


@given(st.integers(1000, 4000), st.integers(1, 64), st.sampled_from([(512, 128), (256, 64), (1024, 256)]))
def test_chunks_shrink_until_they_fit_the_smallest_worker(room: int, workers: int, tiling: tuple[int, int]) -> None:
    tile, overlap = tiling
    limit = room << 20
    plan = _plan(100_000, 100_000, tile=tile, overlap=overlap, workers=workers, worker_memory=limit)
    smallest = _plan(100_000, 100_000, tile=tile, overlap=overlap, workers=workers, pinned=_pinned(1, 1))
    assert plan.worker_memory <= limit or plan.chunks.rows_per_chunk == plan.chunks.cols_per_chunk == 1
    if smallest.worker_memory > limit:
        with pytest.raises(PlanError, match=r"a worker needs about [\d,]+ MB of memory, the smallest has.*--tile"):
            check_fits(plan, Path.cwd())


def test_timed_tiles_bound_a_chunk_and_promise_no_time() -> None:
    plan = _plan(50_000, 50_000, tile=512, overlap=128, seconds_per_tile=2.0)
    assert plan.chunks[0].tiles <= 60
    assert plan.seconds is None


def test_a_plan_of_ten_thousand_chunks_looks_at_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, chunk_at = [], ChunkGrid.chunk_at

    def counted(self: ChunkGrid, row: int, col: int) -> Chunk:
        looked.append((row, col))
        return chunk_at(self, row, col)

    monkeypatch.setattr(ChunkGrid, "chunk_at", counted)
    plan = _plan(450_000, 450_000, tile=512, overlap=128)
    assert len(plan.chunks) > 10_000
    assert len(looked) < 10 * sum(plan.chunks.shape)


@given(st.integers(1, 10_000))
def test_a_chunk_in_pixels_is_rounded_down_to_strides(chunk: int) -> None:
    plan = _plan(5000, 7000, tile=512, overlap=128, chunk=chunk)
    assert plan.chunks.rows_per_chunk == plan.chunks.cols_per_chunk == max(1, chunk // 384)


def test_a_resumed_plan_keeps_its_layout_whatever_the_workers() -> None:
    before = _plan(9000, 9000, tile=512, overlap=128, workers=1)
    after = _plan(9000, 9000, tile=512, overlap=128, workers=8, pinned=before.pinned())
    assert after.chunks == before.chunks


def test_bytes_to_read_count_what_neighbouring_chunks_share() -> None:
    plan = _plan(
        1000, 1000, tile=512, overlap=128, crop=Window(row_off=0, col_off=0, height=1000, width=1000), chunk=384
    )
    bounds = [range(512), range(384, 896), range(719, 1000)]  # the last tile reaches to 1280: 280 pixels are reflected
    assert plan.bytes_to_read == 8 * sum(len(rows) * len(cols) for rows in bounds for cols in bounds)


@pytest.mark.parametrize(
    ("spec", "tile", "overlap", "expected"),
    [
        (_spec(tile=512), None, None, (512, 128)),
        (_spec(tile=512, overlap=64), None, None, (512, 64)),
        (_spec(tile=512, overlap=64), 256, None, (256, 64)),
        (_spec(tile=512, overlap=0), None, None, (512, 0)),
        (_spec(tile=96, multiple_of=32), None, None, (96, 0)),
        (_spec(tile=512, multiple_of=32), 160, 64, (160, 64)),
    ],
)
def test_tile_and_overlap(spec: ModelSpec, tile: int | None, overlap: int | None, expected: tuple[int, int]) -> None:
    assert tiling_for(spec, tile, overlap) == expected


@pytest.mark.parametrize(
    ("spec", "tile", "overlap", "message"),
    [
        (_spec(tile=512, multiple_of=32), 500, None, "500 is no multiple of 32.*try 512"),
        (_spec(tile=512, multiple_of=32), 512, 100, "100 is no multiple of 32.*try 96"),
        (_spec(tile=256, static_tile=256), 512, None, "tiles of 256 pixels only"),
    ],
)
def test_what_does_not_suit_the_net_is_refused(spec: ModelSpec, tile: int, overlap: int | None, message: str) -> None:
    with pytest.raises(GridError, match=message):
        tiling_for(spec, tile, overlap)


def test_too_much_overlap_and_unknown_blend_are_refused() -> None:
    with pytest.raises(GridError, match="choose 0 to 32"):
        _plan(100, 100, tile=64, overlap=33)
    with pytest.raises(GridError, match="ramp, linear, gaussian, crop"):
        _plan(100, 100, blend="feather")


def test_what_cannot_fit_is_refused_with_the_knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(9000, 9000, tile=512, overlap=128, workers=2)
    check_fits(plan, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 << 20))
        with pytest.raises(PlanError, match=r"needs about [\d,]+ MB of memory, 105 MB are free.*--workers"):
            check_fits(plan, tmp_path / "out")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    with pytest.raises(PlanError, match=r"of disk at .*out, 1 MB are free.*--bbox"):
        check_fits(plan, tmp_path / "out")
