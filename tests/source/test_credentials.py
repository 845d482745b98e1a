"""A signed URL is a credential: what stands for it travels, it does not, and whoever is handed it can read."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dask.base import tokenize

from geoseg.errors import SourceError
from geoseg.source import credentials, remote, s3
from geoseg.source.credentials import Credentials, query_behind, ticket_for
from geoseg.source.location import parse_location
from geoseg.source.open import open_raster
from geoseg.testing.server import Fault, RangeServer, range_server
from geoseg.window import whole
from tests.source.rasters import ramp, source_of, write

CHECKOUT = Path(__file__).resolve().parents[2]
QUERY = "X-Signature=5ecre7&expires=99"


@pytest.fixture
def signing(tmp_path: Path) -> Iterator[RangeServer]:
    """A server that gives nothing without the signature."""
    with range_server({"/a.tif": write(tmp_path / "a.tif", ramp(), compress="deflate").read_bytes()}) as server:
        server.fault = lambda asked: None if asked.query == QUERY else Fault(status=403)
        yield server


def test_a_source_travels_without_its_secret(signing: RangeServer) -> None:
    source = source_of(f"{signing.url}/a.tif?{QUERY}")
    packed = pickle.dumps(source)
    assert b"5ecre7" not in packed
    assert b"5ecre7" not in pickle.dumps(pickle.loads(packed))  # a scheduler unpacks and packs again
    assert "5ecre7" not in repr(source._arguments)
    assert "5ecre7" not in json.dumps(dict(source.identity()))
    assert "5ecre7" not in repr(Credentials.held())
    arrived = pickle.loads(packed)
    assert arrived == source
    assert tokenize(arrived) == tokenize(source)
    assert (arrived.read(whole(arrived.geobox))[0] == ramp()).all()
    arrived.close()


READ = """
import pickle, sys
from geoseg.window import whole
source, handed = pickle.load(sys.stdin.buffer), pickle.load(sys.stdin.buffer)
assert pickle.dumps(source)  # where nobody handed it over it can still be passed on
if handed:
    handed.take()
try:
    sys.stdout.write(str(int(source.read(whole(source.geobox))[0].sum())))
except OSError as error:
    sys.stdout.write(f"refused: {error}")
"""


@pytest.mark.parametrize("handed", [True, False])
def test_another_process_reads_once_it_was_handed_the_query(signing: RangeServer, handed: bool) -> None:
    source = source_of(f"{signing.url}/a.tif?{QUERY}")
    sent = pickle.dumps(source) + pickle.dumps(Credentials.held() if handed else None)
    done = subprocess.run(
        [sys.executable, "-c", READ], input=sent, capture_output=True, cwd=CHECKOUT, timeout=60, check=True
    )
    if handed:
        assert int(done.stdout) == int(np.sum(ramp(), dtype=np.int64))
    else:
        assert done.stdout.startswith(b"refused: the query of a signed URL did not reach this process")
    assert b"5ecre7" not in done.stdout + done.stderr


def test_tickets_tell_nothing_and_stand_for_one_query_each() -> None:
    first, second = ticket_for("sig=one"), ticket_for("sig=two")
    assert ticket_for("sig=one") == first != second
    assert query_behind(first) == "sig=one"
    assert ticket_for("") == query_behind("") == ""
    with pytest.raises(SourceError, match="did not reach this process"):
        query_behind("0123456789abcdef")
    here = parse_location("https://host/a.tif?sig=one")
    assert here != parse_location("https://host/a.tif?sig=two"), "what a query names may be another object"
    assert here.href == "https://host/a.tif?sig=one"


def test_what_is_taken_adds_to_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_queries", {})
    monkeypatch.setattr(credentials, "_tickets", {})
    monkeypatch.setattr(os, "environ", {"AWS_REGION": "here", "AWS_PROFILE": "mine", "HOME": "/home/me"})
    assert dict(Credentials.held().environment) == {"AWS_REGION": "here"}
    mine = ticket_for("mine")
    Credentials(environment={"AWS_ACCESS_KEY_ID": "key"}, queries={"ticket": "theirs"}).take()
    assert (query_behind(mine), query_behind("ticket"), ticket_for("theirs")) == ("mine", "theirs", "ticket")
    assert dict(Credentials.held().environment) == {"AWS_REGION": "here", "AWS_ACCESS_KEY_ID": "key"}
    assert os.environ["AWS_PROFILE"] == "mine"


def test_new_credentials_make_a_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    before = s3._aws_session()
    assert s3._aws_session() is before
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "two")
    assert s3._aws_session() is not before


def test_gdal_logs_no_query(
    signing: RangeServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(remote._COMMON, "GDAL_HTTP_RETRY_DELAY", "0.05")
    signing.fault = lambda asked: Fault(status=503) if asked.number % 3 == 1 else None
    with caplog.at_level(logging.DEBUG), open_raster(f"{signing.url}/a.tif?{QUERY}") as dataset:
        dataset.read()
    assert "503" in caplog.text
    assert f"{signing.url}/a.tif" in caplog.text
    assert "5ecre7" not in caplog.text
