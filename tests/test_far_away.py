"""Scenes behind servers, from the first request to the map: each block once, the same bytes, no secret anywhere."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from geoseg.grid import ChunkGrid
from geoseg.pipeline import plan_segment, segment
from geoseg.source.remote import HEAD_BYTES
from geoseg.testing import LinearModel, write_scene
from geoseg.testing.server import Asked, Fault, RangeServer, range_server
from geoseg.types import Pixels
from geoseg.window import Window
from tests.clusters import scheduler_process, worker_processes
from tests.source.buckets import SECRET, s3_environment, s3_service
from tests.test_pipeline import WEIGHTS, write_tiff

COMPARED = ("labels.tif", "confidence.tif", "polygons.geojson")
SIGNATURE = "5ecre7s1gnature"
BANDS = ("blue", "green", "red", "nir")
BLOCK = 128
PAGE = 1 << 12
"""GDAL fetches whole pages of so many bytes."""
TILING: dict[str, Any] = {"tile": 100, "overlap": 20, "chunk": 300}
"""Tiles and chunks whose borders lie on no block's."""


# --- each block once ---


def noise(count: int) -> Pixels:
    return np.random.default_rng(7).integers(1, 9999, (count, 600, 700), dtype=np.uint16)


def layouts(folder: Path) -> dict[str, tuple[dict[str, bytes], dict[str, str]]]:
    """Files by path, and where each band is: bands of one file side by side, one after the other, or in four files."""
    tiled: dict[str, Any] = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate"}
    inside = {"blue": "2", "green": "3", "red": "4", "nir": "8"}
    names = tuple(f"b{number}" for number in range(1, 9))
    pixel = write_tiff(folder / "pixel.tif", noise(8), names, interleave="pixel", **tiled)
    band = write_tiff(folder / "band.tif", noise(8), names, interleave="band", **tiled)
    alone = {name: write_tiff(folder / f"{name}.tif", noise(1), (name,), **tiled) for name in inside}
    return {
        "side by side": ({"/pixel.tif": pixel.read_bytes()}, inside),
        "one after the other": ({"/band.tif": band.read_bytes()}, inside),
        "in files of their own": (
            {f"/{name}.tif": path.read_bytes() for name, path in alone.items()},
            {name: f"/{name}.tif" for name in inside},
        ),
    }


def stored_blocks(content: bytes, bands: Sequence[int]) -> dict[tuple[int, int], Window]:
    """(first byte, size) of every block of some bands, and its window."""
    blocks = {}
    with rasterio.MemoryFile(content) as memory, memory.open() as file:
        for band in bands:
            for (row, col), at in file.block_windows(band):
                name = f"{col}_{row}"
                offset, size = (
                    file.get_tag_item(f"BLOCK_{what}_{name}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")
                )
                window = Window(row_off=at.row_off, col_off=at.col_off, height=at.height, width=at.width)
                blocks[int(offset), int(size)] = window
    return blocks


def fetched(ranges: list[tuple[int, int]], offset: int, size: int) -> float:
    """How often a stretch of bytes was sent."""
    return sum(max(0, min(offset + size, stop) - max(offset, start)) for start, stop in ranges) / size


def assert_blocks_were_fetched_once(
    server: RangeServer, bands_of: Mapping[str, Sequence[int]], chunks: ChunkGrid
) -> None:
    """Each block of some bands of files came whole, once for each chunk that needs it, and little came beside.

    A request that goes on where another ended may bring more than any chunk asked for: GDAL makes it as long as the
    one before. What that costs is seen in the sum.
    """
    sent = needed = 0
    for path, bands in bands_of.items():
        ranges, size_of_file = server.ranges(path), len(server.files[path])
        sent += sum(stop - start for start, stop in ranges)
        ends = {stop for _, stop in ranges}
        not_ahead = [(start, stop) for start, stop in ranges if start not in ends]
        # The directory lies at both ends of such a file; blocks beside it come along when it is read.
        inner = range(HEAD_BYTES, size_of_file - HEAD_BYTES)
        for (offset, size), window in stored_blocks(server.files[path], bands).items():
            chunks_there = sum(bool(each.extent & window) for each in chunks)
            needed += size * chunks_there
            assert fetched(ranges, offset, size) >= 1, "what is needed is fetched whole"
            if offset in inner and offset + size in inner:
                assert fetched(not_ahead, offset, size) * size <= chunks_there * (size + 2 * PAGE), (path, window)
    assert sent <= 1.1 * needed


@pytest.mark.parametrize(
    ("layout", "workers"),
    [("side by side", 1), ("one after the other", 1), ("in files of their own", 1), ("side by side", 2)],
)
def test_each_block_is_fetched_once_per_chunk_that_needs_it(layout: str, workers: int, tmp_path: Path) -> None:
    files, places = layouts(tmp_path)[layout]
    alone = len(files) > 1
    with range_server(files) as server:
        scene = None if alone else f"{server.url}{next(iter(files))}"
        bands = {name: f"{server.url}{at}" if alone else int(at) for name, at in places.items()}
        options: dict[str, Any] = {"model": LinearModel(WEIGHTS), "bands": bands, "workers": workers, "vector": ()}
        chunks = plan_segment(scene, **options, **TILING).chunks
        assert len(chunks) > 4
        server.asked.clear()
        segment(scene, out=tmp_path / "out", **options, **TILING)
        inside = dict.fromkeys(files, [1] if alone else [int(at) for at in places.values()])
        assert_blocks_were_fetched_once(server, inside, chunks)


# --- through the command line, on two worker processes ---


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """A scene in small blocks, so that there is much to ask for, and a mask of it; the same as a COG."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "cog").mkdir()
    write_scene(folder / "large.tif", 500, 600, seed=3)
    copy(folder / "large.tif", folder / "scene.tif", driver="GTiff", tiled=True, blockxsize=64, blockysize=64)
    copy(folder / "large.tif", folder / "cog" / "scene.tif", driver="COG", blocksize=BLOCK, compress="deflate")
    with rasterio.open(folder / "scene.tif") as scene:
        profile = {"driver": "GTiff", "crs": scene.crs, "transform": scene.transform, "width": 600, "height": 500}
    with rasterio.open(folder / "mask.tif", "w", count=1, dtype="uint8", **profile) as mask:
        mask.write(np.ones((1, 100, 100), np.uint8), window=((50, 150), (60, 160)))
    mask_bytes = (folder / "mask.tif").read_bytes()
    scenes = {f"/{name}": (folder / name).read_bytes() for name in ("scene.tif", "cog/scene.tif")}
    return scenes | {"/mask.tif": mask_bytes, "/cog/mask.tif": mask_bytes}


@pytest.fixture
def server(files: Mapping[str, bytes]) -> Iterator[RangeServer]:
    with range_server(files) as running:
        yield running


def words(place: str, query: str, out: Path, *more: str) -> list[str]:
    """The command line about the scene and the mask that are at `place`."""
    return [
        *(sys.executable, "-m", "geoseg", "segment", f"{place}/scene.tif{query}", "--mask", f"{place}/mask.tif{query}"),
        *("--out", str(out), "--tile", "128", "--overlap", "32", "--chunk", "300", *more),
    ]


def called(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED}


@pytest.fixture(scope="module")
def local(files: Mapping[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the scene gives as a local file, with one worker."""
    folder = tmp_path_factory.mktemp("local")
    for name, content in files.items():
        (folder / name[1:]).parent.mkdir(exist_ok=True)
        (folder / name[1:]).write_bytes(content)
    done = called(words(str(folder), "", folder / "out"))
    assert done.returncode == 0, done.stderr
    return digests(folder / "out")


def signed(answer: Callable[[Asked], Fault | None]) -> Callable[[Asked], Fault | None]:
    return lambda asked: answer(asked) if SIGNATURE in asked.query else Fault(status=403)


def assert_nowhere(secret: str, out: Path, *texts: str) -> None:
    """No file of a run, and nothing that it said, holds the secret."""
    for path in [path for path in out.rglob("*") if path.is_file()]:
        assert secret.encode() not in path.read_bytes(), path
    assert not [text for text in texts if secret in text]


def misbehaves(asked: Asked) -> Fault | None:
    """A different trouble with every fourth request."""
    faults = (
        Fault(status=503),
        Fault(reset=True),
        Fault(short=True),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=502),
        Fault(delay=0.3),
    )
    return faults[asked.number // 4 % len(faults)] if asked.number % 4 == 2 else None


def stalls_once(answer: Callable[[Asked], Fault | None]) -> Callable[[Asked], Fault | None]:
    """Leaves one request for pixels without its bytes, too."""
    left = [Fault(stall=True)]
    return lambda asked: left.pop() if left and (asked.start or 0) > HEAD_BYTES else answer(asked)


def killed_halfway(command: list[str], out: Path) -> str:
    """Kills the whole group once two pieces are finished; what it had said."""
    journal = out / ".run" / "journal.jsonl"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        return process.stdout.read() if process.stdout else ""


def test_a_signed_url_on_two_workers_killed_and_resumed(
    server: RangeServer, local: dict[str, str], tmp_path: Path
) -> None:
    """Against a server that misbehaves, and with a new signature: the local file's bytes, and the signature nowhere."""
    out = tmp_path / "out"
    command = words(server.url, f"?sig={SIGNATURE}", out, "--workers", "2", "--verbose")
    server.fault = signed(lambda asked: misbehaves(asked) or Fault(delay=0.2))
    said = killed_halfway(command, out)
    assert_nowhere(SIGNATURE, out, said)
    server.fault = signed(stalls_once(misbehaves))
    done = called(words(server.url, f"?sig={SIGNATURE}-renewed", out, "--workers", "2", "--verbose"))
    assert done.returncode == 0, done.stderr
    assert_nowhere(SIGNATURE, out, done.stdout, done.stderr)
    assert digests(out) == local


def later(fault: Fault, after: int = 30) -> Callable[[Asked], Fault | None]:
    """All goes well until the scene is being read."""
    return lambda asked: fault if asked.number > after and asked.path == "/scene.tif" else None


@pytest.mark.parametrize(
    ("answer", "code", "words_said"),
    [
        (lambda _: Fault(status=404), 2, "answers 404"),
        (lambda _: Fault(whole=True), 2, "gives no byte ranges"),
        (later(Fault(status=403)), 1, "answers 403"),
        (later(Fault(whole=True)), 1, "gives no byte ranges"),
    ],
    ids=["404", "no ranges", "403 while it is read", "no ranges while it is read"],
)
def test_a_server_that_says_no_ends_in_one_line(
    server: RangeServer, answer: Callable[[Asked], Fault | None], code: int, words_said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server.fault = answer
    done = called(words(server.url, f"?sig={SIGNATURE}", out))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("geoseg: error: ")]
    assert len(errors) == 1, done.stderr
    assert f"{server.url}/scene.tif: the server {words_said}" in errors[0]
    assert ("resumes" in errors[0]) == (code == 1)
    assert not (out / "labels.tif").exists()
    assert_nowhere(SIGNATURE, tmp_path, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 30], ids=["at once", "while it is read"])
def test_a_body_that_stalls_ends_within_a_minute(server: RangeServer, after: int, tmp_path: Path) -> None:
    """With the waits that users get, and on two workers."""
    server.fault = later(Fault(stall=True), after)
    began = time.monotonic()
    done = called(words(server.url, "", tmp_path / "out", "--workers", "2"))
    from_fault = time.monotonic() - began
    assert done.returncode == (1 if after else 2), done.stderr
    assert "the server stalled for 8 s" in done.stderr
    assert from_fault < 60 + 60, "a minute of patience, and what starting processes may take"


@pytest.mark.parametrize("moment", ["between start and resume", "while it is read"])
def test_a_scene_that_changes_is_never_mixed(server: RangeServer, moment: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = server.etag("/scene.tif")
    changed = bytearray(server.files["/scene.tif"])
    changed[-9] ^= 1

    def turn(asked: Asked) -> Fault | None:
        if asked.number > 30:
            server.files["/scene.tif"] = bytes(changed)
        return None

    if moment == "while it is read":
        server.fault = turn
    else:
        server.fault = lambda asked: misbehaves(asked) or Fault(delay=0.2)
        killed_halfway(words(server.url, "", out), out)
        server.files["/scene.tif"] = bytes(changed)
        server.fault = lambda _: None
    done = called(words(server.url, "", out))
    assert done.returncode == 1, done.stderr
    after = server.etag("/scene.tif")
    assert before != after
    assert before.strip('"') in done.stderr
    assert after.strip('"') in done.stderr
    assert "--restart" in done.stderr
    assert not (out / "labels.tif").exists()


def chunks_of(scene: Path) -> ChunkGrid:
    """What the command line makes of a scene."""
    return plan_segment(scene, tile=128, overlap=32, chunk=300).chunks


def test_a_cog_through_the_command_line_costs_each_block_once(
    files: Mapping[str, bytes], server: RangeServer, local: dict[str, str], tmp_path: Path
) -> None:
    """On two workers: no overview is read, and the bytes are those of the local file."""
    out = tmp_path / "out"
    done = called(words(f"{server.url}/cog", "", out, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert digests(out) == local
    (tmp_path / "scene.tif").write_bytes(files["/cog/scene.tif"])
    assert_blocks_were_fetched_once(server, {"/cog/scene.tif": range(1, 7)}, chunks_of(tmp_path / "scene.tif"))


def test_keys_and_signatures_reach_the_workers_of_a_cluster_and_no_log(
    files: Mapping[str, bytes], local: dict[str, str], tmp_path: Path
) -> None:
    """A bucket's scene with a signed mask, on workers that were started without either secret."""
    out, loud = tmp_path / "out", {"DASK_LOGGING__DISTRIBUTED": "info", "AWS_EC2_METADATA_DISABLED": "true"}
    with (
        scheduler_process(tmp_path, env=loud),
        worker_processes(tmp_path, "--workers", "2", env=loud),
        range_server({f"/scenes{name}": content for name, content in files.items()}) as server,
        s3_environment(server.url),
    ):
        server.fault = lambda asked: None if signed_by_key(asked) or SIGNATURE in asked.query else Fault(status=403)
        command = words("s3://scenes", "", out, "--scheduler-file", str(tmp_path / "scheduler.json"), "--verbose")
        command[command.index("s3://scenes/mask.tif")] = f"{server.url}/scenes/mask.tif?sig={SIGNATURE}"
        done = called(command)
        assert done.returncode == 0, done.stderr
        askers = {asked.headers["user-agent"].split("/")[0] for asked in server.asked if signed_by_key(asked)}
        (tmp_path / "scene.tif").write_bytes(files["/scene.tif"])
        assert_blocks_were_fetched_once(server, {"/scenes/scene.tif": range(1, 7)}, chunks_of(tmp_path / "scene.tif"))
    assert {"Boto3", "GDAL"} <= askers
    assert digests(out) == local
    assert "Receive client connection" in (tmp_path / "scheduler.log").read_text(), "it says what it does"
    assert "at work" in (tmp_path / "workers.log").read_text()
    for secret in (SECRET, SIGNATURE, "AKIDEXAMPLE"):
        assert_nowhere(secret, tmp_path, done.stdout, done.stderr)


def signed_by_key(asked: Asked) -> bool:
    return asked.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


def test_a_bucket_on_two_workers(files: Mapping[str, bytes], local: dict[str, str], tmp_path: Path) -> None:
    """The bytes of the local file, and the key nowhere."""
    with s3_service() as (client, _):
        client.create_bucket(Bucket="scenes")
        for name, content in files.items():
            client.put_object(Bucket="scenes", Key=name[1:], Body=content)
        done = called(words("s3://scenes", "", tmp_path / "out", "--workers", "2", "--verbose"))
        assert done.returncode == 0, done.stderr
        missing = called(words("s3://scenes/none", "", tmp_path / "none"))
    assert digests(tmp_path / "out") == local
    assert_nowhere(SECRET, tmp_path, done.stdout, done.stderr, missing.stderr)
    assert missing.returncode == 2
    assert re.findall("geoseg: error: .*", missing.stderr) == missing.stderr.splitlines()[-1:]
    assert "s3://scenes/none/scene.tif: the server answers 404" in missing.stderr
