"""`segment_array`: lazy, each tile once, and the bytes of `segment`, however array, result and work are cut."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.xr import xr_coords

import geoseg
from geoseg.blend import BLENDS
from geoseg.errors import BandError, ConfigError, GridError, ModelError
from geoseg.grid import ChunkGrid, TileGrid
from geoseg.processes import LocalProcesses
from geoseg.testing import ArraySource, BoxModel, LinearModel, SyntheticScene, geobox_of
from geoseg.testing.strategies import sources, tile_grids, windows
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window, whole
from tests.test_stream import run

NAMES = ("blue", "green", "red", "nir")
WEIGHTS = np.array([[8.0, 0, 0, 0], [0, 9.0, 0, -3.0], [0, 0, 4.0, 3.0]])
RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(1, 9999, (4, 230, 310), dtype=np.uint16)
PIXELS[:, :60, :40] = 0


def array_of(pixels: Any, geobox: GeoBox | None = None, names: Sequence[str] = NAMES) -> xr.DataArray:
    """A DataArray on a grid, as rioxarray or odc-stac give it."""
    coords = dict(xr_coords(geobox or geobox_of(*pixels.shape[1:])))
    coords["band"] = xr.DataArray(list(names), dims=("band",))
    attrs = {"scale_factor": 1e-4, "_FillValue": 0}
    dims = ("band", *(str(dim) for dim in (geobox or geobox_of(1, 1)).dimensions))
    return xr.DataArray(pixels, coords, dims, attrs=attrs, name="scene")


def chunked(pixels: Pixels, chunks: Any, computed: list[tuple[int, ...]] | None = None) -> da.Array:
    """A dask array of `pixels` that notes which of its blocks are computed."""

    def block(block_info: Any = None) -> Pixels:
        place = block_info[None]
        if computed is not None:
            computed.append(place["chunk-location"])
        return pixels[tuple(slice(*ends) for ends in place["array-location"])]

    sizes = da.core.normalize_chunks(chunks, pixels.shape)
    lazy: da.Array = da.map_blocks(block, chunks=sizes, dtype=pixels.dtype, meta=np.empty((0, 0, 0), pixels.dtype))
    return lazy


def assert_same(dataset: xr.Dataset, reference: dict[str, Pixels], part: Window | None = None) -> None:
    place = np.s_[:, :] if part is None else part.slices
    assert set(dataset.data_vars) == set(reference)
    for name, raster in dataset.data_vars.items():
        expected = reference[str(name)][:, *place]
        if name == "labels":
            np.testing.assert_array_equal(raster.values, expected[0])
            continue
        values = np.where(expected == 255, np.float32(np.nan), expected * np.float32(0.004))
        np.testing.assert_array_equal(raster.values, values if raster.ndim == 3 else values[0])


def chunks_of(dataset: xr.Dataset, grid: TileGrid) -> ChunkGrid:
    """The chunk grid that stands behind a dataset's blocks."""
    rows, cols = dataset.labels.chunks or ((1,), (1,))
    scene = Window(row_off=0, col_off=0, height=grid.height, width=grid.width)
    per_chunk = [max(1, -(-sizes[0] // grid.stride)) for sizes in (rows, cols)]
    return ChunkGrid(grid=grid, crop=scene, rows_per_chunk=per_chunk[0], cols_per_chunk=per_chunk[1])


def blocks_of(dataset: xr.Dataset) -> list[Window]:
    rows, cols = dataset.labels.chunks or ((), ())
    starts = [np.cumsum([0, *sizes]) for sizes in (rows, cols)]
    return [
        Window.from_bounds(int(top), int(left), int(bottom), int(right))
        for top, bottom in zip(starts[0], starts[0][1:], strict=False)
        for left, right in zip(starts[1], starts[1][1:], strict=False)
    ]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_cut_of_array_and_result_gives_the_same_bytes_and_each_tile_once(data: st.DataObject) -> None:
    source = data.draw(sources(max_side=110, names=NAMES[:3]))
    height, width = source.valid.shape
    overlap = data.draw(st.integers(0, 16))
    grid = TileGrid(height=height, width=width, tile=32, overlap=overlap)
    blend = data.draw(st.sampled_from(BLENDS))
    scene = whole(source.geobox)
    one = ChunkGrid(grid=grid, crop=scene, rows_per_chunk=999, cols_per_chunk=999)
    reference, counts = run(one, source, BoxModel(radius=9), blend=blend)
    pixels: Any = source.pixels
    computed: list[tuple[int, ...]] = []
    if data.draw(st.booleans()):
        pixels = chunked(pixels, tuple(data.draw(st.integers(1, 80)) for _ in range(3)), computed)
    model = BoxModel(radius=9)
    dataset = geoseg.segment_array(
        array_of(pixels, names=NAMES[:3]),
        model=model,
        tile=32,
        overlap=overlap,
        blend=blend,
        chunk=data.draw(st.integers(1, 130)),
        probabilities=True,
    )
    assert (model.tiles_run, computed) == (0, [])
    assert_same(dataset.compute(scheduler="synchronous"), reference)
    assert model.tiles_run == counts.forward_passes
    assert len(computed) == len(set(computed))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_window_runs_the_tiles_of_the_chunks_that_meet_in_its_blocks(data: st.DataObject) -> None:
    grid = data.draw(tile_grids(max_side=150, max_tile=40))
    if len(grid) > 300:
        grid = TileGrid(height=grid.height, width=grid.width, tile=40, overlap=10)
    pixels = np.random.default_rng(1).integers(1, 9999, (3, grid.height, grid.width), dtype=np.uint16)
    scene = Window(row_off=0, col_off=0, height=grid.height, width=grid.width)
    one = ChunkGrid(grid=grid, crop=scene, rows_per_chunk=999, cols_per_chunk=999)
    reference, _ = run(one, ArraySource(pixels, names=NAMES[:3]), BoxModel(radius=3))
    computed: list[tuple[int, ...]] = []
    model = BoxModel(radius=3)
    array = array_of(chunked(pixels, (1, 20, 30), computed), names=NAMES[:3])
    dataset = geoseg.segment_array(
        array, model=model, tile=grid.tile, overlap=grid.overlap, chunk=data.draw(st.integers(1, 99)),
        probabilities=True,
    )  # fmt: skip
    part = data.draw(windows(scene))
    rows, cols = part.slices
    found = dataset.isel(y=rows, x=cols).compute(scheduler="synchronous")
    assert_same(found, reference, part)
    touched = [block for block in blocks_of(dataset) if block & part]
    needed = [c for c in chunks_of(dataset, grid) if any(c.extent & block for block in touched)]
    assert model.tiles_run == sum(chunk.tiles for chunk in needed)
    assert len(computed) == len(set(computed))


@pytest.mark.parametrize(
    ("scheduler", "chunks"),
    [("synchronous", None), ("threads", None), ("threads", (1, 100, 100)), ("processes", (4, 64, 400))],
)
def test_it_equals_segment_under_any_scheduler(scheduler: str, chunks: Any, written: dict[str, Pixels]) -> None:
    pixels = PIXELS if chunks is None else da.from_array(PIXELS, chunks=chunks)
    dataset = geoseg.segment_array(array_of(pixels), model=LinearModel(WEIGHTS), chunk=90, probabilities=True)
    assert_same(dataset.compute(scheduler=scheduler, num_workers=2), written)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pixels]:
    """The rasters that `segment` writes for the same array."""
    out = tmp_path_factory.mktemp("segment") / "run"
    geoseg.segment(array_of(PIXELS), model=LinearModel(WEIGHTS), out=out, probabilities=True, vector=(), chunk=200)
    rasters = {}
    for name in ("labels", "confidence", "probabilities"):
        with rasterio.open(out / f"{name}.tif") as file:
            rasters[name] = file.read()
    return rasters


class NotedModel(LinearModel):
    """A net that notes each tile, and each time it travels, in files: processes cannot count together."""

    def __init__(self, folder: str) -> None:
        super().__init__(WEIGHTS)
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return NotedModel, (self.folder,)

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        with Path(self.folder, f"{os.getpid()}").open("a", encoding="ascii") as notes:
            notes.write("tile\n" * len(batch))
        return super().predict(batch)


def test_two_processes_share_the_tiles_and_none_is_run_twice(written: dict[str, Pixels], tmp_path: Path) -> None:
    lazy = da.from_array(PIXELS, chunks=(2, 64, 70))
    dataset = geoseg.segment_array(array_of(lazy), model=NotedModel(str(tmp_path)), chunk=50, probabilities=True)
    with LocalProcesses(workers=2) as cluster, Client(cluster):
        assert_same(dataset.compute(), written)
    notes = {path.name: path.read_text().count("tile") for path in tmp_path.iterdir()}
    assert len(notes) == 2
    assert str(os.getpid()) not in notes
    grid = TileGrid(height=230, width=310, tile=64, overlap=16)
    assert sum(notes.values()) == sum(bool((PIXELS[0] != 0)[tile.window.slices].any()) for tile in grid)


def test_a_package_equals_segment_and_is_loaded_once_by_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = SyntheticScene(180, 200, seed=4).read(Window(row_off=0, col_off=0, height=180, width=200))[0]
    names = SyntheticScene(1, 1).bands.names
    array = array_of(pixels, names=names)
    loads: list[str] = []

    def counted(name: str, how: Any) -> Any:
        loads.append(name)
        return geoseg.load_model(name, how)

    monkeypatch.setattr("geoseg.blocks.load_model", counted)
    monkeypatch.setattr("geoseg.models.held._held", type(geoseg.models.held._held)())
    options: dict[str, Any] = {"tile": 64, "overlap": 16, "device": "cpu"}
    dataset = geoseg.segment_array(array.chunk(band=1, y=50, x=60), chunk=64, **options)
    assert loads == []
    result = geoseg.segment(array, out=tmp_path / "run", vector=(), **options)
    with rasterio.open(result.labels) as file:
        np.testing.assert_array_equal(dataset.labels.compute().values, file.read(1))
    assert len(loads) == 1


def test_a_package_that_changed_since_the_graph_was_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = SyntheticScene(1, 1).bands.names
    array = array_of(np.full((6, 20, 20), 500, np.uint16), names=names)
    dataset = geoseg.segment_array(array, tile=64, overlap=16, device="cpu")
    monkeypatch.setattr("geoseg.models.held._held", type(geoseg.models.held._held)())
    monkeypatch.setattr("geoseg.blocks.load_model", lambda name, how: LinearModel(WEIGHTS))
    with pytest.raises(ModelError, match=r"changed since the graph was built: its digest was"):
        dataset.compute()


def test_the_graph_holds_neither_pixels_nor_model_and_grows_by_little() -> None:
    """40,000 x 40,000 pixels: 441 chunks; what is counted is all that geoseg adds to the array's own graph."""
    pixels = da.zeros((4, 40_000, 40_000), dtype=np.uint16, chunks=(4, 4096, 4096))
    dataset = geoseg.segment_array(array_of(pixels), model=LinearModel(WEIGHTS), tile=512, overlap=128)
    graph = dataset.labels.data.dask
    own = {name: layer for name, layer in graph.layers.items() if name not in pixels.dask.layers}
    tasks = {key: task for layer in own.values() for key, task in layer.items()}
    chunks = sum(1 for key in tasks if isinstance(key, tuple) and str(key[0]).startswith("geoseg-chunk"))
    assert chunks == 21**2
    assert len(pickle.dumps(tasks)) < 10_000 + 1_000 * chunks
    work = next(value for key, value in tasks.items() if isinstance(key, str))
    assert len(pickle.dumps(work)) < 10_000


def test_blocks_suit_zarr() -> None:
    """All blocks are alike but the last, which is no larger; also where the last chunk reaches beyond its strides."""
    for side in (1, 100, 144, 145, 160, 161, 300):
        array = array_of(np.ones((4, side, side), np.uint16))
        dataset = geoseg.segment_array(array, model=LinearModel(WEIGHTS), chunk=144)
        for sizes in dataset.labels.chunks or ():
            assert sum(sizes) == side
            assert len(set(sizes[:-1])) <= 1
            assert sizes[-1] <= sizes[0]


@pytest.mark.parametrize(
    "geobox",
    [
        geobox_of(60, 50),
        GeoBox((60, 50), geobox_of(1, 1).transform @ geobox_of(1, 1).transform.rotation(30), "EPSG:32632"),
        GeoBox.from_bbox((10, 49.4, 10.5, 50), "EPSG:4326", resolution=0.01),
    ],
    ids=["north-up", "rotated", "degrees"],
)
def test_coordinates_classes_and_nodata_are_known_to_others(geobox: GeoBox) -> None:
    import rioxarray  # noqa: F401 - registers .rio

    array = array_of(PIXELS[:, :60, :50], geobox).assign_coords(time=np.datetime64("2024-05-01", "ns"))
    dataset = geoseg.segment_array(array, model=LinearModel(WEIGHTS), probabilities=True)
    for name, raster in dataset.data_vars.items():
        assert raster.odc.geobox.shape == geobox.shape
        assert raster.odc.geobox.crs == geobox.crs
        assert tuple(raster.odc.geobox.transform) == pytest.approx(tuple(geobox.transform))
        assert raster.rio.crs == rasterio.crs.CRS.from_user_input(str(geobox.crs))
        assert raster.rio.nodata == 255 if name == "labels" else np.isnan(raster.rio.nodata)
        assert raster.time == array.time
    for dim in array.dims[1:]:
        assert dataset[dim].identical(array[dim])
    assert dataset.labels.dims == array.dims[1:]
    assert dataset["class"].values.tolist() == ["class-0", "class-1", "class-2"]
    assert dataset.labels.attrs["flag_values"].tolist() == [0, 1, 2]
    assert dataset.labels.attrs["flag_meanings"].split() == ["class-0", "class-1", "class-2"]
    assert dataset.labels.attrs["flag_colors"].split() == ["#808080"] * 3
    assert dataset.labels.dtype == np.uint8
    assert dataset.confidence.dtype == dataset.probabilities.dtype == np.float32
    assert dataset.attrs == {"model": "fake-linear", "tile": 64, "overlap": 16, "blend": "ramp"}


@pytest.mark.parametrize("kind", ["zarr", "h5netcdf"])
def test_files_of_others_take_the_dataset_and_give_it_back(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(kind)
    dataset = geoseg.segment_array(
        array_of(da.from_array(PIXELS, chunks=99)), model=LinearModel(WEIGHTS), chunk=90, probabilities=True
    )
    path = tmp_path / f"map.{kind}"
    options: dict[str, Any]
    if kind == "zarr":
        options = {"engine": "zarr", "consolidated": False}
        dataset.to_zarr(path, zarr_format=2, consolidated=False)
    else:
        options = {"engine": "h5netcdf"}
        dataset.to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, decode_coords="all", mask_and_scale=False, **options) as again:
        xr.testing.assert_equal(again.compute(), dataset.compute())
        assert again.labels.attrs["_FillValue"] == 255
        assert again.labels.odc.geobox == dataset.labels.odc.geobox


def test_arrays_of_any_kind_go_in(written: dict[str, Pixels]) -> None:
    """Numpy and Dask arrays with names, a DataArray whose bands only count, a DataArray of floats with a NaN."""
    model = LinearModel(WEIGHTS)
    plain: dict[str, Any] = {"model": model, "bands": NAMES, "scale": 1e-4, "nodata": 0, "probabilities": True}
    assert_same(geoseg.segment_array(PIXELS, **plain), written)
    assert_same(geoseg.segment_array(da.from_array(PIXELS, chunks=100), **plain), written)
    counting = array_of(PIXELS).assign_coords(band=[1, 2, 3, 4]).transpose("y", "x", "band")
    assert_same(geoseg.segment_array(counting, model=model, bands=NAMES, probabilities=True), written)
    backwards = array_of(PIXELS[::-1], names=NAMES[::-1])
    assert_same(geoseg.segment_array(backwards, model=model, probabilities=True), written)
    reflectance = np.where(PIXELS == 0, np.nan, PIXELS * np.float32(1e-4)).astype(np.float32)
    names = geoseg.segment_array(reflectance, model=model, bands=NAMES)
    np.testing.assert_array_equal(names.labels.values, written["labels"][0])


def test_what_cannot_work_is_refused_before_anything_runs() -> None:
    model = LinearModel(WEIGHTS)
    with pytest.raises(BandError, match="needs nir"):
        geoseg.segment_array(PIXELS[:3], model=model, bands=NAMES[:3])
    with pytest.raises(BandError, match="name the 4 bands"):
        geoseg.segment_array(PIXELS, model=model)
    with pytest.raises(BandError, match="names 3 bands, the array has 4"):
        geoseg.segment_array(array_of(PIXELS), model=model, bands=NAMES[:3])
    with pytest.raises(GridError, match="2 dimensions"):
        geoseg.segment_array(PIXELS[0], model=model, bands=NAMES)
    with pytest.raises(GridError, match="choose 0 to"):
        geoseg.segment_array(array_of(PIXELS), model=model, tile=64, overlap=40)
    with pytest.raises(ConfigError, match="to_array"):
        geoseg.segment_array(array_of(PIXELS).to_dataset(name="scene"), model=model)  # type: ignore[arg-type]
    assert model.tiles_run == 0


def test_errors_of_the_net_arrive_as_themselves() -> None:
    dataset = geoseg.segment_array(array_of(PIXELS), model=LinearModel(np.full((3, 4), np.nan)))
    with pytest.raises(ModelError, match=r"NaN or infinity for the tile at rows"):
        dataset.compute()


MEASURE = """
import json, sys
import dask, dask.array as da, numpy as np
import geoseg
from geoseg.testing import LinearModel
from tests.test_lazy import WEIGHTS, array_of
height = int(sys.argv[1])
def block(block_info=None):
    return np.random.default_rng(1).integers(1, 9999, block_info[None]["chunk-shape"], dtype=np.uint16)
pixels = da.map_blocks(block, chunks=((4,), (512,) * (height // 512), (512,) * 4), dtype=np.uint16)
dataset = geoseg.segment_array(array_of(pixels), model=LinearModel(WEIGHTS), tile=128, overlap=32, chunk=480)
with dask.config.set(num_workers=2):
    dataset[["labels", "confidence"]].mean().compute()
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps(int(line.split()[1]) * 1024))
"""


def _peak(height: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(height)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak: int = json.loads(done.stdout)
    return peak


def test_six_times_the_pixels_take_no_tenth_more_memory() -> None:
    small, large = _peak(1024), _peak(6144)
    assert large <= 1.10 * small, f"{large / 1e6:.0f} MB over {small / 1e6:.0f} MB"
