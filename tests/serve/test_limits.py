"""Who may come in, how often, with how much, and how slowly."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ConfigError
from geoseg.serve.app import create_app
from geoseg.serve.limits import Limits, Rates
from geoseg.serve.problems import without_paths
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.tokens import Client, read_tokens, who
from tests.serve.conftest import Connect, Live, Start, ask, until

SECRET = "a-long-secret"


def tokens(folder: Path) -> Path:
    file = folder / "tokens.yaml"
    file.write_text(json.dumps([{"name": "ann", "sha256": hashlib.sha256(SECRET.encode()).hexdigest()}]))
    return file


# --- tokens ---


def test_only_a_token_opens_and_health_needs_none(connect: Connect, settings: ServiceSettings, tmp_path: Path) -> None:
    client = connect(settings.model_copy(update={"tokens": tokens(tmp_path)}))
    closed = ("/processes", "/jobs", "/metrics", "/scenes", "/api", "/nothing")
    for path in closed:
        refused = client.get(path)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert refused.headers["content-type"] == "application/problem+json"
    for wrong in ("", "Bearer", "Bearer ", f"Basic {SECRET}", f"Bearer {SECRET}x", SECRET, f"Bearer {SECRET[:-1]}"):
        assert client.get("/jobs", headers={"Authorization": wrong}).status_code == 401, wrong
    assert client.get("/jobs", headers={"Authorization": f"bearer {SECRET}"}).status_code == 200
    for path in ("/health/live", "/health/ready", "/"):
        assert client.get(path).status_code == 200, path


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_no_other_text_is_a_token(text: str) -> None:
    client = Client(name="ann", sha256=hashlib.sha256(SECRET.encode()).hexdigest())
    assert (who((client,), f"Bearer {text}") is None) == (text.strip() != SECRET)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no token"),
        ("a: [", "no list of tokens"),
        ("- just text", "write '- name: NAME'"),
        ("- {name: a, sha256: abc}", "sha256"),
        ("- {name: a, token: secretsecret}", "sha256"),
        (f"- {{name: a, sha256: '{'0' * 64}'}}\n- {{name: a, sha256: '{'1' * 64}'}}", "twice"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_told_without_what_it_holds(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=told) as caught:
        read_tokens(file)
    assert "secretsecret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "maps.example"])
def test_without_tokens_it_refuses_to_be_seen_by_others(settings: ServiceSettings, host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tokens"):
        create_app(settings.model_copy(update={"host": host}))
    create_app(settings.model_copy(update={"host": host, "tokens": tokens(tmp_path)}))


# --- browsers that were led here ---


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::ffff:10.0.0.1]", ""]
)
def test_a_name_that_became_this_machine_gets_nothing(connect: Connect, settings: ServiceSettings, host: str) -> None:
    client = connect(settings)
    assert client.get("/jobs", headers={"Host": host}).status_code == 421
    for own in ("127.0.0.1:99", "localhost", "[::1]:8080"):
        assert client.get("/jobs", headers={"Host": own}).status_code == 200


def test_pages_of_other_sites_may_not_ask(connect: Connect, settings: ServiceSettings) -> None:
    client = connect(settings)
    for origin in ("https://evil.example", "http://127.0.0.1:1", "null"):
        response = client.post("/processes/segment/execution", json={"inputs": {}}, headers={"Origin": origin})
        assert response.status_code == 403, origin
    headers = {"Origin": "http://127.0.0.1"}
    assert client.post("/processes/segment/execution", json={"inputs": {}}, headers=headers).status_code == 400


# --- rates, sizes ---


@given(
    st.floats(0.5, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), max_size=60),
)
def test_rates_hold_and_a_wait_is_enough(rate: float, burst: int, asked: list[tuple[str, float]]) -> None:
    """In no stretch of time does a client get more than its burst and what flows in; after the wait it gets one."""
    rates, now = Rates(rate, burst), 0.0
    served: dict[str, list[float]] = {"a": [], "b": []}
    for key, pause in asked:
        now += pause
        wait = rates.wait(key, now)
        if not wait:
            served[key].append(now)
            continue
        now += wait * (1 + 1e-9) + 1e-9
        assert rates.wait(key, now) == 0.0
        served[key].append(now)
    for times in served.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6


def test_too_many_requests_are_told_when_to_come_again(connect: Connect, settings: ServiceSettings) -> None:
    client = connect(settings.model_copy(update={"rate": 0.5, "burst": 3}))
    codes = [client.get("/health/live").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert 1 <= int(client.get("/jobs").headers["retry-after"]) <= 3


def test_guesses_of_tokens_are_counted_by_address(connect: Connect, settings: ServiceSettings, tmp_path: Path) -> None:
    client = connect(settings.model_copy(update={"rate": 0.01, "burst": 3, "tokens": tokens(tmp_path)}))
    guesses = [client.get("/jobs", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(5)]
    assert guesses == [401, 401, 401, 429, 429]
    assert client.get("/jobs", headers={"Authorization": f"Bearer {SECRET}"}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(connect: Connect, settings: ServiceSettings, chunked: bool) -> None:
    client = connect(settings.model_copy(update={"body": 1000}))
    body = b" " * 1001
    content = iter([body[:500], body[500:]]) if chunked else body
    response = client.post("/processes/segment/execution", content=content)
    assert response.status_code == 413
    fits = b"{}".ljust(1000)
    headers = {"Content-Type": "application/json"}
    assert client.post("/processes/segment/execution", content=fits, headers=headers).status_code == 400


@pytest.mark.usefixtures("pretending")
def test_a_bomb_of_ranges_is_refused(connect: Connect, settings: ServiceSettings) -> None:
    client = connect(settings)
    href = ask(client, prefer="").json()["labels"]["href"]
    bomb = "bytes=" + ",".join(f"{n}-{n}" for n in range(10_000))
    assert client.get(href, headers={"Range": bomb}).status_code == 416
    for odd in ("bytes=9-1", "bytes=a-b", "bytes=" + "9" * 500 + "-", "lines=1-2", "bytes=-0"):
        assert client.get(href, headers={"Range": odd}).status_code in {200, 206, 400, 416}, odd
    several = client.get(href, headers={"Range": "bytes=0-1,4-5"})
    assert several.status_code == 206


def test_a_body_that_does_not_come_is_given_up(settings: ServiceSettings) -> None:
    sent: list[Any] = []

    async def never(*_: Any) -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    limits = Limits(never, settings.model_copy(update={"slowness": 0.1}), (), ())
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")], "client": ("::1", 1)}
    asyncio.run(limits(scope, never, send))
    assert sent[0]["status"] == 408


# --- a real socket ---


def connected(live: Live) -> socket.socket:
    parts = urlsplit(live.url)
    return socket.create_connection((str(parts.hostname), parts.port or 0), timeout=15)


def closes_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side ends a connection, with or without an answer."""
    end = time.monotonic() + seconds
    connection.settimeout(seconds)
    try:
        while connection.recv(1 << 16):
            if time.monotonic() > end:
                return False
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


def is_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def test_slow_clients_are_cut_and_others_served(start: Start) -> None:
    live = start(slowness=1)
    silent, half, dripping, lazy = (connected(live) for _ in range(4))
    half.sendall(b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
    dripping.sendall(b"POST /processes/segment/execution HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n")
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.sendall(b"GET /api HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200)  # hundreds of answers that nobody reads
    with connected(live) as good:
        good.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in good.recv(1 << 16)
    for connection in (silent, half, dripping):
        with connection:
            assert closes_within(connection, 15)
    with lazy:
        assert until(lambda: "closed" if is_reset(lazy) else "", 15)


def test_a_head_without_end_is_refused(start: Start) -> None:
    live = start()
    with connected(live) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * (1 << 16))
        assert closes_within(connection, 8)


# --- what is told ---


def test_problems_hold_no_path_and_the_log_no_query(
    connect: Connect, settings: ServiceSettings, caplog: pytest.LogCaptureFixture
) -> None:
    (settings.root / "..").resolve().mkdir(parents=True, exist_ok=True)
    broken = settings.model_copy(update={"catalog": settings.root.parent / "nowhere.json"})
    client = connect(broken)
    with caplog.at_level(logging.INFO, "geoseg.serve"):
        response = client.get("/scenes?token=hidden")
    assert response.status_code == 422
    assert "nowhere.json" in response.text
    assert str(settings.root.parent) not in response.text
    assert client.get("/health/ready").status_code == 503
    [line] = [record for record in caplog.records if record.__dict__.get("event") == "request"]
    assert line.__dict__["facts"]["route"] == "/scenes"
    assert "hidden" not in caplog.text


def test_an_unexpected_error_is_a_problem_and_is_logged(
    connect: Connect, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(settings)

    def broken() -> None:
        raise RuntimeError("secret of a library in /srv/data")

    monkeypatch.setattr(client.app.state.service.scenes, "list", broken)  # type: ignore[attr-defined]
    response = client.get("/scenes")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "library" not in response.text
    assert "secret of a library" in caplog.text


@given(st.lists(st.text("abc._-", min_size=1, max_size=8), min_size=2, max_size=6))
def test_no_path_stays_whole(words: list[str]) -> None:
    path = "/" + "/".join(words)
    assert f"/{words[0]}/" not in without_paths(f"{path}: is no raster ({path})")


def test_metrics_count_requests_and_jobs(connect: Connect, settings: ServiceSettings) -> None:
    client = connect(settings)
    client.get("/jobs")
    client.get("/made/up/by/a/client")
    figures = client.get("/metrics").text
    assert 'geoseg_requests_total{method="GET",route="/jobs",status="200"} 1.0' in figures
    assert 'geoseg_jobs{state="accepted"} 0.0' in figures
    assert "made" not in figures
