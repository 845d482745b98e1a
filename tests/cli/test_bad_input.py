"""Bad input is refused in one line that names it, or is processed rightly; nothing half-made is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.transform import from_origin

from geoseg.journal import FINAL_NAMES
from tests.cli.conftest import Call

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 10.0
"""What one file may take."""
BYTES = 1 << 30
"""What one file may take beyond the libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the command line about one file ended."""

    file: Path
    code: int
    out: str
    err: str
    seconds: float
    left: tuple[str, ...]
    """Names below the output directory."""


def words_for(file: Path, model: Path, out: Path, *more: str) -> list[str]:
    """The command line about one file, whose first band stands for every band."""
    bands = "blue=1,green=1,red=1,nir=1"
    start = ["segment", str(file), "--out", str(out), "--model", str(model), "--bands", bands]
    return [*start, "--backend", "onnxruntime", "--vector", "none", *more]


def left_in(out: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in out.iterdir())) if out.is_dir() else ()


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "GEOSEG_CACHE": str(cache)}


def run_one_by_one(commands: list[tuple[Path, list[str], Path]], cache: Path) -> Iterator[Ended]:
    """Runs all in one process that may not grow by more than `BYTES`; ends it if one takes much too long."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cli.one_by_one"],
        text=True,
        cwd=CHECKOUT,
        env=environment(cache),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for file, command, out in commands:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            watchdog = threading.Timer(6 * SECONDS, process.kill)
            watchdog.start()
            answer = process.stdout.readline()
            watchdog.cancel()
            assert answer, f"{file} ended the whole process, or had to be ended after {6 * SECONDS} s"
            yield Ended(file=file, left=left_in(out), **json.loads(answer))
        process.stdin.close()


def corpus(shared: Path) -> list[Path]:
    return sorted((shared / "data" / "malformed").rglob("*.tif"))


@pytest.fixture(scope="module")
def ended(shared: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Ended]:
    """Every file of the corpus, the good one first; the wild ones are given a CRS: its absence would hide the rest."""
    folder = tmp_path_factory.mktemp("malformed")
    model = shared / "models" / "ndvi-threshold"
    good = shared / "data" / "malformed" / "derived" / "_good_reference.tif"
    files = [good, *(file for file in corpus(shared) if file != good)]
    commands = [
        (file, words_for(file, model, folder / str(number), *more), folder / str(number))
        for number, file in enumerate(files)
        for more in [("--assume-crs", "EPSG:32633") if file.parent.name == "wild" else ()]
    ]
    return {end.file: end for end in run_one_by_one(commands, cache)}


def usable(file: Path) -> np.ndarray | None:
    """Which pixels of the first band rasterio reads and neither mask nor transparency excludes; None if it cannot."""
    with contextlib.suppress(RasterioError, MemoryError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(file, driver="GTiff") as dataset:
            if dataset.width * dataset.height <= 1 << 26:
                dataset.read(1)
                bands = zip(dataset.indexes, dataset.colorinterp, strict=True)
                clear = [dataset.read(index) > 0 for index, color in bands if color is ColorInterp.alpha]
                seen: np.ndarray = np.logical_and.reduce([dataset.read_masks(1) > 0, *clear])
                return seen
    return None


def test_the_good_file_is_processed(ended: dict[Path, Ended]) -> None:
    control = next(iter(ended.values()))
    assert control.file.name == "_good_reference.tif"
    assert control.code == 0, control.err
    assert {"labels.tif", "item.json", "run.json"} <= set(control.left)


def test_every_file_is_processed_or_refused_in_one_line(ended: dict[Path, Ended]) -> None:
    for end in ended.values():
        if end.code == 0:
            assert not [line for line in end.err.splitlines() if line.startswith("geoseg: error")], end
            continue
        assert end.code in {1, 2}, end
        assert len(end.err.splitlines()) == 1, end
        assert end.err.startswith("geoseg: error: "), end
        assert end.file.name in end.err, end
        assert "Traceback" not in end.err, end
        assert "unexpected" not in end.err, end
        assert end.out == "", end


def test_nothing_stands_under_a_final_name_after_a_refusal(ended: dict[Path, Ended]) -> None:
    for end in ended.values():
        if end.code:
            assert not set(end.left) & set(FINAL_NAMES), end
            assert end.left in {(), (".run",)}, end
            assert (end.code == 1) == (end.left == (".run",)), end


def test_every_file_takes_less_than_ten_seconds(ended: dict[Path, Ended]) -> None:
    assert [end for end in list(ended.values())[1:] if end.seconds > SECONDS] == []


def test_what_is_processed_is_right_in_every_pixel(ended: dict[Path, Ended]) -> None:
    """One band in the place of all: NDVI is 0 and green equals near infrared, so every usable pixel is "other" (1)."""
    done = [end for end in ended.values() if end.code == 0]
    assert len(done) > 20
    for end in done:
        pixels = usable(end.file)
        assert pixels is not None, end
        with rasterio.open(Path(end.out.strip()).parent / "labels.tif") as labels:
            np.testing.assert_array_equal(labels.read(1), np.where(pixels, 1, 255), str(end.file))


def test_what_is_refused_is_what_rasterio_cannot_read_or_place(ended: dict[Path, Ended]) -> None:
    readable = {end.file.name for end in ended.values() if end.code and usable(end.file) is not None}
    assert readable == {"pixelscale_zero.tif", "pixelscale_nan.tif"}


AS_A_PROCESS = """
import re, sys
from geoseg.cli import run
code = run(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])  # ru_maxrss would count this test's own
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zero_bytes.tif", 2),
        ("html_403_as_tif.tif", 2),
        ("width_2_31.tif", 2),
        ("pixelscale_nan.tif", 2),
        ("spp_65535.tif", 2),
        ("one_tile_corrupt.tif", 1),
    ],
)
def test_as_a_process_of_its_own(name: str, code: int, shared: Path, cache: Path, tmp_path: Path) -> None:
    file = shared / "data" / "malformed" / "derived" / name
    out = tmp_path / "out"
    words = words_for(file, shared / "models" / "ndvi-threshold", out)
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", AS_A_PROCESS, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env=environment(cache),
        timeout=6 * SECONDS,
    )
    assert time.monotonic() - since < SECONDS * (1 if code == 2 else 2)  # torch is loaded once work begins
    assert int(done.stdout) < (300_000 if code == 2 else BYTES // 1000)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert not set(left_in(out)) & set(FINAL_NAMES)


# --- one run on one machine: the rows of the reliability page ---


def write_raster(path: Path, *, height: int = 20, width: int = 30, crs: str | None = "EPSG:32633") -> Path:
    """A small scene of four bands; the transform is a north-up one of 10 m."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(1, 4000, (4, height, width), dtype=np.uint16)
    profile = {"driver": "GTiff", "count": 4, "height": height, "width": width, "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", **profile, crs=crs, transform=from_origin(500_000, 5_000_000, 10, 10)) as dataset:
        dataset.write(pixels)
        for number, name in enumerate(("blue", "green", "red", "nir"), start=1):
            dataset.set_band_description(number, name)
    return path


@pytest.fixture
def model(shared: Path) -> Path:
    return shared / "models" / "ndvi-threshold"


def refused(ended: object, code: int, *says: str) -> None:
    """One line with every part of `says`, and the exit code."""
    from tests.cli.conftest import Called

    assert isinstance(ended, Called)
    assert ended.code == code, ended
    assert len(ended.err.splitlines()) == len(ended.error_lines) == 1, ended.err
    for part in says:
        assert part in ended.err


def test_no_crs_is_refused_and_assume_crs_mends_it(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", crs=None)
    out = tmp_path / "out"
    refused(call("segment", scene, "--model", model, "--out", out), 2, "scene.tif", "--assume-crs")
    assert not out.exists()
    assert call("segment", scene, "--model", model, "--out", out, "--assume-crs", "EPSG:32633").code == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (256, 256), (257, 257)], ids=str)
def test_any_size_works_and_stays(shape: tuple[int, int], call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", height=shape[0], width=shape[1])
    ended = call("segment", scene, "--model", model, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    with rasterio.open(tmp_path / "out" / "labels.tif") as labels, rasterio.open(scene) as before:
        assert (labels.shape, labels.transform, labels.crs) == (shape, before.transform, before.crs)


def test_a_missing_band_names_those_that_are_there(call: Call, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    refused(
        call("segment", scene, "--out", tmp_path / "out"), 2, "scene.tif", "swir16", "1 blue, 2 green, 3 red, 4 nir"
    )


def test_output_over_the_input_is_refused(call: Call, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    scene = write_raster(out / "labels.tif")
    before = scene.read_bytes()
    refused(call("segment", scene, "--model", model, "--out", out, "--overwrite"), 2, "labels.tif")
    assert scene.read_bytes() == before


def test_links_are_refused_and_their_targets_untouched(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused(call("segment", scene, "--model", model, "--out", tmp_path / "link"), 2, "symbolic link")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "real" / "labels.tif").symlink_to(victim)
    out = tmp_path / "real"
    refused(call("segment", scene, "--model", model, "--out", out, "--overwrite"), 2, "symbolic link")
    assert victim.read_text() == "mine"


def test_a_missing_parent_directory_is_refused_before_any_work(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    out = tmp_path / "no" / "out"
    refused(call("segment", scene, "--model", model, "--out", out), 2, str(out), "parent directory")


def test_an_output_that_is_a_file_is_refused(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    (tmp_path / "out").write_text("mine")
    refused(call("segment", scene, "--model", model, "--out", tmp_path / "out"), 2, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_read_only_output_is_refused(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    (tmp_path / "locked").mkdir(mode=0o500)
    out = (Path("/sys") if os.geteuid() == 0 else tmp_path / "locked") / "out"  # root may write to any other folder
    refused(call("segment", scene, "--model", model, "--out", out), 2, f"{out}: cannot be made", "choose another --out")


def test_a_finished_run_is_refused_unless_overwritten(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    words = ("segment", scene, "--model", model, "--out", tmp_path / "out")
    assert call(*words).code == 0
    before = (tmp_path / "out" / "labels.tif").read_bytes()
    refused(call(*words), 2, "labels.tif", "--overwrite")
    assert call(*words, "--overwrite").code == 0
    assert (tmp_path / "out" / "labels.tif").read_bytes() == before


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "missing", "vrt", "text"])
def test_what_is_no_raster_file_is_refused(kind: str, call: Call, model: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    if kind == "directory":
        scene.mkdir()
    elif kind == "fifo":
        os.mkfifo(scene)
    elif kind == "device":
        scene = Path("/dev/zero")
    elif kind == "vrt":
        scene.write_text("<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>")
    elif kind == "text":
        scene.write_text("not a raster\n" * 100)
    refused(call("segment", scene, "--model", model, "--out", tmp_path / "out"), 2, str(scene))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "location", ["/vsizip/a.zip/b.tif", "<VRTDataset/>", "PG:dbname=x", "ftp://host/a.tif", "a\nb"]
)
def test_locations_that_are_none_are_refused(location: str, call: Call, model: Path, tmp_path: Path) -> None:
    refused(call("segment", location, "--model", model, "--out", tmp_path / "out"), 2)


def test_an_empty_scene_gives_every_output(call: Call, model: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif")
    with rasterio.open(scene, "r+") as dataset:
        dataset.write(np.zeros((4, 20, 30), np.uint16))
    ended = call("segment", scene, "--model", model, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["counts"]["forward_passes"] == 0
    assert all(Path(document[name]).is_file() for name in ("labels", "confidence", "preview", "item", "report"))
    assert all(Path(path).is_file() for path in document["polygons"])
    with rasterio.open(document["labels"]) as labels:
        assert set(np.unique(labels.read(1))) == {255}


def test_a_damaged_block_is_left_out_only_on_request(call: Call, model: Path, shared: Path, tmp_path: Path) -> None:
    file = shared / "data" / "malformed" / "derived" / "one_tile_corrupt.tif"
    words = words_for(file, model, tmp_path / "out")
    refused(call(*words), 1, file.name, "block")
    assert left_in(tmp_path / "out") == (".run",)
    assert call(*words, "--on-bad-block", "nodata", "--restart").code == 0
    with rasterio.open(tmp_path / "out" / "labels.tif") as labels:
        assert (labels.read(1) == 255).any()
        assert (labels.read(1) != 255).any()


def test_several_scenes_with_a_bad_one_between(call: Call, model: Path, tmp_path: Path) -> None:
    first, last = write_raster(tmp_path / "a.tif"), write_raster(tmp_path / "c.tif")
    (tmp_path / "b.tif").write_bytes(b"")
    ended = call("segment", first, tmp_path / "b.tif", last, "--model", model, "--out", tmp_path / "maps")
    assert ended.code == 1
    assert ended.out.splitlines() == [f"{tmp_path}/maps/{name}/item.json" for name in "ac"]
    assert len(ended.error_lines) == 1
    assert "b.tif" in ended.error_lines[0]
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"a", "c", "catalog.json"}
