"""The run directory loses nothing, mixes nothing, and never takes half a part for a whole one."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoseg.errors import ConfigError, SinkError, SourceError
from geoseg.journal import FINAL_NAMES, RunDirectory
from geoseg.sink.parts import save_arrays

ASKED: dict[str, Any] = {
    "inputs": {"a.tif": "1 byte"},
    "model": {"name": "m"},
    "options": {"tile": 512, "blend": "ramp"},
}


def _begun(out: Path, *names: str) -> RunDirectory:
    directory = RunDirectory(out)
    with directory.locked():
        directory.begin({"asked": ASKED, "plan": {"rows_per_chunk": 1}})
        for name in names:
            files = save_arrays(directory.parts / f"{name}.npz", {"x": np.arange(9)})
            directory.accept({"name": name, "files": files})
    return directory


def test_accepted_parts_are_found_again(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out", "a", "b")
    assert set(directory.finished()) == {"a", "b"}
    assert directory.stored_request() == {"asked": ASKED, "plan": {"rows_per_chunk": 1}}


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_parts_are_not_taken(tmp_path: Path, damage: str) -> None:
    directory = _begun(tmp_path / "out", "a", "b")
    part = directory.parts / "a.npz"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content if damage == "flip" else content[:-1])
    if damage == "remove":
        part.unlink()
    assert set(directory.finished()) == {"b"}


def test_a_torn_line_of_the_journal_is_skipped(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out", "a", "b")
    journal = directory.state / "journal.jsonl"
    journal.write_text(journal.read_text()[:-7])
    assert set(directory.finished()) == {"a"}


def test_the_same_request_resumes_and_another_is_refused_by_name(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out")
    assert directory.check(ASKED, restart=False, overwrite=False) == {"asked": ASKED, "plan": {"rows_per_chunk": 1}}
    other = ASKED | {"options": {"tile": 256, "blend": "ramp"}}
    with pytest.raises(ConfigError, match=r"options\.tile: 512 became 256.*--restart"):
        directory.check(other, restart=False, overwrite=False)
    assert directory.check(other, restart=True, overwrite=False) is None


def test_a_changed_input_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out")
    stored = directory.check(ASKED, restart=False, overwrite=False)
    assert stored is not None
    directory.check_inputs(stored, {"a.tif": "1 byte"})
    with pytest.raises(SourceError, match=r'a\.tif: "1 byte" became "2 bytes".*--restart'):
        directory.check_inputs(stored, {"a.tif": "2 bytes"})


def _hold(out: Path, ready: Any, leave: Any) -> None:
    with RunDirectory(out).locked():
        ready.set()
        leave.wait(30)


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "out", ready, leave))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(SinkError, match=rf"process {holder.pid}\) is at work"), RunDirectory(tmp_path / "out").locked():
        pass
    holder.kill()
    holder.join()
    with RunDirectory(tmp_path / "out").locked():
        assert (tmp_path / "out" / ".run").is_dir()


def test_a_run_refused_before_it_began_leaves_no_trace(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "out").locked():
        pass
    assert not (tmp_path / "out").exists()


def test_finished_output_is_refused_unless_overwritten(tmp_path: Path) -> None:
    (tmp_path / "labels.tif").touch()
    directory = RunDirectory(tmp_path)
    with pytest.raises(ConfigError, match=r"already holds labels\.tif; --overwrite"):
        directory.check(ASKED, restart=False, overwrite=False)
    assert directory.check(ASKED, restart=False, overwrite=True) is None


def test_links_and_missing_parents_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(SinkError, match="symbolic link"), RunDirectory(tmp_path / "link").locked():
        pass
    with pytest.raises(SinkError, match="parent directory does not exist"), RunDirectory(tmp_path / "a" / "b").locked():
        pass
    (tmp_path / "real" / "labels.tif").symlink_to(tmp_path / "precious.tif")
    with pytest.raises(ConfigError, match="symbolic link"):
        RunDirectory(tmp_path / "real").check(ASKED, restart=False, overwrite=True)
    assert list((tmp_path / "real").iterdir()) == [tmp_path / "real" / "labels.tif"]


def test_publishing_gives_final_names_and_removes_what_the_new_run_does_not_make(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out", "a")
    (directory.out / "probabilities.tif").write_text("of the run before")
    directory.staging.mkdir()
    for name in ("run.json", "labels.tif"):
        (directory.staging / name).write_text(json.dumps({}))
    published = directory.publish([directory.staging / "run.json", directory.staging / "labels.tif"])
    assert published == [directory.out / "labels.tif", directory.out / "run.json"]
    assert {path.name for path in directory.out.iterdir()} == {".run", "labels.tif", "run.json"}
    assert directory.is_finished
    assert not directory.parts.exists()
    assert FINAL_NAMES[-1] == "run.json"
