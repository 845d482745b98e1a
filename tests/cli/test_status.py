"""``geoseg status`` at the door: what it prints of one run and of several, and how it ends."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from geoseg import status as looked_at
from geoseg.cli import status as door
from geoseg.cli.status import scenes_text, status_text
from geoseg.events import ChunkDone, ChunkRetried, ClusterReady, RowDone
from geoseg.journal import RunDirectory
from geoseg.pipeline import segment
from geoseg.status import RunStatus, State, WorkerFigures, read_status
from geoseg.testing import LinearModel
from tests.buckets import Bucket
from tests.cli.conftest import Call
from tests.test_pipeline import WEIGHTS, write_tiff
from tests.test_status import at, began, journal, record

WORKERS = tuple(
    WorkerFigures(name=name, chunks=3, tiles=30, pixels=3_000_000, seconds=seconds, peak_memory=500_000_000)
    for name, seconds in (("w0", 1.0), ("w1\x1b[2J", 2.0))
)
RUNNING = RunStatus(
    out="maps/a",
    state="running",
    process=4711,
    host="node7",
    stage="predict",
    error="",
    scene="S2A",
    model="net",
    chunks=24,
    chunks_done=6,
    tiles=240,
    tiles_done=60,
    pixels=24_000_000,
    pixels_done=6_000_000,
    forward_passes=55,
    retries=1,
    part_bytes=1_500_000,
    pixels_per_second=2e6,
    seconds_left=9.0,
    last_activity=datetime.now(UTC).isoformat(timespec="milliseconds"),
    dashboard="http://10.0.0.1:8787/status",
    workers=WORKERS,
)


def test_a_run_at_work_is_told_in_full() -> None:
    lines = status_text(RUNNING).splitlines()
    assert lines[:9] == [
        "state           running by process 4711 on node7: predicting",
        "scene           S2A",
        "model           net",
        "tiles           60 of 240 (25 %)",
        "chunks          6 of 24 (25 %); 1.5 MB of parts",
        "forward passes  55",
        "retries         1",
        "speed           2.0 Mpx/s, 9.0 s left",
        "dashboard       http://10.0.0.1:8787/status",
    ]
    assert lines[9].startswith(f"last activity   {RUNNING.last_activity} (")
    assert lines[10:] == [
        "worker  chunks  tiles      speed  peak memory",
        "w0           3     30  3.0 Mpx/s       500 MB",
        "w1?[2J       3     30  1.5 Mpx/s       500 MB",
    ]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (replace(RUNNING, state="interrupted", process=None), "interrupted; the same command resumes it"),
        (replace(RUNNING, state="failed", process=None, error="no space left"), "failed: no space left"),
        (replace(RUNNING, state="finished", process=None), "finished"),
        (replace(RUNNING, stage="start", host="", scene=""), "running by process 4711: start"),
    ],
    ids=lambda value: value.state if isinstance(value, RunStatus) else "",
)
def test_every_state_has_its_words(state: RunStatus, told: str) -> None:
    assert status_text(state).splitlines()[0].split(maxsplit=1)[1] == told


def test_several_runs_are_a_table() -> None:
    failed = replace(
        RUNNING, out="s3://maps/b", state="failed", error="gone", pixels_per_second=None, seconds_left=None
    )
    assert scenes_text([RUNNING, failed]).splitlines() == [
        "folder  state                    tiles      speed   left",
        "a       running       60 of 240 (25 %)  2.0 Mpx/s  9.0 s",
        "b       failed: gone  60 of 240 (25 %)",
    ]


@pytest.mark.parametrize("place", ["missing", "empty", "s3"])
def test_what_is_no_run_is_wrong_usage(place: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    ended = call("status", "ftp://host/map" if place == "s3" else tmp_path / place)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.error_lines) == 1


def test_one_run_and_those_below_a_folder(call: Call, tmp_path: Path) -> None:
    journal(tmp_path / "maps" / "a", [began(), record("c", 10)])
    journal(tmp_path / "maps" / "b", [began(), {"kind": "ended", "at": at(5), "state": "failed", "error": "gone"}])
    (tmp_path / "maps" / "notes").mkdir()
    one = call("status", tmp_path / "maps" / "a")
    assert one.code == 0
    assert one.out.splitlines()[0] == "state           interrupted; the same command resumes it"
    several = call("status", tmp_path / "maps")
    assert [line.split()[:2] for line in several.out.splitlines()[1:]] == [["a", "interrupted"], ["b", "failed:"]]
    document = json.loads(call("status", tmp_path / "maps", "--json").out)
    assert [run["state"] for run in document["runs"]] == ["interrupted", "failed"]
    single = json.loads(call("status", tmp_path / "maps" / "a", "--json").out)
    assert (single["tiles_done"], single["tiles"], single["part_bytes"]) == (10, 100, 7)
    assert single["workers"] == [
        {
            "name": "w",
            "chunks": 1,
            "tiles": 10,
            "pixels": 100,
            "seconds": 10.0,
            "peak_memory": 5,
            "pixels_per_second": 10,
        }
    ]


def test_a_run_in_a_bucket_is_read_there(call: Call, bucket: Bucket) -> None:
    for name in ("a", "b"):
        directory = RunDirectory(f"{bucket.url}/maps/{name}")
        totals = {"scene": name, "chunks": 2, "tiles": 20, "pixels": 200}
        with directory.locked():
            directory.begin({"asked": {"model": {"name": "net"}}, "totals": totals})
            directory.note("began", process=os.getpid(), host="h")
            directory.accept(record("c", 0))
            if name == "a":
                at_work = json.loads(call("status", f"{bucket.url}/maps/a", "--json").out)
    assert (at_work["state"], at_work["process"], at_work["chunks_done"]) == ("running", os.getpid(), 1)
    lines = call("status", f"{bucket.url}/maps").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["a", "interrupted"], ["b", "interrupted"]]
    assert call("status", f"{bucket.url}/nothing").code == 2


@pytest.mark.parametrize(("last", "code"), [("finished", 0), ("failed", 1)])
def test_following_ends_with_the_run(
    last: State, code: int, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Looks again while it is at work; says nothing where nothing changed."""
    looks = iter([RUNNING, RUNNING, replace(RUNNING, tiles_done=61), replace(RUNNING, state=last, process=None)])
    monkeypatch.setattr(looked_at, "read_status", lambda _: next(looks))
    monkeypatch.setattr(door, "_EVERY", 0.0)
    ended = call("status", tmp_path, "--follow", "--json")
    assert ended.code == code
    assert [(json.loads(line)["state"], json.loads(line)["tiles_done"]) for line in ended.out.splitlines()] == [
        ("running", 60),
        ("running", 61),
        (last, 60),
    ]


def test_the_reference_names_every_field_that_is_written(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "watching.md").read_text()
    journal_page, status_page, log_page = page.split("\n## ")[1:4]
    pixels = np.random.default_rng(3).integers(1, 9999, (4, 60, 60), dtype=np.uint16)
    segment(
        write_tiff(tmp_path / "scene.tif", pixels), model=LinearModel(WEIGHTS), out=tmp_path / "out",
        tile=40, overlap=6, chunk=40, vector=(),
    )  # fmt: skip
    lines = RunDirectory(tmp_path / "out").lines()
    for line in lines:
        assert {f"`{name}`" for name in line} <= set(re.findall("`[a-z_]+`", journal_page)), line
    assert {line["kind"] for line in lines} >= {"chunk", "seam", "began", "stage", "ended"}
    run = read_status(RunDirectory(tmp_path / "out"))
    assert run is not None
    for name in [*run.document(), *run.document()["workers"][0]]:
        assert f"`{name}`" in status_page, name
    for event in (ChunkDone, ChunkRetried, ClusterReady, RowDone):
        for field in fields(event):
            assert f"`{field.name}`" in log_page, field.name
