"""``--log-json``: every line on standard error is one JSON object; no line in any form tells a secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from geoseg.cli.messages import formatted, say, set_up_messages
from geoseg.errors import SourceError, without_secrets
from geoseg.events import ChunkDone, ChunkRetried, ClusterReady, RowDone, Warned
from tests.cli.conftest import Call, Called, FakePipeline

EVENTS = (
    ClusterReady(address="tcp://10.0.0.1:8786", workers=2, dashboard="http://10.0.0.1:8787/status"),
    RowDone(chunk="r0c0", tiles=3, pixels=1_000_000, worker="w1"),
    ChunkRetried(chunk="r0c0", worker="w1", reason="the worker died", attempt=2),
    ChunkDone(chunk="r0c0", seconds=1.5, worker="w2", tiles=3, pixels=1_000_000),
    Warned(message="no date;\n the run's is used"),
)
SIGNED = "https://me:word@host/a.tif?X-Amz-Signature=abcdef&b='quoted'"


def logged(called: Called) -> list[dict[str, Any]]:
    return [json.loads(line) for line in called.err.splitlines()]


@pytest.mark.usefixtures("fake")
def test_a_run_is_told_as_objects(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.events = EVENTS
    ended = call("segment", "a.tif", "--out", tmp_path, "--log-json")
    assert ended.code == 0
    assert ended.out == f"{tmp_path}/item.json\n"
    lines = logged(ended)
    assert [line["event"] for line in lines] == ["stage", "cluster", "retry", "chunk", "warning", "done"]
    assert [line["level"] for line in lines] == ["info", "info", "warning", "info", "warning", "info"]
    assert {line["scene"] for line in lines} == {"a.tif"}
    for line in lines:
        assert datetime.now(UTC) - datetime.fromisoformat(line["time"]) < timedelta(minutes=5)
        assert line["message"]
    stage, cluster, retry, chunk, warning, done = lines
    assert (stage["stage"], stage["tiles_total"]) == ("predict", 9)
    assert (cluster["workers"], cluster["dashboard"]) == (2, "http://10.0.0.1:8787/status")
    assert (retry["chunk"], retry["worker"], retry["reason"], retry["attempt"]) == ("r0c0", "w1", "the worker died", 2)
    assert (chunk["chunk"], chunk["worker"], chunk["tiles"], chunk["seconds"]) == ("r0c0", "w2", 3, 1.5)
    assert (chunk["tiles_done"], chunk["chunks_done"], chunk["pixels"]) == (3, 1, 1_000_000)
    assert warning["message"] == "no date; the run's is used"
    assert (done["out"], done["counts"]["forward_passes"]) == (str(tmp_path), 9)


@pytest.mark.usefixtures("fake")
def test_verbose_adds_every_row_and_quiet_leaves_errors(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.events = EVENTS
    lines = logged(call("segment", "a.tif", "--out", tmp_path, "--log-json", "-v"))
    assert [(line["tiles"], line["worker"]) for line in lines if line["event"] == "row"] == [(3, "w1")]
    fake.after["a.tif"] = SourceError("a.tif: is gone")
    [error] = logged(call("segment", "a.tif", "--out", tmp_path, "--log-json", "-q"))
    assert (error["event"], error["level"], error["scene"], error["error"]) == (
        "error",
        "error",
        "a.tif",
        "SourceError",
    )
    assert error["message"].startswith("a.tif: is gone. What is done stands in ")


@pytest.mark.usefixtures("fake")
def test_verbose_tells_people_the_same(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.events = EVENTS
    lines = call("segment", "a.tif", "--out", tmp_path, "-v").err.splitlines()
    assert lines[:5] == [
        "geoseg: predicting 9 tiles in 0 chunks",
        "geoseg: 2 workers at tcp://10.0.0.1:8786, dashboard at http://10.0.0.1:8787/status",
        "geoseg: warning: a.tif: chunk r0c0 begins anew (attempt 2): the worker died",
        "geoseg: r0c0 done in 1.5 s by w2",
        "geoseg: warning: a.tif: no date; the run's is used",
    ]


@pytest.mark.parametrize(
    "words",
    [("segment", "a.tif", "--log-json"), ("segment", "--log-json", "--no-such-option"), ("segment", "--log-json")],
    ids=["no out", "no option", "no input"],
)
def test_what_is_wrong_with_the_command_is_an_object_too(call: Call, words: tuple[str, ...]) -> None:
    ended = call(*words)
    assert ended.code == 2
    [error] = logged(ended)
    assert (error["event"], error["level"]) == ("error", "error")


@pytest.mark.usefixtures("fake")
def test_the_environment_and_a_file_turn_it_on(
    call: Call, fake: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.events = (Warned(message="no date"),)
    (tmp_path / "run.yaml").write_text("log_json: true\n")
    assert len(logged(call("segment", "a.tif", "--out", tmp_path, "-c", tmp_path / "run.yaml"))) == 3
    monkeypatch.setenv("GEOSEG_LOG_JSON", "1")
    assert len(logged(call("segment", "a.tif", "--out", tmp_path))) == 3


@pytest.mark.usefixtures("fake")
def test_a_traceback_is_a_field(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    fake.after["a.tif"] = ValueError(f"cannot read {SIGNED}")
    lines = logged(call("segment", "a.tif", "--out", tmp_path, "--log-json", "--debug"))
    [error] = [line for line in lines if line["event"] == "error"]
    assert "Traceback" in error["traceback"]
    assert "ValueError" in error["traceback"]


@pytest.mark.parametrize(
    "form", [(), ("--json",), ("--log-json",), ("-v",), ("--log-json", "-v", "--debug")], ids=" ".join
)
@pytest.mark.usefixtures("fake")
def test_no_line_tells_a_secret(
    form: tuple[str, ...], call: Call, fake: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    fake.events = (
        Warned(message=f"slow: {SIGNED}, still waiting (wJalrXUtnFEMI/K7MDENG)"),
        ChunkRetried(chunk="r0c0", reason=f"{SIGNED}: 503", worker="w hunter2hunter2"),
        ClusterReady(address="tls://me:word@10.0.0.1:8786", workers=1, dashboard="http://h/status?token=abcdef"),
    )
    fake.after[SIGNED] = SourceError(f"{SIGNED}: 403 with hunter2hunter2")
    ended = call("segment", SIGNED, "--out", tmp_path, *form)
    assert ended.code == 1
    assert "https://host/a.tif" in ended.err
    for secret in ("abcdef", "word", "quoted", "wJalrXUtnFEMI", "hunter2", "Signature"):
        assert secret not in ended.err + ended.out, secret


def test_what_libraries_say_is_an_object_without_secrets(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "correct horse")
    set_up_messages(as_json=True, verbose=True)
    logging.getLogger("botocore").warning("retrying %s with correct horse", SIGNED)
    logging.getLogger("botocore").info("not heard")
    [line] = capfd.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["library"], said["level"]) == ("library", "botocore", "warning")
    assert said["message"] == "retrying https://host/a.tif' with ***"


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_line_is_one_line_whatever_it_holds(as_json: bool, capfd: pytest.CaptureFixture[str]) -> None:
    set_up_messages(as_json=as_json)
    say(
        "one\ntwo\x1b[31m\r\u2028three",
        level=logging.ERROR,
        event="error",
        scene="a\nb",
        odd={"x": [1, None, Path("p")]},
    )
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_thread_that_must_not_wait_gets_the_same_line(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_messages()
    say("interrupted", level=logging.ERROR, event="interrupted")
    assert capfd.readouterr().err == formatted("interrupted", level=logging.ERROR, event="interrupted") + "\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("s3://bucket/key?versionId=1 is gone", "s3://bucket/key is gone"),
        ("'https://h/a?b=c': 404", "'https://h/a': 404"),
        ("/vsicurl/https://u:p@h/a.tif?b: failed", "/vsicurl/https://h/a.tif: failed"),
        ("what? nothing", "what? nothing"),
        ("", ""),
    ],
)
def test_only_queries_and_logins_are_left_out(text: str, left: str) -> None:
    assert without_secrets(text) == left


def test_the_library_sets_up_no_logging() -> None:
    """Whoever imports geoseg decides about logs."""
    code = (
        "import logging, geoseg, geoseg.pipeline, geoseg.cluster, geoseg.runner\n"
        "print(len(logging.root.handlers), logging.root.level, logging.root.manager.disable)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ, timeout=120
    )
    assert done.stdout.split() == ["0", str(logging.WARNING), "0"]
    assert done.stderr == ""
