"""No name that a client sends leads to a file that is not a job's own."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx

from tests.serve.conftest import Start, ask

UPS = (
    "..", "%2e%2e", "%2E.", ".%2e", "..%2f..", "..%5c..", "..%255c..", "%252e%252e", "..%c0%af..", "..%00",
    "....//",
    "..;", "%2e%2e%2f%2e%2e", "..%u2215..", "\\..\\..", "%5c..%5c..",
    "~root", "/..", "//..", "..%0d%0a", "..\u2215..", "\uff0e\uff0e",
)  # fmt: skip
TARGETS = ("job.json", "options.yaml", "log.jsonl", "etc/passwd", "%2fetc%2fpasswd")
PLACES = ("/jobs/{job}/files/", "/jobs/", "/runs/{job}/")
ODD = (
    "/jobs/{job}/files/", "/jobs/{job}/files/.", "/jobs/{job}/files/.run", "/jobs/{job}/files/labels.tif/",
    "/jobs/./files/a",
    "/jobs/{job}/files/.run%2fjournal.jsonl", "/jobs/{job}/files/" + "a" * 5000, "//etc/passwd",
    "/jobs//etc/passwd", "/jobs/{job}/files/labels.tif%00.png", "/jobs/{job}/files/LABELS.TIF", "/jobs/.gone-{job}",
    "/jobs/{job}/files/job.json",
)  # fmt: skip


def traversals(job: str) -> list[str]:
    """Paths that try to leave a job's folder."""
    deep = [f"{place.format(job=job)}{up}/{target}" for place, up, target in product(PLACES, UPS, TARGETS)]
    return [*deep, *(path.format(job=job) for path in ODD)]


def test_two_hundred_traversals_lead_nowhere(start: Start) -> None:
    live = start(pretending=True, rate=10_000, burst=10_000)
    with httpx.Client(base_url=live.url) as client:
        found = ask(client, prefer="").json()
        job = found["labels"]["href"].split("/")[-3]
        assert client.get(found["labels"]["href"]).status_code == 200
    paths = traversals(job)
    assert len(set(paths)) >= 200
    parts = urlsplit(live.url)
    with closing(HTTPConnection(str(parts.hostname), parts.port, timeout=20)) as connection:
        demand_nothing(connection, paths, live.root)


def demand_nothing(connection: HTTPConnection, paths: list[str], root: Path) -> None:
    """Asks for each path, and gets no file."""
    for path in paths:
        try:
            connection.request("GET", path.encode("latin-1", "ignore").decode("latin-1").replace("\\", "%5c"))
        except ValueError:  # not even a client of the standard library sends it
            connection.close()
            continue
        response = connection.getresponse()
        body = response.read()
        assert response.status in {400, 404, 405, 414, 431}, (path, response.status)
        assert b"root:" not in body
        assert b"spectral-baseline/" not in body
        assert str(root).encode() not in body, path
