"""Searches of a STAC API: what is asked, page after page, and what a server may get wrong."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from geoseg.errors import MissingExtraError, SourceError
from geoseg.source.search import search_api

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-text",
]
ITEMS: list[dict[str, Any]] = [
    {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"scene-{number}",
        "geometry": None,
        "properties": {"datetime": "2024-05-01T00:00:00Z"},
        "links": [],
        "assets": {"red": {"href": f"https://example.org/{number}.tif"}},
    }
    for number in range(7)
]
PAGE = 3


class Server(ThreadingHTTPServer):
    """A STAC API of seven items, three on a page; `answer` may stand in for what it says to a search."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], tuple[int, bytes]] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def landing(self) -> dict[str, Any]:
        search = {"rel": "search", "type": "application/geo+json", "href": f"{self.url}/search", "method": "POST"}
        root = {"rel": "root", "href": f"{self.url}/", "type": "application/json"}
        told = {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "api",
            "description": "A server.",
            "conformsTo": CONFORMS,
        }
        return told | {"links": [root, search]}

    def page(self, asked: dict[str, Any]) -> dict[str, Any]:
        start = int(asked.get("token", 0))
        links = []
        if start + PAGE < len(ITEMS):
            body = {**asked, "token": start + PAGE}
            links = [{"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body}]
        return {"type": "FeatureCollection", "features": ITEMS[start : start + PAGE], "links": links}


class Answering(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        """Keeps quiet."""

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._send(200, json.dumps(self.server.landing()).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        status, body = (
            self.server.answer() if self.server.answer else (200, json.dumps(self.server.page(asked)).encode())
        )
        self._send(status, body)


@pytest.fixture
def api() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_all_pages_are_fetched(api: Server) -> None:
    assert search_api(api.url) == ITEMS
    assert [asked.get("token", 0) for asked in api.asked] == [0, 3, 6]


def test_no_more_pages_than_asked_for(api: Server) -> None:
    assert search_api(api.url, limit=4) == ITEMS[:4]
    assert len(api.asked) == 2


def test_conditions_reach_the_server(api: Server) -> None:
    search_api(
        api.url,
        bbox=(1, 2, 3, 4),
        times="2024-05/2024-06",
        where="eo:cloud_cover < 10",
        collections=["sentinel-2-l2a"],
        limit=1,
    )
    (asked,) = api.asked
    assert asked["bbox"] == [1, 2, 3, 4]
    assert asked["datetime"] == "2024-05-01T00:00:00Z/2024-06-30T23:59:59Z"
    assert (asked["filter"], asked["filter-lang"]) == ("eo:cloud_cover < 10", "cql2-text")
    assert asked["collections"] == ["sentinel-2-l2a"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"the database is away"),
        (403, b"not for you"),
        (200, b"<html>"),
        (200, b"[]"),
    ],
)
def test_what_a_server_gets_wrong_is_one_line(api: Server, answer: tuple[int, bytes]) -> None:
    api.answer = lambda: answer
    with pytest.raises(SourceError, match=f"{api.url}: cannot be searched") as caught:
        search_api(api.url)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="cannot be searched"):
        search_api("http://127.0.0.1:9/")
    with pytest.raises(SourceError, match="cannot be searched") as caught:
        search_api("http://127.0.0.1:9/?token=the-token-of-a-person")
    assert "the-token" not in str(caught.value)


def test_pystac_client_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'geoseg\[catalog\]'"):
        search_api("http://127.0.0.1:9/")
