"""``geoseg run``: what it does once, what it leaves alone, where it goes on, and what it refuses before it begins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from geoseg.store import open_store
from geoseg.store.lock import locked
from geoseg.testing import write_scene
from tests.buckets import Bucket
from tests.cli.conftest import Call

PIPELINE = """
variables:
  scene: null
  tile: 64
  catalog: null
steps:
  cover:
    segment: {inputs: "${scene}", tile: "${tile}", vector: geojson}
  regions:
    vectorize: {inputs: "${cover.out}", simplify: 20, out: [regions.parquet, regions.fgb]}
  scores:
    evaluate: {pred: "${cover.out}", truth: "${cover.polygons}", class_column: class_name, html: scores.html}
  listed:
    publish: {runs: ["${cover.out}"], catalog: "${catalog}", view: true}
"""
STEPS = ("cover", "regions", "scores", "listed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene, a pipeline, and what that made in ``out``."""
    from geoseg.cli import run

    folder = tmp_path_factory.mktemp("made")
    write_scene(folder / "scene.tif", 96, 80)
    (folder / "p.yaml").write_text(PIPELINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["run", "p.yaml", "--out", "out", *values(folder)]) == 0
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder in which a test works, whose pipeline still reads the scene of the first."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def values(made: Path) -> list[str]:
    return ["--set", f"scene={made / 'scene.tif'}", "--set", f"catalog={made / 'catalog'}"]


def told(ended: Any) -> dict[str, Any]:
    """The steps of a document by name."""
    return {step["name"]: step for step in json.loads(ended.out)["steps"]}


def states(ended: Any) -> list[str]:
    return [step["state"] for step in told(ended).values()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


# --- what comes out ---


def test_each_step_makes_its_files_in_its_own_folder(made: Path) -> None:
    made_files = {name: {path.name for path in (made / "out" / name).iterdir()} for name in STEPS}
    assert {"labels.tif", "polygons.geojson", "item.json", "run.json"} <= made_files["cover"]
    assert made_files["regions"] == {"regions.parquet", "regions.fgb"}
    assert made_files["scores"] == {"scores.json", "scores.html"}
    assert made_files["listed"] == {"published.json", "scene-spectral-baseline.html"}
    published = json.loads((made / "out" / "listed" / "published.json").read_text())
    assert [Path(item).is_file() for item in published["items"]] == [True]
    scores = json.loads((made / "out" / "scores" / "scores.json").read_text())
    assert scores["overall"]["accuracy"] == 1


def test_the_map_is_that_of_segment(call: Call, made: Path, tmp_path: Path) -> None:
    words = ("segment", made / "scene.tif", "--tile", 64, "--vector", "geojson", "--out", tmp_path / "map")
    assert call(*words).code == 0
    for name in ("labels.tif", "confidence.tif", "polygons.geojson"):
        assert (tmp_path / "map" / name).read_bytes() == (made / "out" / "cover" / name).read_bytes()


def test_finished_steps_are_left_alone(call: Call, made: Path, place: Path) -> None:
    before = stamps(place / "out")
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--json")
    assert (ended.code, states(ended)) == (0, ["skipped"] * 4)
    after = stamps(place / "out")
    assert {name: after[name] for name in after if not name.startswith(".steps")} == {
        name: before[name] for name in before if not name.startswith(".steps")
    }


def test_the_document_tells_steps_states_outputs_and_seconds(call: Call, made: Path, place: Path) -> None:
    (place / "out" / "regions" / "regions.fgb").unlink()
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--json", "--overwrite")
    document = json.loads(ended.out)
    assert (document["pipeline"], document["out"], document["exit_code"]) == ("p.yaml", "out", 0)
    assert document["variables"]["tile"] == 64
    steps = told(ended)
    assert states(ended) == ["skipped", "done", "skipped", "skipped"]
    assert steps["cover"]["outputs"]["labels"] == "out/cover/labels.tif"
    assert steps["regions"]["outputs"] == {"out": "out/regions", "polygons": "out/regions/regions.parquet"}
    assert steps["regions"]["seconds"] > 0
    assert steps["regions"]["result"]["files"] == ["out/regions/regions.parquet", "out/regions/regions.fgb"]
    assert ended.err == ""


def test_the_state_moves_with_the_folder(call: Call, made: Path, place: Path) -> None:
    (place / "out").rename(place / "elsewhere")
    ended = call("run", "p.yaml", "-o", place / "elsewhere", *values(made), "--json")
    assert states(ended) == ["skipped"] * 4


def test_quiet_says_nothing_and_verbose_names_the_steps(call: Call, made: Path, place: Path) -> None:
    shutil.rmtree(place / "out" / "listed")
    ended = call("run", "p.yaml", "-o", "out", *values(made), "-q")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "out/listed/published.json\n"
    shutil.rmtree(place / "out" / "listed")
    ended = call("run", "p.yaml", "-o", "out", *values(made), "-v")
    assert "geoseg: step listed: publish" in ended.err.splitlines()
    assert "geoseg: cover skipped, regions skipped, scores skipped, listed done" in ended.err.splitlines()


def test_status_tells_of_the_steps(call: Call, made: Path, place: Path) -> None:
    ended = call("status", "out")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[:3] for line in ended.out.splitlines()[1:]] == [
        ["cover", "segment", "finished"],
        ["regions", "vectorize", "finished"],
        ["scores", "evaluate", "finished"],
        ["listed", "publish", "finished"],
    ]
    assert call("status", "out", "--follow").code == 0
    document = json.loads(call("status", place / "out", "--json").out)
    assert (document["state"], document["out"]) == ("finished", str(place / "out"))
    with locked(open_store(made / "out" / ".steps")):
        assert json.loads(call("status", made / "out", "--json").out)["state"] == "finished"
        record = place / "out" / ".steps" / "scores.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "begun"}))
    assert call("status", "out", "--follow").code == 1
    with locked(open_store(place / "out" / ".steps")):
        assert [step["state"] for step in json.loads(call("status", "out", "--json").out)["steps"]][2] == "running"


def test_a_pipeline_lives_in_a_bucket(call: Call, made: Path, place: Path, bucket: Bucket) -> None:
    """But for what writes to folders only, which is refused at once."""
    words = ("run", "p.yaml", "-o", bucket.url, *values(made), "--json")
    refused = call(*words)
    assert refused.code == 2
    assert "step regions: vectorize writes to folders, not to s3://" in refused.error_lines[0]
    kept = {"cover", "scores"}
    steps = {name: body for name, body in yaml.safe_load(PIPELINE)["steps"].items() if name in kept}
    steps["scores"] = {"evaluate": {"pred": "${cover.out}", "truth": "${cover.labels}"}}
    variables = {"scene": None, "tile": 64, "catalog": None}
    (place / "p.yaml").write_text(yaml.safe_dump({"variables": variables, "steps": steps}, sort_keys=False))
    ended = call(*words)
    assert (ended.code, states(ended)) == (0, ["done", "done"])
    assert told(ended)["scores"]["outputs"]["scores"] == f"{bucket.url}/scores/scores.json"
    assert states(call(*words)) == ["skipped", "skipped"]


# --- before anything is done ---


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(call: Call, made: Path, place: Path) -> None:
    ended = call("run", "p.yaml", "-o", "new", *values(made), "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["step", "verb", "state", "folder"],
        ["cover", "segment", "to", "do", "new/cover"],
        ["regions", "vectorize", "to", "do", "new/regions"],
        ["scores", "evaluate", "to", "do", "new/scores"],
        ["listed", "publish", "to", "do", "new/listed"],
    ]
    assert not (place / "new").exists()
    before = stamps(place)
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--set", "tile=32", "--overwrite", "--dry-run", "--json")
    assert [step["standing"] for step in told(ended).values()] == ["changed"] * 4
    assert states(ended) == ["waiting"] * 4
    assert stamps(place) == before


REFUSED = {
    "cover: {segment: {inputs: scene.tif, tiel: 3}}": "step cover: tiel: no such option; did you mean tile?",
    "cover: {segment: {inputs: scene.tif, tile: much}}": "step cover: tile: should be a whole number, not 'much'",
    "cover: {segment: {inputs: scene.tif, out: there}}": "step cover: out: the results of a step go to its own folder",
    "cover: {segment: {inputs: scene.tif, overwrite: true}}": "step cover: overwrite: is for the whole pipeline",
    "cover: {segment: {inputs: gone.tif}}": "step cover: inputs: gone.tif does not exist",
    "cover: {segment: {model: spectral-baseline}}": "step cover: INPUT is missing",
    "cover: {segment: {inputs: scene.tif, model: no-such}}": "step cover: no model 'no-such'",
    "cover: {segment: {inputs: scene.tif, scale: 0}}": "step cover: --scale 0 would make every pixel the same",
    "cover: {change: {inputs: [scene.tif]}}": "step cover: change compares two scenes",
    "cover: {change: {inputs: [scene.tif, scene.tif], mosaic: newest}}": "step cover: --items and --mosaic are for",
    "regions: {vectorize: {}}": "step regions: inputs: 0 maps were given",
    "regions: {vectorize: {inputs: scene.tif, out: ../a.fgb}}": "step regions: out: ../a.fgb: is the name of a file",
    "regions: {vectorize: {inputs: scene.tif, out: a.doc}}": "step regions: out: a.doc: is the name of a file",
    "regions: {vectorize: {inputs: scene.tif, out: 3}}": "step regions: out: 3: is the name of a file",
    "regions: {vectorize: {inputs: scene.tif, out: {a: b.fgb}}}": "step regions: out: {'a': 'b.fgb'}: is the name of",
    "scores: {evaluate: {pred: scene.tif}}": "step scores: Missing argument 'TRUTH'",
    "scores: {evaluate: {pred: scene.tif, truth: scene.tif, draws: -1}}": "step scores: Invalid value for '--draws'",
    "scores: {evaluate: {pred: scene.tif, truth: scene.tif, drwas: 1}}": "no such option; did you mean draws?",
    "scores: {evaluate: {pred: scene.tif, truth: scene.tif, all_touched: 1}}": "all_touched: should be true or false",
    "scores: {evaluate: {pred: scene.tif, truth: scene.tif, html: /a.html}}": "html: /a.html: is the name of a file",
    "found: {search: {bbox: '1,2,3,4'}}": "step found: name where to search, either api or catalog",
    "found: {search: {api: 'http://127.0.0.1:9', limit: 0}}": "step found: Invalid value for '--limit'",
    "found: {search: {api: 'http://127.0.0.1:9', output: a.json}}": "step found: output: the results of a step go",
    "listed: {publish: {catalog: c}}": "step listed: publish needs runs, a list of ${STEP.out}",
    "listed: {publish: {runs: [3], catalog: c}}": "step listed: publish needs runs, a list of ${STEP.out}",
    "listed: {publish: {runs: [scene.tif], catalog: c, view: yes please}}": "view is true or false",
    "listed: {publish: {runs: [gone], catalog: c}}": "step listed: runs: gone does not exist",
    "listed: {publish: {runs: [scene.tif], catalog: c, views: true}}": "step listed: views: no such option; did you",
    "a: {segment: {items: list.json}}\n  b: {vectorize: {inputs: '${a.labels}'}}": "step b: ${a.labels}: a has no "
    "labels; it has out, items",
}


@pytest.mark.parametrize(("step", "says"), REFUSED.items())
def test_wrong_steps_are_refused_before_anything_runs(call: Call, place: Path, step: str, says: str) -> None:
    (place / "list.json").write_text("{}")
    (place / "w.yaml").write_text(f"steps:\n  first: {{segment: {{inputs: scene.tif}}}}\n  {step}\n")
    ended = call("run", "w.yaml", "-o", "new")
    assert (ended.code, len(ended.error_lines), ended.out) == (2, 1, "")
    assert ended.error_lines[0].startswith("geoseg: error: w.yaml: step ")
    assert says in ended.error_lines[0]
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "tile"), "tile: write NAME=VALUE"),
        (("--set", "tile=1", "--set", "tile=2"), "tile: is given twice"),
        (("--set", "tiel=1"), "--set tiel: no such variable; did you mean tile?"),
        (("--from", "covre"), "--from covre: no such step; there are cover, regions, scores, listed"),
        (("--from", "scores", "--out", "new"), "step cover: is not finished, so --from scores cannot begin there"),
        (("-q", "-v"), "--quiet and --verbose exclude each other"),
        (("--out", "no/such/place"), "its parent directory does not exist"),
    ],
)
def test_wrong_calls_are_refused(call: Call, made: Path, place: Path, words: tuple[str, ...], says: str) -> None:
    ended = call("run", "p.yaml", "--out", "out", *values(made), *words)
    assert (ended.code, len(ended.error_lines)) == (2, 1)
    assert says in ended.error_lines[0]
    assert not (place / "new").exists()


def test_two_at_once_in_one_folder_are_refused(call: Call, made: Path, place: Path) -> None:
    with locked(open_store(place / "out" / ".steps")):
        ended = call("run", "p.yaml", "-o", "out", *values(made))
    assert ended.code == 2
    assert "is at work here" in ended.error_lines[0]


SWITCHES = """
variables: {scene: null, catalog: null, more: true}
steps:
  cover:
    segment: {inputs: "${scene}", vector: geojson}
  scores:
    evaluate: {pred: "${cover.out}", truth: "${cover.polygons}", class_column: class_name, all_touched: "${more}"}
  listed:
    publish: {runs: ["${cover.out}"], catalog: "${catalog}", view: "${more}"}
"""


def test_a_switch_is_set_by_a_variable_as_by_the_file(call: Call, made: Path, place: Path) -> None:
    (place / "p.yaml").write_text(SWITCHES)
    words = ("run", "p.yaml", "-o", "new", *values(made), "--json")
    assert states(call(*words)) == ["done"] * 3
    pages = list((place / "new" / "listed").glob("*.html"))
    assert len(pages) == 1
    assert states(call(*words, "--set", "more=true")) == ["skipped"] * 3, "the text means the same"
    ended = call(*words, "--set", "more=False", "--overwrite")
    assert (ended.code, states(ended)) == (0, ["skipped", "done", "done"])
    refused = call(*words, "--set", "more=maybe")
    assert refused.code == 2
    assert "step scores: all_touched: should be true or false, not 'maybe'" in refused.error_lines[0]


# --- what changed ---


def test_changed_options_are_refused_or_done_again_with_all_that_follows(call: Call, made: Path, place: Path) -> None:
    before = files(place / "out")
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--set", "tile=32")
    assert ended.code == 2
    assert "step cover: is finished, but not as it is asked for now (options.tile: 64 became 32)" in ended.err
    assert "--overwrite does it again" in ended.err
    assert files(place / "out") == before
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--set", "tile=32", "--overwrite", "--json")
    assert (ended.code, states(ended)) == (0, ["done"] * 4)
    assert json.loads((place / "out/cover/.run/finished.json").read_text())["asked"]["options"]["tile"] == 32
    assert states(call("run", "p.yaml", "-o", "out", *values(made), "--set", "tile=32", "--json")) == ["skipped"] * 4


def test_only_what_needs_a_changed_step_follows(call: Call, made: Path, place: Path) -> None:
    (place / "p.yaml").write_text(PIPELINE.replace("simplify: 20", "simplify: 30"))
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--overwrite", "--json")
    assert states(ended) == ["skipped", "done", "skipped", "skipped"]


def test_a_changed_scene_is_noticed(call: Call, place: Path) -> None:
    words = ("run", "p.yaml", "-o", "new", "--set", "scene=scene.tif", "--set", "catalog=catalog")
    assert call(*words).code == 0
    write_scene(place / "scene.tif", 96, 80, seed=1)
    ended = call(*words)
    assert ended.code == 2
    assert f"step cover: is finished, but not as it is asked for now ({place / 'scene.tif'} is another" in ended.err
    assert states(call(*words, "--overwrite", "--json")) == ["done"] * 4


def test_where_the_work_is_done_changes_nothing(call: Call, made: Path, place: Path) -> None:
    (place / "p.yaml").write_text(PIPELINE.replace("vector: geojson", "vector: geojson, workers: 2"))
    assert states(call("run", "p.yaml", "-o", "out", *values(made), "--json")) == ["skipped"] * 4


def test_from_a_step_on_all_is_done_again(call: Call, made: Path, place: Path) -> None:
    before = stamps(place / "out")
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--from", "regions", "--json")
    assert states(ended) == ["skipped", "done", "done", "done"]
    after = stamps(place / "out")
    assert after["cover/labels.tif"] == before["cover/labels.tif"]
    assert after["regions/regions.fgb"] != before["regions/regions.fgb"]
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--from", "cover", "--json")
    assert states(ended) == ["done"] * 4
    assert stamps(place / "out")["cover/labels.tif"] != after["cover/labels.tif"]


def test_what_was_removed_is_made_again(call: Call, made: Path, place: Path) -> None:
    whole = (place / "out/cover/labels.tif").read_bytes()
    (place / "out/cover/labels.tif").unlink()
    assert call("run", "p.yaml", "-o", "out", *values(made)).code == 2
    ended = call("run", "p.yaml", "-o", "out", *values(made), "--overwrite", "--json")
    assert states(ended) == ["done"] * 4
    assert (place / "out/cover/labels.tif").read_bytes() == whole


# --- what fails, and what dies ---


def test_a_failed_check_ends_the_pipeline_with_its_code(call: Call, made: Path, place: Path) -> None:
    (place / "p.yaml").write_text(PIPELINE.replace("html: scores.html", "fail_under: miou=1.5"))
    ended = call("run", "p.yaml", "-o", "new", *values(made), "--json")
    assert (ended.code, states(ended)) == (4, ["done", "done", "failed", "waiting"])
    assert ended.err.splitlines()[-1] == "geoseg: step scores failed; the same command goes on there"
    assert not (place / "new" / "listed").exists()
    (place / "p.yaml").write_text(PIPELINE)
    ended = call("run", "p.yaml", "-o", "new", *values(made), "--json")
    assert (ended.code, states(ended)) == (0, ["skipped", "skipped", "done", "done"])


def test_a_run_that_fails_says_it_once_and_as_segment_does(call: Call, place: Path) -> None:
    (place / "scene.tif").write_bytes(b"no raster")
    ended = call("run", "p.yaml", "-o", "new", "--set", "scene=scene.tif", "--set", "catalog=catalog", "--json")
    segmented = call("segment", "scene.tif", "--out", place / "map")
    assert (ended.code, states(ended)) == (segmented.code, ["failed", "waiting", "waiting", "waiting"])
    assert ended.error_lines == segmented.error_lines
    assert "scene.tif" in told(ended)["cover"]["error"]


def test_a_step_that_raises_fails_alone(call: Call, made: Path, place: Path) -> None:
    (place / "catalog" / "catalog.json").write_text("[]")
    ended = call("run", "p.yaml", "-o", "new", "--set", f"scene={made / 'scene.tif'}", "--set", "catalog=catalog")
    assert ended.code == 2
    assert ended.error_lines[0].startswith("geoseg: error: ")
    assert "catalog.json" in ended.error_lines[0]
    assert "listed failed" in ended.err.splitlines()[-1]


KILLED = """
variables: {scene: null}
steps:
  first: {segment: {inputs: "${scene}", vector: none}}
  second: {segment: {inputs: "${scene}", tile: 64, overlap: 16, chunk: 128, vector: geojson}}
  third: {vectorize: {inputs: "${second.labels}", out: regions.geojson}}
"""


def test_killed_in_the_middle_of_a_step_it_goes_on_there(call: Call, tmp_path: Path) -> None:
    """Same bytes as if nothing had happened; what was finished is not touched."""
    write_scene(tmp_path / "scene.tif", 480, 400)
    (tmp_path / "p.yaml").write_text(KILLED)
    words = ["run", str(tmp_path / "p.yaml"), "--set", f"scene={tmp_path / 'scene.tif'}", "--out"]
    journal = tmp_path / "out" / "second" / ".run" / "journal.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "geoseg", *words, str(tmp_path / "out")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b'"files"') >= 3):
            time.sleep(0.01)
        assert process.poll() is None, "the pipeline ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    done = {line for line in journal.read_text().splitlines() if '"files"' in line}
    assert not (tmp_path / "out" / "second" / "labels.tif").exists()
    before = stamps(tmp_path / "out" / "first")
    status = json.loads(call("status", tmp_path / "out", "--json").out)
    assert [step["state"] for step in status["steps"]] == ["finished", "interrupted", "waiting"]
    planned = call(*words, tmp_path / "out", "--dry-run", "--json")
    assert [step["standing"] for step in told(planned).values()] == ["finished", "begun", "new"]
    ended = call(*words, tmp_path / "out", "--json")
    assert (ended.code, states(ended)) == (0, ["skipped", "done", "done"])
    assert done <= set(journal.read_text().splitlines()), "what was done was not done again"
    assert stamps(tmp_path / "out" / "first") == before
    assert call(*words, tmp_path / "whole").code == 0
    for name in ("second/labels.tif", "second/confidence.tif", "second/polygons.geojson", "third/regions.geojson"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupted_it_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", 480, 400)
    (tmp_path / "p.yaml").write_text(KILLED)
    words = ["run", "p.yaml", "--set", "scene=scene.tif", "--out", "out"]
    journal = tmp_path / "out" / "second" / ".run" / "journal.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "geoseg", *words], stderr=subprocess.PIPE, cwd=tmp_path, text=True
    ) as process:
        while process.poll() is None and not (journal.exists() and b'"files"' in journal.read_bytes()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert said.splitlines()[-1] == "geoseg: step second interrupted; the same command goes on there"


def test_another_request_after_a_kill_is_refused_until_restart(call: Call, made: Path, place: Path) -> None:
    """A run that was begun is of one request, as in geoseg segment."""
    run = place / "out" / "cover" / ".run"
    (run / "finished.json").rename(run / "request.json")  # as if it had not come to its end
    record = place / "out" / ".steps" / "cover.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "begun", "replaces": True}))
    words = ("run", "p.yaml", "-o", "out", *values(made), "--set", "tile=32", "--overwrite")
    ended = call(*words)
    assert ended.code == 2
    assert "holds an unfinished run of another request" in ended.error_lines[0]
    ended = call(*words, "--restart", "--json")
    assert (ended.code, states(ended)) == (0, ["done"] * 4)
