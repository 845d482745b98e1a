"""A scene run chunk by chunk equals the closed form, whatever tile, overlap, blend, chunk, lanes or batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.blend import BLENDS, Blend
from geoseg.decide import Layers, layers_of
from geoseg.errors import ModelError, SourceError
from geoseg.grid import ChunkGrid, TileGrid
from geoseg.protocols import Model, Wanted
from geoseg.settings import Settings
from geoseg.stream import SharedSums, StreamCounts, decide_shared, stream_chunk
from geoseg.testing import ArraySource, BoxModel, LinearModel
from geoseg.testing.strategies import chunk_grids, sources, tile_grids
from geoseg.types import Pixels, Valid
from geoseg.window import Window

WEIGHTS = np.array([[8.0, 0, 0, 0], [0, 9.0, 0, -3.0], [0, 0, 4.0, 3.0]])
"""Three classes of four bands; scores differ by far more than float noise on almost every pixel."""


def run(
    chunks: ChunkGrid,
    source: ArraySource,
    model: Model,
    *,
    blend: Blend = "ramp",
    layers: Layers | None = None,
    settings: Settings | None = None,
    wanted: Wanted | None = None,
) -> tuple[dict[str, Pixels], StreamCounts]:
    """Rasters of the whole scene from every chunk and seam, and what they cost together."""
    layers = layers or layers_of(model.spec, probabilities=True)
    rasters: dict[str, Pixels] = {
        name: np.full((count, chunks.grid.height, chunks.grid.width), 77, layers.dtype(name))
        for name, count in layers.counts.items()
    }

    def write(window: Window, decided: Mapping[str, Pixels]) -> None:
        for name, bands in decided.items():
            rasters[name][:, *window.slices] = bands

    total, shared = StreamCounts(), dict[str, list[SharedSums]]()
    for chunk in chunks:
        shared[chunk.name], counts = stream_chunk(
            chunk,
            source=source,
            model=model,
            blend=blend,
            layers=layers,
            settings=settings or Settings(),
            write=write,
            wanted=wanted,
        )
        total.tiles += counts.tiles
        total.forward_passes += counts.forward_passes
    for chunk in chunks:
        near = [part for other in chunks.contributors(chunk) for part in shared[other.name]]
        for area in chunk.seam:
            write(area, decide_shared([part for part in near if part.window == area], layers))
    return rasters, total


def expected(source: ArraySource, model: LinearModel) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Labels (row, col) and probabilities (class, row, col) in closed form."""
    probs = model.expected_probs((source.pixels * np.float32(1e-4)).astype(np.float32))
    return probs.argmax(axis=0), probs


def assert_closed_form(rasters: dict[str, Pixels], source: ArraySource, model: LinearModel, crop: Window) -> None:
    """Labels equal (ties aside), confidence within 1/250, nodata exactly where invalid, nothing outside the crop."""
    labels, probs = expected(source, model)
    here = crop.slices
    valid, ranked = source.valid[here], np.sort(probs, axis=0)[:, *here]
    clear = valid & (ranked[-1] - ranked[-2] > 1e-5)
    assert (rasters["labels"][0][here] == labels[here])[clear].all()
    assert (rasters["labels"][0][here] == 255)[~valid].all()
    confidence = rasters["confidence"][0][here] * 0.004
    assert (np.abs(confidence - ranked[-1])[valid] <= 1 / 250).all()
    assert (rasters["confidence"][0][here] == 255)[~valid].all()
    outside = np.ones(source.valid.shape, dtype=bool)
    outside[here] = False
    assert (rasters["labels"][0][outside] == 77).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tiling_equals_the_closed_form(data: st.DataObject) -> None:
    source = data.draw(sources(max_side=120))
    height, width = source.valid.shape
    tile = data.draw(st.integers(1, 48))
    grid = TileGrid(height=height, width=width, tile=tile, overlap=data.draw(st.integers(0, tile // 2)))
    if len(grid) > 400:
        grid = TileGrid(height=height, width=width, tile=48, overlap=20)
    chunks = data.draw(chunk_grids(grid))
    model = LinearModel(WEIGHTS)
    how = Settings(batch=data.draw(st.integers(1, 3)), lanes=data.draw(st.integers(1, 3)))
    rasters, counts = run(chunks, source, model, blend=data.draw(st.sampled_from(BLENDS)), settings=how)
    assert_closed_form(rasters, source, model, chunks.crop)
    assert counts.tiles == chunks.tiles
    assert counts.forward_passes == sum(
        source.valid[(grid.tile_at(r, c).window & chunks.crop).slices].any()
        for r in chunks.tile_rows
        for c in chunks.tile_cols
    )


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_chunks_lanes_and_batches_change_no_bit(data: st.DataObject) -> None:
    source = data.draw(sources(max_side=150))
    height, width = source.valid.shape
    tile = data.draw(st.sampled_from([24, 32, 47]))
    grid = TileGrid(height=height, width=width, tile=tile, overlap=data.draw(st.integers(0, tile // 2)))
    blend = data.draw(st.sampled_from(BLENDS))
    model = BoxModel(radius=9)  # wrong near each tile's rim: any difference in blending would show
    whole = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=height, width=width), rows_per_chunk=999, cols_per_chunk=999
    )
    reference, _ = run(whole, source, model, blend=blend)
    rasters, counts = run(
        data.draw(chunk_grids(grid, cropped=False)),
        source,
        model,
        blend=blend,
        settings=Settings(batch=data.draw(st.integers(1, 4)), lanes=data.draw(st.integers(1, 3))),
    )
    for name, raster in rasters.items():
        np.testing.assert_array_equal(raster, reference[name])
    assert counts.tiles == len(grid)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_crop_changes_no_bit_of_what_it_keeps(data: st.DataObject) -> None:
    source = data.draw(sources(max_side=120))
    height, width = source.valid.shape
    grid = TileGrid(height=height, width=width, tile=32, overlap=data.draw(st.integers(0, 16)))
    model = BoxModel(radius=9)
    whole = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=height, width=width), rows_per_chunk=99, cols_per_chunk=99
    )
    reference, _ = run(whole, source, model)
    chunks = data.draw(chunk_grids(grid))
    rasters, _ = run(chunks, source, model)
    for name, raster in rasters.items():
        np.testing.assert_array_equal(raster[:, *chunks.crop.slices], reference[name][:, *chunks.crop.slices])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_tiled_equals_whole_where_the_overlap_covers_the_radius(data: st.DataObject) -> None:
    radius = data.draw(st.integers(0, 5))
    blend: Blend = data.draw(st.sampled_from(["crop", "ramp"]))
    overlap = 2 * radius if blend == "crop" else -(-8 * radius // 3)
    tile = data.draw(st.integers(max(2 * overlap, 8), 2 * overlap + 30))
    source = data.draw(sources(height=data.draw(st.integers(1, 110)), width=data.draw(st.integers(1, 110))))
    source = ArraySource(np.maximum(source.pixels, 1))  # no holes: they are filled alike, but the oracle is simpler
    height, width = source.valid.shape
    model = BoxModel(radius=radius)
    grid = TileGrid(height=height, width=width, tile=tile, overlap=overlap)
    rasters, _ = run(data.draw(chunk_grids(grid, cropped=False)), source, model, blend=blend)
    channels = torch.from_numpy(source.pixels[:3] * np.float32(1e-4))[None]
    probs = torch.softmax(model.predict(channels), 1)[0].numpy()
    inner = np.s_[radius : height - radius, radius : width - radius]
    ranked = np.sort(probs, axis=0)
    clear = ((ranked[-1] - ranked[-2]) > 2e-6)[inner]
    assert (rasters["labels"][0][inner] == probs.argmax(0)[inner])[clear].all()
    assert (np.abs(rasters["probabilities"] * 0.004 - probs)[:, *inner] <= 0.002 + 1e-5).all()


def test_every_pixel_is_read_once_per_chunk_and_once_in_a_scene_of_one_chunk() -> None:
    source = ArraySource(np.random.default_rng(0).integers(1, 9999, (4, 200, 170), dtype=np.uint16))
    grid = TileGrid(height=200, width=170, tile=48, overlap=12)
    whole = Window(row_off=0, col_off=0, height=200, width=170)
    run(ChunkGrid(grid=grid, crop=whole, rows_per_chunk=99, cols_per_chunk=99), source, LinearModel(WEIGHTS))
    assert (source.times_read() == 1).all()


def test_all_invalid_tiles_cost_no_forward_pass() -> None:
    pixels = np.zeros((4, 100, 100), np.uint16)
    pixels[:, 70:, 70:] = 3000
    source, model = ArraySource(pixels, nodata=0), LinearModel(WEIGHTS)
    grid = TileGrid(height=100, width=100, tile=32, overlap=8)
    chunks = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=100, width=100), rows_per_chunk=2, cols_per_chunk=9
    )
    _, counts = run(chunks, source, model)
    assert counts.forward_passes == model.tiles_run == 4
    assert counts.tiles == 16


def test_only_wanted_pixels_are_labelled_and_only_their_tiles_run() -> None:
    source = ArraySource(np.random.default_rng(0).integers(1, 9999, (4, 100, 100), dtype=np.uint16))
    grid = TileGrid(height=100, width=100, tile=32, overlap=8)
    chunks = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=100, width=100), rows_per_chunk=2, cols_per_chunk=2
    )
    rows, cols = np.mgrid[:100, :100]
    circle = (rows - 80) ** 2 + (cols - 80) ** 2 < 60

    def wanted(window: Window) -> Valid:
        return np.asarray(circle[window.slices])

    model = LinearModel(WEIGHTS)
    rasters, counts = run(chunks, source, model, wanted=wanted)
    reference, _ = run(chunks, source, model)
    assert (rasters["labels"][0][~circle] == 255).all()
    np.testing.assert_array_equal(rasters["labels"][0][circle], reference["labels"][0][circle])
    assert counts.forward_passes < counts.tiles


class _NanModel(LinearModel):
    """A net that fails on one tile: the one that holds the brightest pixel."""

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        scores = super().predict(batch)
        return torch.where((batch > 5).any(dim=(1, 2, 3), keepdim=True), torch.nan, scores)


def test_nan_from_the_model_names_the_tile() -> None:
    pixels = np.full((4, 100, 100), 2000, np.uint16)
    pixels[:, 60, 90] = 60000
    source = ArraySource(pixels)
    grid = TileGrid(height=100, width=100, tile=32, overlap=0)
    chunks = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=100, width=100), rows_per_chunk=9, cols_per_chunk=9
    )
    with pytest.raises(ModelError, match=r"rows 32:64, columns 64:96"):
        run(chunks, source, _NanModel(WEIGHTS), settings=Settings(batch=2, lanes=2))


class _BrokenSource(ArraySource):
    def read(self, window: Window) -> tuple[Pixels, Valid]:
        if window.row_off > 40:
            raise SourceError("scene.tif: block 3 is damaged")
        return super().read(window)


def test_a_source_that_fails_midway_raises_its_own_error() -> None:
    source = _BrokenSource(np.full((4, 200, 100), 2000, np.uint16))
    grid = TileGrid(height=200, width=100, tile=32, overlap=8)
    chunks = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=200, width=100), rows_per_chunk=99, cols_per_chunk=9
    )
    with pytest.raises(SourceError, match="block 3 is damaged"):
        run(chunks, source, LinearModel(WEIGHTS))


def test_out_of_memory_halves_the_batch_and_changes_nothing() -> None:
    class Greedy(LinearModel):
        def predict(self, batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > 2:
                raise torch.cuda.OutOfMemoryError("too much")
            return super().predict(batch)

    source = ArraySource(np.random.default_rng(0).integers(1, 9999, (4, 90, 90), dtype=np.uint16))
    grid = TileGrid(height=90, width=90, tile=32, overlap=8)
    chunks = ChunkGrid(
        grid=grid, crop=Window(row_off=0, col_off=0, height=90, width=90), rows_per_chunk=9, cols_per_chunk=9
    )
    reference, _ = run(chunks, source, LinearModel(WEIGHTS))
    rasters, _ = run(chunks, source, Greedy(WEIGHTS), settings=Settings(batch=8))
    np.testing.assert_array_equal(rasters["labels"], reference["labels"])


@given(tile_grids(max_side=40, max_tile=16))
@settings(max_examples=20, deadline=None)
def test_one_colour_scene_gives_one_answer_up_to_the_rim(grid: TileGrid) -> None:
    source = ArraySource(np.full((4, grid.height, grid.width), 2500, np.uint16))
    chunks = ChunkGrid(
        grid=grid,
        crop=Window(row_off=0, col_off=0, height=grid.height, width=grid.width),
        rows_per_chunk=2,
        cols_per_chunk=3,
    )
    rasters, _ = run(chunks, source, LinearModel(WEIGHTS))
    assert all(len(np.unique(band)) == 1 for raster in rasters.values() for band in raster)
