"""Records of steps: when a step counts as finished, and what its inputs are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from geoseg.step_record import Record, StepRecords, fingerprints, plain, read_steps, runs_in
from tests.runs import make_run

ASKED = {"verb": "vectorize", "options": {"inputs": ["a.tif"], "simplify": 20}, "steps": {"cover": "1f"}}


@pytest.fixture
def records(tmp_path: Path) -> StepRecords:
    """Of a pipeline with one step that is finished, made of one file."""
    found = StepRecords(tmp_path / "out")
    (tmp_path / "a.tif").write_bytes(b"a")
    with found.locked():
        found.note_order({"cover": "segment", "regions": "vectorize"})
        (tmp_path / "out" / "regions").mkdir()
        (tmp_path / "out" / "regions" / "a.fgb").write_bytes(b"")
        begun = Record(state="begun", asked=ASKED, inputs=found.inputs_in({"inputs": [str(tmp_path / "a.tif")]}))
        found.put("regions", begun)
        place = tmp_path / "out" / "regions"
        found.finish("regions", begun, folder=place, files=[str(place / "a.fgb")], seconds=1.23456)
    return found


def test_a_record_comes_back_as_it_was_put(records: StepRecords) -> None:
    record = records.of("regions")
    assert record is not None
    assert (record.state, record.seconds, record.files) == ("finished", 1.235, ["regions/a.fgb"])
    assert record.changes(ASKED) == []
    assert records.gone(record) == []
    assert records.of("cover") is None


def test_each_finish_is_told_from_the_one_before(records: StepRecords, tmp_path: Path) -> None:
    first = records.of("regions")
    assert first is not None
    again = records.finish("regions", first, folder=tmp_path / "out/regions", files=[], seconds=1)
    assert len(again.made) == len(first.made) == 16
    assert again.made != first.made


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({**ASKED, "options": {"inputs": ["a.tif"]}}, "options.simplify: 20 became null"),
        ({**ASKED, "options": {"inputs": ["b.tif"], "simplify": 20}}, 'options.inputs: ["a.tif"] became ["b.tif"]'),
        ({**ASKED, "steps": {"cover": "2f"}}, 'steps.cover: "1f" became "2f"'),
    ],
)
def test_what_is_asked_otherwise_is_told(records: StepRecords, asked: dict[str, object], says: str) -> None:
    record = records.of("regions")
    assert record is not None
    assert record.changes(asked) == [says]


def test_inputs_that_changed_or_went_are_told(records: StepRecords, tmp_path: Path) -> None:
    record = records.of("regions")
    assert record is not None
    file = tmp_path / "a.tif"
    os.utime(file, ns=(1, 1))
    assert record.changes(ASKED) == [f"{file} is another file now"]
    file.unlink()
    assert record.changes(ASKED) == [f"{file} is another file now"]


def test_what_was_made_and_is_gone_is_told(records: StepRecords, tmp_path: Path) -> None:
    record = records.of("regions")
    assert record is not None
    (tmp_path / "out/regions/a.fgb").unlink()
    assert records.gone(record) == ["regions/a.fgb"]


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"unknown": 1}'])
def test_a_record_that_is_none_counts_as_not_begun(records: StepRecords, tmp_path: Path, torn: str) -> None:
    (tmp_path / "out/.steps/regions.json").write_text(torn)
    assert records.of("regions") is None


def test_inputs_are_files_of_this_machine_that_no_step_has_made(tmp_path: Path) -> None:
    for name in ("aoi.json", "scl.tif"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_bytes(b"{}")
    (tmp_path / "out" / "cover").mkdir(parents=True)
    options = {
        "aoi": str(tmp_path / "aoi.json"),
        "mask": f"{tmp_path / 'scl.tif'}:3,8",
        "inputs": ["https://example.org/a.tif", str(tmp_path / "gone.tif"), str(tmp_path / "out" / "cover")],
        "model": str(tmp_path / "model"),
        "tile": 512,
    }
    found = StepRecords(tmp_path / "out").inputs_in(options)
    assert {Path(place).name for place in found} == {"aoi.json", "scl.tif", "model"}
    assert found[str(tmp_path / "model")].startswith("model.json: size 2, modified ")
    assert fingerprints([str(tmp_path / "gone.tif")]) == {str(tmp_path / "gone.tif"): ""}


def test_the_runs_in_a_folder_are_its_own_or_those_below(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "many" / name)
    (tmp_path / "many" / ".hidden").mkdir()
    (tmp_path / "many" / "other").mkdir()
    assert runs_in(tmp_path / "many") == [tmp_path / "many" / "a", tmp_path / "many" / "b"]
    assert runs_in(tmp_path / "many" / "a") == [tmp_path / "many" / "a"]
    assert runs_in(tmp_path / "none") == []


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    options = {"inputs": ["https://example.org/a.tif?sig=abc"], "bands": {"red": "s3://b/r.tif"}, "tile": 2}
    assert plain(options) == {"inputs": ["https://example.org/a.tif"], "bands": {"red": "s3://b/r.tif"}, "tile": 2}
    assert not list(tmp_path.iterdir())


def test_the_status_is_read_without_a_trace(records: StepRecords, tmp_path: Path) -> None:
    found = read_steps(tmp_path / "out")
    assert found is not None
    assert [(step.name, step.state, step.seconds) for step in found.steps] == [
        ("cover", "waiting", None),
        ("regions", "finished", 1.235),
    ]
    assert found.state == "interrupted"
    assert json.loads(json.dumps(found.document()))["state"] == "interrupted"
    with records.locked():
        records.put("cover", Record(state="begun"))
        running = read_steps(tmp_path / "out")
        assert running is not None
        assert (running.state, running.steps[0].state) == ("running", "running")
    assert read_steps(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
