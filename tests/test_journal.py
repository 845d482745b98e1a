"""The run directory loses nothing, mixes nothing, and never takes half a part for a whole one, wherever it lives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoseg.errors import ConfigError, SinkError, SourceError
from geoseg.journal import FINAL_NAMES, RunDirectory
from geoseg.sink.parts import load_arrays, save_arrays
from geoseg.store import Place
from tests.buckets import SECRET, Bucket

ASKED: dict[str, Any] = {
    "inputs": {"a.tif": "1 byte"},
    "model": {"name": "m"},
    "options": {"tile": 512, "blend": "ramp"},
}


def _begun(out: Place, *names: str) -> RunDirectory:
    directory = RunDirectory(out)
    with directory.locked():
        directory.begin({"asked": ASKED, "plan": {"rows_per_chunk": 1}})
        for name in names:
            directory.accept(_made(directory, name))
    return directory


def _made(directory: RunDirectory, name: str) -> dict[str, Any]:
    return {"name": name, "files": save_arrays(directory.parts, f"{name}.npz", {"x": np.arange(9)})}


def _content(directory: RunDirectory, name: str) -> bytes:
    with directory.parts.open(name) as file:
        return file.read()


def test_accepted_parts_are_found_again(out: Place) -> None:
    directory = _begun(out, "a", "b")
    assert set(directory.finished()) == {"a", "b"}
    assert directory.stored_request() == {"asked": ASKED, "plan": {"rows_per_chunk": 1}}
    assert load_arrays(directory.parts, "a.npz", {"x", "y"}).keys() == {"x"}


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_parts_are_not_taken(out: Place, damage: str) -> None:
    directory = _begun(out, "a", "b")
    content = bytearray(_content(directory, "a.npz"))
    content[len(content) // 2] ^= 1
    directory.parts.put("a.npz", bytes(content if damage == "flip" else content[:-1]))
    if damage == "remove":
        directory.parts.remove("a.npz")
    assert set(directory.finished()) == {"b"}


def test_a_damaged_part_that_was_made_anew_counts_again(out: Place) -> None:
    directory = _begun(out, "a")
    directory.parts.put("a.npz", b"rotten")
    with directory.locked():
        assert directory.finished() == {}
        directory.accept(_made(directory, "a") | {"seconds": 2})
    assert set(directory.finished()) == {"a"}


def test_which_of_two_records_came_last_does_not_matter(out: Place) -> None:
    directory = _begun(out)
    first = _made(directory, "a")
    other = {"name": "a", "files": {"a.npz": {"size": 1, "sha256": "0"}}}
    for records in ([first, other], [other, first]):
        with directory.locked():
            directory.begin({"asked": ASKED})
            _made(directory, "a")
            for record in records:
                directory.accept(record)
        assert directory.finished()["a"]["files"] == first["files"]


def test_a_part_that_no_record_names_is_never_taken_and_goes_at_resume(out: Place) -> None:
    directory = _begun(out, "a")
    _made(directory, "b")
    directory.parts.put(".c.npz.host-1-ab.partial", b"of an attempt that died")
    assert set(directory.finished()) == {"a"}
    assert len(directory.parts.entries()) == 3, "who only looks removes nothing"
    with directory.locked():
        assert set(directory.finished()) == {"a"}
    assert directory.parts.entries().keys() == {"a.npz"}


def test_parts_are_compared_once_and_accepting_one_costs_its_own_files(
    out: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begun(out, "a", "b")
    directory = RunDirectory(out)
    compared: list[str] = []
    compare = RunDirectory._facts

    def note(self: RunDirectory, name: str) -> Any:
        compared.append(name)
        return compare(self, name)

    monkeypatch.setattr(RunDirectory, "_facts", note)
    with directory.locked():
        assert set(directory.finished()) == {"a", "b"}
        monkeypatch.setattr(RunDirectory, "lines", lambda self: pytest.fail("the journal is read once"))
        for name in ("c", "d"):
            directory.accept(_made(directory, name))
            assert name in directory.finished()
    assert sorted(compared) == ["a.npz", "b.npz"]


def test_a_torn_line_of_the_journal_is_skipped_and_ends_before_the_next(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out", "a", "b")
    journal = tmp_path / "out" / ".run" / "journal.jsonl"
    journal.write_text(journal.read_text()[:-7])
    assert set(directory.finished()) == {"a"}
    with directory.locked():
        directory.accept(_made(directory, "c"))
    assert set(directory.finished()) == {"a", "c"}


def test_the_same_request_resumes_and_another_is_refused_by_name(out: Place) -> None:
    directory = _begun(out)
    assert directory.check(ASKED, restart=False, overwrite=False) == {"asked": ASKED, "plan": {"rows_per_chunk": 1}}
    other = ASKED | {"options": {"tile": 256, "blend": "ramp"}}
    with pytest.raises(ConfigError, match=r"options\.tile: 512 became 256.*--restart"):
        directory.check(other, restart=False, overwrite=False)
    assert directory.check(other, restart=True, overwrite=False) is None


def test_a_run_that_begins_anew_takes_nothing_of_the_one_before(out: Place) -> None:
    directory = _begun(out, "a", "b")
    directory = _begun(out, "c")
    assert set(directory.finished()) == {"c"}
    assert directory.parts.entries().keys() == {"c.npz"}


def test_a_changed_input_is_refused_with_both_fingerprints(out: Place) -> None:
    directory = _begun(out)
    stored = directory.check(ASKED, restart=False, overwrite=False)
    assert stored is not None
    directory.check_inputs(stored, {"a.tif": "1 byte"})
    with pytest.raises(SourceError, match=r'a\.tif: "1 byte" became "2 bytes".*--restart'):
        directory.check_inputs(stored, {"a.tif": "2 bytes"})


def test_a_run_refused_before_it_began_leaves_no_trace(tmp_path: Path, bucket: Bucket) -> None:
    for out in (tmp_path / "out", bucket.url):
        with RunDirectory(out).locked():
            pass
    assert not (tmp_path / "out").exists()
    assert bucket.objects() == {}


def test_a_request_that_was_never_written_whole_is_none(tmp_path: Path) -> None:
    directory = _begun(tmp_path / "out")
    (tmp_path / "out" / ".run" / "request.json").write_text('{"asked": {')
    assert directory.stored_request() is None


def test_finished_output_is_refused_unless_overwritten(out: Place) -> None:
    directory = RunDirectory(out)
    directory.store.workspace()
    directory.store.put("labels.tif", b"precious")
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


def _staged(directory: RunDirectory, *names: str) -> list[Path]:
    for name in names:
        (directory.staging / name).write_text(json.dumps({}))
    return [directory.staging / name for name in names]


def test_publishing_gives_final_names_and_removes_what_the_new_run_does_not_make(out: Place) -> None:
    directory = _begun(out, "a")
    directory.store.put("probabilities.tif", b"of the run before")
    directory.store.put("mine.txt", b"no output of geoseg's")
    assert not RunDirectory(out).is_finished
    with directory.locked():
        published = directory.publish(_staged(directory, "run.json", "labels.tif"))
    assert [str(place) for place in published] == [f"{out}/labels.tif", f"{out}/run.json"]
    assert directory.store.entries().keys() == {"labels.tif", "run.json", "mine.txt"}
    assert directory.is_finished
    assert directory.finished_request() == {"asked": ASKED, "plan": {"rows_per_chunk": 1}}
    assert directory.parts.entries() == {}
    assert not directory.staging.exists()
    assert FINAL_NAMES[-1] == "run.json"


def test_run_json_comes_last_and_goes_first(out: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment it stops at, a run without its whole new output is not finished."""
    directory = _begun(out)
    with directory.locked():
        directory.publish(_staged(directory, "run.json", "labels.tif"))
        directory.begin({"asked": ASKED})
    again = RunDirectory(out)
    put = type(again.store).put

    def stop(self: Any, name: str, content: Any) -> None:
        if name == "labels.tif":
            raise SinkError("the lights went out")
        put(self, name, content)

    monkeypatch.setattr(type(again.store), "put", stop)
    with pytest.raises(SinkError, match="lights"), again.locked():
        again.publish(_staged(again, "run.json", "labels.tif"))
    assert "run.json" not in again.store.entries()
    assert not again.is_finished
    assert again.stored_request() is not None


def test_parts_are_fetched_whole_or_not_at_all(bucket: Bucket) -> None:
    directory = _begun(bucket.url, "a", "b")
    with directory.locked():
        directory.finished()
        [path] = directory.local_parts(["a.npz"])
        assert path.read_bytes() == bucket.objects()["maps/run1/.run/parts/a.npz"]
        bucket.put("maps/run1/.run/parts/b.npz", b"rotten since")
        with pytest.raises(SinkError, match=r"s3://.*/b\.npz: is damaged; the same command makes it anew"):
            directory.local_parts(["b.npz"])
        bucket.remove("maps/run1/.run/parts/b.npz")
        with pytest.raises(SinkError, match=r"b\.npz: is gone; the same command makes it anew"):
            directory.local_parts(["b.npz"])
    assert set(directory.finished()) == {"a"}


def test_no_credentials_in_any_object(bucket: Bucket) -> None:
    _begun(bucket.url, "a", "b")
    written = bucket.objects()
    assert len(written) >= 5
    assert not [key for key, content in written.items() if SECRET.encode() in content]


def test_accepting_the_last_of_many_costs_no_more_than_the_first(tmp_path: Path) -> None:
    """Counted in bytes read and written, not in seconds."""
    directory = _begun(tmp_path / "out")
    with directory.locked():
        for number in range(300):
            directory.accept({"name": f"c{number}", "files": {}})
        before = _io_of_this_thread()
        directory.accept({"name": "last", "files": {}})
        read, written = (now - then for now, then in zip(_io_of_this_thread(), before, strict=True))
    assert written < 4096
    assert read < 16_384


def _io_of_this_thread() -> tuple[int, int]:
    import threading

    text = Path(f"/proc/self/task/{threading.get_native_id()}/io").read_text()
    numbers = dict(line.split(": ") for line in text.splitlines())
    return int(numbers["rchar"]), int(numbers["wchar"])


def test_notes_say_when_and_do_not_count_as_finished(out: Place) -> None:
    directory = _begun(out, "a")
    directory.note("stage", stage="assemble")
    kinds = [line.get("kind") for line in directory.lines()]
    assert kinds == [None, "stage"]
    assert all(line.get("at") or line.get("finished_at") for line in directory.lines())
    assert set(directory.finished()) == {"a"}
