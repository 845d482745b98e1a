"""``geoseg segment`` at the door: what it passes on, what it prints, and which exit code an end has."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest

from geoseg.errors import (
    BandError,
    ChunkError,
    ClusterError,
    ConfigError,
    GeosegError,
    GridError,
    MissingExtraError,
    ModelError,
    PlanError,
    SinkError,
    SourceError,
)
from geoseg.events import ChunkDone, Warned
from tests.cli.conftest import Call, FakePipeline

pytestmark = pytest.mark.usefixtures("fake")


def test_prints_the_item_on_stdout_and_the_table_on_stderr(call: Call, tmp_path: Path) -> None:
    ended = call("segment", "a.tif", "--out", tmp_path / "map")
    assert ended.code == 0
    assert ended.out == f"{tmp_path}/map/item.json\n"
    assert "Water  3,000,000  300.000  75.0 %" in ended.err
    assert "9 forward passes, 2.0 s, 2.0 Mpx/s, peak memory 750 MB" in ended.err


def test_every_option_reaches_the_pipeline(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    words = (
        "segment a.tif --model m --tile 256 --overlap 32 --blend crop --batch-size 2 --device cuda:1 --precision bf16 "
        "--backend torch --bands red=3,nir=B08.tif --scale 1e-4 --offset=-0.1 --nodata nan --bbox -3.5,40,-3,41 "
        "--aoi a.gpkg --mask m.tif --resolution 20 --crs EPSG:32630 --chunk 4096 --workers 2 --probabilities "
        "--no-confidence --vector fgb,gpkg --datetime 2024-05-17T10:20:31Z --assume-crs 32630 --on-bad-block nodata "
        "--aws-no-sign-request --overwrite --restart --connectivity 8 --min-area 500 --simplify 20 --smooth "
        "--max-vertices 9000 --stats dem.tif:mean;slope.tif:max,min --to postgresql://here/land --out"
    )
    assert call(*words.split(), tmp_path).code == 0
    asked, opened = fake.calls[0], fake.opened[0]
    for name in ("scale", "offset", "mask", "resolution", "crs", "assume_crs", "on_bad_block", "aws_no_sign_request"):
        assert opened[name] == asked[name]
    assert (opened["location"], opened["bands"], opened["band_map"]) == ("a.tif", ("red", "nir"), asked["bands"])
    assert opened["datetime"] == asked["datetime"]
    assert str(asked.pop("nodata")) == "nan"
    assert asked.pop("datetime").isoformat() == "2024-05-17T10:20:31+00:00"
    assert asked == {
        "scene": "a.tif",
        "out": tmp_path,
        "model": "m",
        "tile": 256,
        "overlap": 32,
        "blend": "crop",
        "batch_size": 2,
        "device": "cuda:1",
        "precision": "bf16",
        "backend": "torch",
        "bands": {"red": 3, "nir": "B08.tif"},
        "scale": 1e-4,
        "offset": -0.1,
        "bbox": (-3.5, 40.0, -3.0, 41.0),
        "aoi": "a.gpkg",
        "mask": "m.tif",
        "resolution": 20.0,
        "crs": "EPSG:32630",
        "chunk": 4096,
        "probabilities": True,
        "confidence": False,
        "vector": ("fgb", "gpkg"),
        "connectivity": 8,
        "min_area": 500.0,
        "simplify": 20.0,
        "smooth": True,
        "max_vertices": 9000,
        "stats": ("dem.tif:mean", "slope.tif:max,min"),
        "to": "postgresql://here/land",
        "assume_crs": "EPSG:32630",
        "on_bad_block": "nodata",
        "aws_no_sign_request": True,
        "overwrite": True,
        "restart": True,
        "skip_finished": False,
    }


def test_json_is_one_document_and_nothing_else_is_said(call: Call, tmp_path: Path) -> None:
    ended = call("segment", "https://host/a.tif?sig=secret", "--out", tmp_path, "--json")
    document = json.loads(ended.out)
    assert document["status"] == "done"
    assert document["input"] == "https://host/a.tif"
    assert document["item"] == str(tmp_path / "item.json")
    assert document["probabilities"] is None
    assert document["areas"][0] == {"value": 0, "name": "water", "title": "Water", "pixels": 3_000_000, "km2": 300.0}
    assert document["peak_memory_bytes"] == 750_000_000
    assert ended.err == ""


def test_quiet_leaves_only_the_path(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.events = (Warned(message="no date"),)
    ended = call("segment", "a.tif", "--out", tmp_path, "-q")
    assert (ended.code, ended.err) == (0, "")


def test_warnings_and_chunks_are_said_in_one_line_each(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.events = (Warned(message="no date;\n the run's is used"), ChunkDone(chunk="r0c0", seconds=1.5))
    ended = call("segment", "a.tif", "--out", tmp_path, "-v")
    assert "geoseg: warning: a.tif: no date; the run's is used\n" in ended.err
    assert "geoseg: r0c0 done in 1.5 s\n" in ended.err
    assert "r0c0" not in call("segment", "a.tif", "--out", tmp_path).err


def test_nothing_moves_on_a_pipe(call: Call, tmp_path: Path) -> None:
    ended = call("segment", "a.tif", "--out", tmp_path)
    assert "\r" not in ended.err
    assert "\x1b" not in ended.err
    assert "Mpx/s" not in ended.err.replace("2.0 Mpx/s", "")


REFUSED = [
    (SourceError("a.tif: not a GeoTIFF"), 2),
    (BandError("band nir is not in a.tif"), 2),
    (GridError("overlap 300 does not fit tile 512"), 2),
    (ModelError("model m: checksum differs"), 2),
    (ConfigError("--out exists"), 2),
    (SinkError("out: read-only"), 2),
    (MissingExtraError("pip install 'geoseg[openvino]'"), 2),
    (ClusterError("tcp://a:1: it has no worker"), 2),
    (PlanError("200 GB too much: --chunk"), 3),
    (PermissionError(13, "Permission denied", "a.tif"), 2),
    (MemoryError(), 1),
    (OSError(24, "Too many open files"), 1),
    (RuntimeError("a bug"), 1),
]


@pytest.mark.parametrize(("error", "code"), REFUSED, ids=lambda value: type(value).__name__)
def test_an_error_before_work_began(
    error: Exception, code: int, call: Call, fake: FakePipeline, tmp_path: Path
) -> None:
    fake.before["a.tif"] = error
    ended = call("segment", "a.tif", "--out", tmp_path)
    assert ended.code == code
    assert ended.out == ""
    assert len(ended.err.splitlines()) == len(ended.error_lines) == 1
    assert "resumes" not in ended.err


@pytest.mark.parametrize(("error", "_code"), REFUSED, ids=lambda value: type(value).__name__)
def test_any_error_after_work_began_is_1_and_says_how_to_go_on(
    error: Exception, _code: int, call: Call, fake: FakePipeline, tmp_path: Path
) -> None:
    fake.after["a.tif"] = error
    ended = call("segment", "a.tif", "--out", tmp_path)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == len(ended.error_lines) == 1
    assert ended.err.endswith(f"What is done stands in {tmp_path}; the same command resumes it.\n")


def test_a_changed_source_offers_restart_and_no_resuming(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.after["a.tif"] = SourceError("a.tif: changed since the run began (size 1, then 2); --restart begins anew")
    ended = call("segment", "a.tif", "--out", tmp_path)
    assert ended.err == "geoseg: error: a.tif: changed since the run began (size 1, then 2); --restart begins anew\n"


def test_an_error_names_its_input_once(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.before = {"d/a.tif": SourceError("/abs/d/a.tif: is empty"), "d/b.tif": GridError("no CRS")}
    assert "error: /abs/d/a.tif: is empty\n" in call("segment", "d/a.tif", "--out", tmp_path).err
    assert "error: d/b.tif: no CRS\n" in call("segment", "d/b.tif", "--out", tmp_path).err


def test_an_error_is_one_line_without_secrets_or_traceback(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    url = "https://host/a.tif?X-Amz-Signature=secret"
    fake.before[url] = SourceError(f"{url}: status 403\n  (expired)")
    ended = call("segment", url, "--out", tmp_path)
    assert ended.err == "geoseg: error: https://host/a.tif: status 403 (expired)\n"


def test_debug_shows_the_traceback(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.before["a.tif"] = SourceError("a.tif: is empty")
    ended = call("segment", "a.tif", "--out", tmp_path, "--debug")
    assert "Traceback" in ended.err
    assert len(ended.error_lines) == 1


def test_several_scenes_go_on_after_a_failing_one(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.before["b.tif"] = SourceError("b.tif: is empty")
    ended = call("segment", "a.tif", "b.tif", "c.tif", "--out", tmp_path / "maps")
    assert ended.code == 1
    assert ended.out.splitlines() == [f"{tmp_path}/maps/a/item.json", f"{tmp_path}/maps/c/item.json"]
    assert ended.error_lines == ["geoseg: error: b.tif: is empty"]
    assert ended.err.splitlines()[-4:] == [
        "geoseg: 3 scenes: 2 done, 1 failed",
        f"  a.tif  done    {tmp_path}/maps/a",
        "  b.tif  failed  b.tif: is empty",
        f"  c.tif  done    {tmp_path}/maps/c",
    ]


def test_several_scenes_are_one_json_document(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.before["b.tif"] = PlanError("b.tif: too large")
    ended = call("segment", "a.tif", "b.tif", "--out", tmp_path / "maps", "--json")
    runs = json.loads(ended.out)["runs"]
    assert [entry["status"] for entry in runs] == ["done", "failed"]
    assert runs[1] | {"out": ""} == {
        "status": "failed",
        "input": "b.tif",
        "out": "",
        "error": "b.tif: too large",
        "exit_code": 3,
    }


def test_scenes_of_one_name_have_folders_of_their_own(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    call("segment", "x/a.tif", "y/a.tif", "x/a.tif", "z/a.tif", "--out", tmp_path / "maps")
    folders = {asked["scene"]: asked["out"].name for asked in fake.calls}
    assert folders == {"x/a.tif": "a", "y/a.tif": "a-2", "z/a.tif": "a-3"}
    assert len(fake.calls) == 3, "one that is named twice is one scene"


def test_a_scene_named_mosaic_leaves_the_mosaic_its_folder(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    call("segment", "mosaic.tif", "a.tif", "--out", tmp_path / "maps")
    assert [asked["out"].name for asked in fake.calls] == ["mosaic-2", "a"]


def test_a_file_is_one_scene_however_it_is_written(
    call: Call, fake: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.tif").touch()
    (tmp_path / "link.tif").symlink_to("x/a.tif")
    words = ["x/a.tif", tmp_path / "x" / "a.tif", "./x/../x/a.tif", "link.tif", "s3://b/x/a.tif", "s3://b/x/a.tif"]
    assert call("segment", *words, "--out", tmp_path / "maps").code == 0
    assert [opened["location"] for opened in fake.opened] == ["x/a.tif", "s3://b/x/a.tif"]


def test_what_is_no_path_at_all_is_said_by_whoever_opens_it(tmp_path: Path) -> None:
    from geoseg.cli.scenes import inputs_of
    from geoseg.config import RunConfig

    (tmp_path / "loop").symlink_to("loop")
    given = ["a\0b", str(tmp_path / "loop"), "a\0b"]
    assert [each.location for each in inputs_of(RunConfig.model_validate({"inputs": given}))] == given[:2]


def test_results_do_not_go_into_the_current_folder_for_want_of_a_name(
    call: Call, fake: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("segment", "a.tif", "-o", "")
    assert (ended.code, ended.out, len(ended.error_lines)) == (2, "", 1)
    assert "--out: is empty" in ended.err
    assert not fake.calls
    assert not list(tmp_path.iterdir())


def test_a_stac_items_folder_bears_its_id(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.ids["item.json"] = "../S2A:33UUP"
    call("segment", "item.json", "a.tif", "--out", tmp_path / "maps")
    assert [asked["out"].name for asked in fake.calls] == ["_S2A_33UUP", "a"]


def test_the_shared_folder_goes_if_nothing_was_put_into_it(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.before = {name: SourceError(f"{name}: is empty") for name in ("a.tif", "b.tif")}
    assert call("segment", "a.tif", "b.tif", "--out", tmp_path / "maps").code == 2
    assert not (tmp_path / "maps").exists()
    assert not fake.calls


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ({"a.tif": SourceError("a"), "b.tif": PlanError("b")}, {}, 2),
        ({"a.tif": PlanError("a"), "b.tif": PlanError("b")}, {}, 3),
        ({"a.tif": SourceError("a")}, {"b.tif": ChunkError("b", "b", "rows")}, 1),
        ({"a.tif": SourceError("a")}, {}, 1),
        ({}, {}, 0),
    ],
)
def test_the_exit_code_of_several_scenes(
    before: dict[str, BaseException],
    after: dict[str, BaseException],
    code: int,
    call: Call,
    fake: FakePipeline,
    tmp_path: Path,
) -> None:
    fake.before, fake.after = before, after
    assert call("segment", "a.tif", "b.tif", "--out", tmp_path / "maps").code == code


def test_the_shared_folder_needs_its_parent(call: Call, tmp_path: Path) -> None:
    ended = call("segment", "a.tif", "b.tif", "--out", tmp_path / "no" / "maps")
    assert ended.code == 2
    assert "its parent directory does not exist" in ended.error_lines[0]


def test_bands_from_files_need_no_input(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    assert call("segment", "--bands", "red=B04.tif,nir=B08.tif", "--out", tmp_path).code == 0
    assert fake.calls[0]["scene"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("segment", "a.tif"), "--out is missing"),
        (("segment", "--out", "x"), "INPUT is missing"),
        (("segment", "--bands", "red=1,nir=b.tif", "--out", "x"), "INPUT is missing"),
        (("segment", "a.tif", "--out", "x", "--tile", "0"), "--tile: should be greater than 0, not '0'"),
        (("segment", "a.tif", "--out", "x", "--blend", "max"), "--blend: should be ramp, linear, gaussian or crop"),
        (("segment", "a.tif", "--tyle", "3"), "See geoseg segment --help."),
        (("segment", "a.tif", "--tile"), "Option '--tile' requires an argument"),
        (("segmnt",), "No such command 'segmnt'"),
    ],
)
def test_wrong_usage_is_2_and_one_line(words: tuple[str, ...], says: str, call: Call, fake: FakePipeline) -> None:
    ended = call(*words)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == len(ended.error_lines) == 1
    assert says in ended.err
    assert not fake.calls


def test_messages_of_libraries_stay_off_stderr(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FakePipeline.segment

    def noisy(*args: object, **options: object) -> object:
        warnings.warn("a library warns", stacklevel=1)
        logging.getLogger("rasterio._env").error("CPLE_AppDefined")
        return plain(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakePipeline, "segment", noisy)
    ended = call("segment", "a.tif", "--out", tmp_path)
    assert "warns" not in ended.err
    assert "CPLE" not in ended.err


WAITING = textwrap.dedent(
    """
    import signal, sys, threading, time, types
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
    import geoseg, geoseg.models, geoseg.source
    from geoseg.events import StageStarted
    from geoseg.cli import main

    def predicted(scene, *, out, on_event, **options):
        if {began}:
            on_event(StageStarted(stage="predict", total_tiles=9))
        {before}
        threading.Timer(0.5, print, ["ready"], dict(flush=True)).start()
        {wait}

    sys.modules["geoseg.pipeline"] = geoseg.pipeline = types.SimpleNamespace(predicted=predicted)
    geoseg.models.read_spec = lambda model: types.SimpleNamespace(bands=())
    geoseg.source.open_scene = lambda location, **options: types.SimpleNamespace(id="a")
    main()
    """
)


def interrupted(
    number: signal.Signals, *, began: bool, before: str = "", wait: str = "time.sleep(60)"
) -> tuple[int, str, float]:
    """Exit code, standard error and seconds of a run that gets a signal while it waits."""
    script = WAITING.format(began=began, before=before, wait=wait)
    words = [sys.executable, "-c", script, "segment", "a.tif", "--out", "map"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        since = time.monotonic()
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=30)
    return process.returncode, err, time.monotonic() - since


READ_BY_NOBODY = textwrap.dedent(
    """
    import sys, types
    import geoseg, geoseg.models, geoseg.source
    from geoseg.cli import main
    from geoseg.events import Warned
    from tests.cli.conftest import FakePipeline

    fake = FakePipeline(events=(Warned(message="cloudy"),))
    sys.modules["geoseg.pipeline"] = geoseg.pipeline = types.SimpleNamespace(predicted=fake.predicted)
    geoseg.models.read_spec = lambda model: types.SimpleNamespace(bands=())
    geoseg.source.open_scene = fake.open_scene

    def made(runs, *, out, **options):
        open("mosaic-was-made", "w").close()
        return fake.segment(types.SimpleNamespace(location="mosaic"), out=out, on_event=options["on_event"])

    sys.modules["geoseg.mosaic"] = types.SimpleNamespace(make_mosaic=made)
    sys.modules["geoseg.catalog.item"] = types.SimpleNamespace(write_catalog=lambda out, items: out / "catalog.json")
    main()
    """
)


@pytest.mark.parametrize(
    ("streams", "code", "says"),
    [
        ("| true", 0, ""),
        ("| head -1", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("2>&1 | true", 0, ""),
        (">&- 2>&-", 0, ""),
        (
            "> /dev/full",
            1,
            "geoseg: error: standard output: No space left on device; what was made stands in its place",
        ),
        ("2> /dev/full", 0, ""),
    ],
)
def test_work_goes_on_where_nobody_takes_what_is_printed(streams: str, code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(READ_BY_NOBODY)
    words = f"{sys.executable} script.py segment a.tif b.tif c.tif -o maps --mosaic first"
    line = f"set -o pipefail; ( {words}; echo $? > code ) {streams}"
    places = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": places}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (tmp_path / "code").read_text().strip() == str(code), done.stderr
    assert (tmp_path / "mosaic-was-made").exists(), done.stderr
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower() or "Exception" in line]
    assert errors == ([says] if says else [])
    if "2>" not in streams:
        assert "geoseg: 3 scenes: 3 done" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_one_line(number: signal.Signals, code: int) -> None:
    assert interrupted(number, began=True)[:2] == (
        code,
        "geoseg: interrupted; the same command resumes what stands in map\n",
    )
    assert interrupted(number, began=False)[:2] == (code, "geoseg: interrupted; nothing was written\n")


HANGING = "threading.Thread(target=time.sleep, args=(60,)).start()"
LOCKED = "import ctypes; mutex, c = ctypes.create_string_buffer(64), ctypes.CDLL(None); c.pthread_mutex_lock(mutex)"
CHILD = "import subprocess; signal.signal(signal.SIGCHLD, lambda *_: None); subprocess.Popen(['sleep', '2'])"


@pytest.mark.parametrize(
    ("before", "wait"),
    [
        (LOCKED, "c.pthread_mutex_lock(mutex)"),  # inside a library: no Python handler can run
        (HANGING, "time.sleep(60)"),  # a thread hangs
        (f"{HANGING}; {CHILD}", "time.sleep(60)"),  # a thread hangs, and another signal arrives
    ],
    ids=["library", "thread", "child"],
)
def test_a_run_that_cannot_end_by_itself_is_ended_within_ten_seconds(before: str, wait: str) -> None:
    code, err, seconds = interrupted(signal.SIGTERM, began=True, before=before, wait=wait)
    assert code == 143
    assert err.splitlines() == [err.strip()]
    if before == LOCKED:  # whoever knows what stands where cannot say it
        assert err.startswith("geoseg: interrupted; the same command resumes")
    else:
        assert err == "geoseg: interrupted; the same command resumes what stands in map\n"
    assert seconds < 10


def test_every_error_class_has_an_exit_code_of_its_kind() -> None:
    named = {type(error) for error, _ in REFUSED}
    assert {cls for cls in GeosegError.__subclasses__() if cls is not ChunkError} <= named
