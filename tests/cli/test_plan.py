"""``geoseg plan`` at the door: what it prints, and when it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geoseg.errors import PlanError, SourceError
from tests.cli.conftest import Call, FakePipeline

pytestmark = pytest.mark.usefixtures("fake")


def test_prints_everything_that_a_person_decides_by(call: Call) -> None:
    ended = call("plan", "a.tif")
    assert ended.code == 0
    assert ended.err == ""
    for line in (
        "scene           scene, 1000 x 2000 pixels",
        "model           toy (abcabcabcabc)",
        "tiles           15 of 512 x 512, overlap 128, blend ramp",
        "forward passes  at most 15, one per tile; tiles without a usable pixel cost none",
        "exactness       as exact as it gets",
        "chunks          6 of up to 2 x 2 tiles (896 x 896 pixels); 3.0 MB of sums are exchanged",
        "runs on         cpu with torch in fp32; 1 worker x 1 lane x 2 threads, batch 1",
        "to read         16 MB",
        "to write        about 5.0 MB",
        "peak memory     about 400 MB per worker, 800 MB in all",
        "time            about 1 min 15 s",
    ):
        assert line in ended.out.splitlines()


def test_json_is_one_document(call: Call) -> None:
    document = json.loads(call("plan", "a.tif", "--json").out)
    assert document["status"] == "planned"
    assert (document["tiles"], document["chunks"], document["bytes_to_read"]) == (15, 6, 16_000_000)
    assert (document["chunk_tiles"], document["seam_bytes"]) == ([2, 2], 3_000_000)
    assert (document["worker_memory_bytes"], document["peak_memory_bytes"]) == (400_000_000, 800_000_000)
    assert document["seconds"] == 75.0
    both = json.loads(call("plan", "a.tif", "b.tif", "--json").out)
    assert [plan["input"] for plan in both["plans"]] == ["a.tif", "b.tif"]


def test_no_probe_leaves_the_time_open(call: Call, fake: FakePipeline) -> None:
    assert "unknown without a probe" in call("plan", "a.tif", "--no-probe").out
    assert fake.calls[0]["probe"] is False


def test_dry_run_is_plan(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    planned = call("plan", "a.tif", "--tile", "256")
    dry = call("segment", "a.tif", "--tile", "256", "--out", tmp_path / "map", "--dry-run")
    assert (dry.code, dry.out, dry.err) == (planned.code, planned.out, planned.err)
    assert not (tmp_path / "map").exists()
    assert [asked["tile"] for asked in fake.calls] == [256, 256]
    assert [asked["out"] for asked in fake.calls] == [None, tmp_path / "map"]


def test_what_cannot_fit_is_3_with_the_knob(call: Call, fake: FakePipeline) -> None:
    fake.before["a.tif"] = PlanError("the run needs 90 GB of memory, 24 GB are free; choose a smaller --chunk")
    ended = call("plan", "a.tif")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == (
        "geoseg: error: a.tif: the run needs 90 GB of memory, 24 GB are free; choose a smaller --chunk\n"
    )


def test_bad_input_is_2_and_the_other_scenes_are_planned(call: Call, fake: FakePipeline) -> None:
    fake.before["a.tif"] = SourceError("a.tif: is empty")
    assert call("plan", "a.tif").code == 2
    ended = call("plan", "a.tif", "b.tif")
    assert ended.code == 1
    assert "to read" in ended.out
    assert ended.error_lines == ["geoseg: error: a.tif: is empty"]


def test_show_config_runs_nothing(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("overlap: 32\n")
    ended = call("segment", "a.tif", "-c", file, "--tile", "256", "--show-config")
    assert ended.code == 0
    assert "tile: 256  # command line\n" in ended.out
    assert f"overlap: 32  # {file}\n" in ended.out
    assert not fake.calls
