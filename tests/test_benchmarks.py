"""The benchmarks measure what they say: tiny sizes, and no judgement of the clock."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo.cogeo import cog_validate
from torch import Tensor, nn

import geoseg
from benchmarks import engine, gpu, nets, peers, run, scheduling, seams
from benchmarks.floor import floor_seconds
from benchmarks.measure import Bench, Figure, StageClock, interleaved
from benchmarks.scene import large_scene
from geoseg.events import ChunkDone, StageStarted
from geoseg.grid import TileGrid
from geoseg.settings import Settings
from geoseg.testing import LinearModel

CHECKOUT = Path(__file__).resolve().parent.parent
SIDE, TILE, OVERLAP = 600, 128, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.scene.PIECE", 512)
        return large_scene(folder, SIDE)


def test_a_large_scene_is_a_cog_of_real_texture_without_gaps(folder: Path, scene: Path) -> None:
    assert cog_validate(scene, quiet=True)[0]
    with rasterio.open(scene) as raster:
        pixels = raster.read()
        assert raster.descriptions == ("blue", "green", "red", "nir")
        assert raster.scales == (1e-4,) * 4
    assert pixels.shape == (4, SIDE, SIDE)
    assert pixels.min() > 0
    assert pixels.std() > 100
    np.testing.assert_array_equal(pixels[:, 512:], pixels[:, 511:423:-1])  # the piece of 512 comes again, mirrored
    before = scene.stat().st_mtime_ns
    assert large_scene(folder, SIDE).stat().st_mtime_ns == before


@pytest.mark.parametrize("name", peers.WAYS)
def test_every_peer_gives_the_labels_of_a_net_that_no_tiling_can_disturb(name: str, scene: Path) -> None:
    net = nets.pointwise()
    with rasterio.open(scene) as raster, torch.inference_mode():
        expected = net(torch.from_numpy(raster.read().astype(np.float32) * peers.SCALE)[None])[0].argmax(0).numpy()
    library = {"MONAI": "monai", "torchgeo": "torchgeo"}.get(name.partition(" ")[0])
    if library is not None:
        pytest.importorskip(library, reason="benchmark-only dependency: pip install geoseg[bench]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other projects
        found = peers.WAYS[name][0](scene, net, TILE, OVERLAP)
    assert float((found == expected).mean()) > 0.9999  # rounding may turn a tie
    assert len(np.unique(found)) >= 3


def test_geoseg_gives_the_peers_labels(scene: Path, folder: Path, tmp_path: Path) -> None:
    package = nets.pointwise_package(folder)
    clock = engine.run_once(scene, package, tmp_path / "run", tile=TILE, overlap=OVERLAP, backend="torch", batch_size=1)
    assert 0 < clock.to_parts < clock.to_rasters
    with rasterio.open(tmp_path / "run" / "labels.tif") as raster:
        labels = raster.read(1)
    assert float((labels == peers.array_way(scene, nets.pointwise(), TILE, OVERLAP)).mean()) > 0.9999


@pytest.mark.parametrize(("batch", "lanes", "tiles"), [(1, 1, 3), (2, 2, 5), (4, 1, 9)])
def test_the_floor_runs_the_tiles_and_nothing_else(batch: int, lanes: int, tiles: int) -> None:
    model = LinearModel(np.eye(3))
    seconds = floor_seconds(model, Settings(batch=batch, lanes=lanes), tile=32, tiles=tiles)
    assert seconds > 0
    assert len(model.batches) == -(-tiles // batch) + lanes  # one per lane warms up
    assert set(model.batches) == {(batch, 3, 32, 32)}


def test_a_stage_clock_hears_stages_only() -> None:
    clock = StageClock()
    clock(ChunkDone(chunk="a", seconds=1.0))
    for stage in ("predict", "assemble", "describe"):
        clock(StageStarted(stage=stage))
    assert list(clock.began) == ["predict", "assemble", "describe"]
    assert 0 <= clock.to_parts <= clock.to_rasters


def test_actions_take_turns() -> None:
    order: list[str] = []

    def action(name: str) -> float:
        order.append(name)
        return float(len(order))

    seconds = interleaved({name: partial(action, name) for name in "ab"}, 2)
    assert order == ["a", "b", "a", "b"]
    assert seconds == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


class Flat(nn.Module):
    """Scores that depend on the tile as a whole, so that seams must show."""

    def forward(self, batch: Tensor) -> Tensor:
        return torch.cat([batch[:, :1], batch.mean((2, 3), keepdim=True)[:, 1:2].expand_as(batch[:, :1]) * 20], dim=1)


def test_seams_are_found_where_they_are() -> None:
    image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    grid = TileGrid(height=96, width=96, tile=64, overlap=32)
    tapers = seams.tapers_for(grid)
    found = seams.blended(nn.Conv2d(3, 4, 1).requires_grad_(False), image, grid, tapers)
    whole = found["crop"]
    for name, probs in found.items():
        torch.testing.assert_close(probs, whole, msg=name)
        assert seams.jump(probs, whole, [48], [48]) == pytest.approx(1.0, abs=1e-3)
    smooth = nn.functional.avg_pool2d(image[None], 31, stride=1, padding=15)[0]
    tiled = seams.blended(Flat(), smooth, grid, tapers)
    inside = Flat()(smooth[None]).softmax(1)[0]
    assert seams.jump(tiled["crop"], inside, [48], [48]) > 3 > seams.jump(tiled["ramp"], inside, [48], [48])


def test_the_training_of_the_seam_net_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "TRAINING_SIDE", 150)
    path = tmp_path / "net.pt"
    first = seams.trained(path, steps=2, side=32, batch=2)
    again = seams.trained(path, steps=2)
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not any(weight.requires_grad for weight in again.parameters())


def test_what_a_gpu_machine_runs_needs_no_vector_libraries(scene: Path, folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in ('geopandas', 'pyarrow', 'pyogrio', 'pandas'): sys.modules[name] = None\n"
        "from pathlib import Path\nimport benchmarks.gpu\nscene, package, out = map(Path, sys.argv[1:])\n"
        "clock = benchmarks.gpu.run_once(scene, package, out, tile=128, overlap=32, backend='torch')\n"
        "print(clock.to_parts)"
    )
    paths = [str(scene), str(nets.pointwise_package(folder)), str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_a_gpu_too(tmp_path: Path) -> None:
    figures = gpu.on_device(tmp_path, side=512, device="cpu", precision="fp32", tile=128)
    assert len(figures) == 2
    assert all(figure.value > 0 for figure in figures)


def test_the_table_says_what_was_met(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures = [
        Figure(benchmark="engine", what="a", value=1.04, unit="x", limit=1.05),
        Figure(benchmark="peers", what="b", value=3.0, unit="x", limit=4.0, wanted=">="),
        Figure(benchmark="peers", what="c", value=2.0),
    ]
    assert [figure.met for figure in figures] == [True, False, None]
    text = run.table(figures, {"cores": "2"})
    assert "| a | 1.04 x | <= 1.05 | yes |  |" in text
    assert "| b | 3 x | >= 4 | **no** |  |" in text
    with pytest.raises(SystemExit):
        run.main(["nothing", "--out", str(tmp_path)])
    assert "no benchmark named nothing" in capsys.readouterr().err


def test_results_are_kept_from_call_to_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter((1.0, 2.0, 3.0))

    def measured(bench: object) -> list[Figure]:
        assert bench is not None
        return [Figure(benchmark=name, what="x", value=next(calls), limit=0.5)]

    for name in ("memory", "engine", "memory"):
        monkeypatch.setattr(f"benchmarks.{name}.measure", measured)
        run.main([name, "--quick", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "quick.json").read_text())
    assert [(row["benchmark"], row["value"]) for row in written["figures"]] == [("engine", 2.0), ("memory", 3.0)]
    assert {row["met"] for row in written["figures"]} == {None}  # quick sizes are not judged
    assert written["machine"]["geoseg"] == geoseg.__version__
    assert "## memory" in (tmp_path / "quick.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", run.NAMES)
def test_every_benchmark_runs_at_its_quick_size(name: str, folder: Path) -> None:
    if name == "peers":
        pytest.importorskip("monai", reason="benchmark-only dependency: pip install geoseg[bench]")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(folder), name],
        capture_output=True, text=True, check=False, cwd=CHECKOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert name == "gpu" or f"## {name}" in done.stdout


def test_jobs_without_work_take_the_way_of_all_jobs(tmp_path: Path) -> None:
    plan = scheduling.idle_plan(2000, tile=128, overlap=32, chunk=384)
    watch = scheduling.run_idle(Bench(place=tmp_path), plan)
    assert watch.finished == len(plan.chunks) + sum(bool(chunk.seam) for chunk in plan.chunks)
    assert watch.most_in_flight <= 2 * (1 + 2), "one at work and two that wait on each worker"
    assert watch.job_bytes < 1000
