"""Files appear whole or not at all, also where two write the same one; scratch folders of the dead go."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from geoseg.errors import SinkError
from geoseg.store import disk
from geoseg.store.disk import creating, describe_file, durable, scratch_folder, sync


def test_a_file_appears_at_the_end_and_under_its_own_name_only(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with durable(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with durable(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_two_attempts_at_one_file_do_not_meet(tmp_path: Path) -> None:
    with creating(tmp_path, "a") as first, creating(tmp_path, "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
        second.replace(tmp_path / "a")
        assert first.read_text() == "1"
        first.replace(tmp_path / "a")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "1")]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, r"no space left on .*, need about 5 MB; free some and run the same command again"),
        (errno.EDQUOT, r"no space left on "),
        (errno.EIO, r"a: cannot be written"),
    ],
)
def test_what_went_wrong_is_one_line(tmp_path: Path, number: int, says: str) -> None:
    with pytest.raises(SinkError, match=says), durable(tmp_path / "a", 5 << 20):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_a_real_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def fill() -> None:
        with durable(tmp_path / "a") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x")

    with pytest.raises(SinkError, match="no space left"):
        fill()
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")


def test_description_is_size_and_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PIECE", 7)
    content = os.urandom(100)
    (tmp_path / "a").write_bytes(content)
    assert describe_file(tmp_path / "a") == {"size": 100, "sha256": hashlib.sha256(content).hexdigest()}


SCRIPT = """
import os, signal, sys
from geoseg.store.disk import scratch_folder
folder = scratch_folder()
(folder / "a.tif").write_text("x")
print(folder, flush=True)
if sys.argv[1] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""


def _scratch_of_another(how: str, parent: Path) -> tuple[Path, subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(parent)},
    )
    assert process.stdout
    return Path(process.stdout.readline().strip()), process


def _finished(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=30)
    return process.returncode


def test_scratch_folders_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, ended = _scratch_of_another("end", tmp_path)
    assert _finished(ended) == 0
    assert not gone.exists()
    dead, killed = _scratch_of_another("die", tmp_path)
    assert _finished(killed) == -signal.SIGKILL
    alive, waiting = _scratch_of_another("wait", tmp_path)
    assert not dead.exists(), "whoever comes next tidies up"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = scratch_folder()
    assert own == scratch_folder()
    assert own.stat().st_mode & 0o077 == 0
    assert (alive / "a.tif").exists()
    assert _finished(waiting) == 0
    assert sorted(path.suffix for path in own.parent.iterdir()) == ["", ".lock"]


def test_no_scratch_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(SinkError, match=r"file: no scratch folder can be made there \(.*\); set TMPDIR"):
        scratch_folder()
