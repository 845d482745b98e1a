"""What both stores promise, and what a server may say."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from geoseg.cli import run
from geoseg.errors import ConfigError, SinkError
from geoseg.store import Place, Store, open_store
from geoseg.store.disk import describe_file
from geoseg.testing import write_scene
from tests.buckets import SECRET, Bucket


@pytest.fixture
def store(out: Place) -> Store:
    made = open_store(out)
    made.workspace()
    return made


def _read(store: Store, name: str) -> bytes:
    with store.open(name) as file:
        return file.read()


def test_what_was_put_is_there_and_what_was_removed_is_not(store: Store) -> None:
    assert store.entries() == {}
    store.put("a", b"first")
    store.put("a", b"second")
    store.put("empty", b"")
    store.below("folder").workspace()
    store.below("folder").put("b", b"below")
    store.settle()
    assert store.entries().keys() == {"a", "empty"}
    assert store.sizes() == {"a": 6, "empty": 0}
    assert store.folders() == ["folder"]
    assert store.links() == []
    assert _read(store, "a") == b"second"
    assert _read(store.below("folder"), "b") == b"below"
    store.remove("a")
    store.remove("a")
    store.below("folder").clear()
    store.below("folder").clear()
    assert store.entries().keys() == {"empty"}
    assert store.below("folder").entries() == {}
    with pytest.raises(FileNotFoundError):
        store.open("a")


def test_a_local_file_is_moved(store: Store) -> None:
    path = store.workspace() / "made-here"
    path.write_bytes(content := os.urandom(3_000_000))
    store.put("a", path)
    assert not path.exists()
    assert _read(store, "a") == content
    with store.open("a") as file:
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        file.seek(1_500_000)
        assert file.read(10) == content[1_500_000:1_500_010]
        assert file.tell() == 1_500_010


def test_files_have_local_paths(store: Store) -> None:
    facts = {}
    for name in ("a", "b"):
        store.put(name, name.encode() * 1000)
        path = store.workspace() / "copy"
        path.write_bytes(name.encode() * 1000)
        facts[name] = describe_file(path)
        path.unlink()
    for _ in range(2):
        assert [path.read_bytes() for path in store.local(facts)] == [b"a" * 1000, b"b" * 1000]


def test_a_log_keeps_its_order(store: Store) -> None:
    assert store.lines("log") == []
    store.append("log", ["first"])
    store.append("log", ["second", "third"])
    store.append("log", ["fourth"])
    assert store.lines("log") == ["first", "second", "third", "fourth"]


def test_a_store_pickles_small_and_holds_no_secret(store: Store) -> None:
    store.put("a", b"here")  # the door was open
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert SECRET.encode() not in pickled
    assert SECRET not in repr(store)
    arrived = pickle.loads(pickled)
    assert (arrived, hash(arrived)) == (store, hash(store))
    assert _read(arrived, "a") == b"here"


def test_two_writers_of_one_name_leave_one_whole_file(store: Store) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=store.put, args=("a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _read(store, "a") in contents
    assert store.entries().keys() == {"a"}


def test_a_place_is_a_folder_or_a_prefix(tmp_path: Path) -> None:
    assert open_store(tmp_path).href("a") == tmp_path / "a"
    assert open_store(str(tmp_path)).href() == tmp_path
    assert open_store("S3://b/x//y/").href("a") == "s3://b/x/y/a"
    for place in ("https://host/a?sig=secret", "gs://b/x", "file:///tmp/x", "", " "):
        with pytest.raises(ConfigError, match="results go to a folder or to s3://BUCKET/PREFIX") as caught:
            open_store(place)
        assert "secret" not in str(caught.value)
    for place in ("s3://", "s3://b", "s3://b/", "s3:///x", "s3://b/../x", "s3://b/x?y", "s3://b/x\n"):
        with pytest.raises(SinkError, match="write s3://BUCKET/PREFIX"):
            open_store(place)


def test_the_environment_of_the_process_opens_the_door(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(bucket.url)
    store.put("a", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(SinkError, match=r"s3://.*: no connection; check AWS_ENDPOINT_URL and the network"):
        store.entries()
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert store.entries().keys() == {"a"}


class _Refusing(BaseHTTPRequestHandler):
    """Says 403 to everything."""

    def _refuse(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        """Keeps quiet."""


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("s3://no-such-bucket-anywhere/run", "the bucket does not exist; create it first"),
        ("s3://{bucket}", "results go to a prefix of a bucket: write s3://BUCKET/PREFIX"),
        ("gs://bucket/run", "gs://bucket/run: results go to a folder or to s3://BUCKET/PREFIX"),
        ("s3://{bucket}/refused", "access is denied; check the credentials and their permission"),
        ("s3://{bucket}/nowhere", "no connection; check AWS_ENDPOINT_URL and the network"),
        ("{folder}/no/parent", "its parent directory does not exist; create"),
    ],
)
def test_a_wrong_place_is_2_before_any_work(
    bucket: Bucket,
    refusing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
    says: str,
) -> None:
    write_scene(tmp_path / "scene.tif", 96, 80, seed=1)
    endpoint = {"refused": refusing, "nowhere": "http://127.0.0.1:9"}.get(place.rpartition("/")[2])
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    code = run(["segment", str(tmp_path / "scene.tif"), "--out", place.format(bucket=bucket.name, folder=tmp_path)])
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), err
    [line] = err.splitlines()
    assert says in line
    assert SECRET not in line
    assert bucket.objects() == {}
