"""Where a service reads from: the hosts of its list, whatever a client writes and wherever a server leads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
from starlette.testclient import TestClient

from geoseg.errors import ConfigError
from geoseg.serve import egress
from geoseg.serve.egress import Egress, allowed_location, demand_public
from geoseg.serve.problems import Problem
from geoseg.serve.settings import ServiceSettings
from geoseg.testing.server import Fault, RangeServer, range_server
from tests.serve.conftest import Connect

HOSTILE = [
    # this machine and its neighbours, written in every way
    "http://127.0.0.1/a.tif", "http://2130706433/a.tif", "http://0x7f000001/a.tif", "http://0177.0.0.1/a.tif",
    "http://0x7f.1/a.tif", "http://127.1/a.tif", "http://[::1]/a.tif", "http://[::ffff:127.0.0.1]/a.tif",
    "http://[::ffff:7f00:1]/a.tif", "http://[0:0:0:0:0:ffff:127.0.0.1]/a.tif", "http://localhost/a.tif",
    "http://LOCALHOST/a.tif", "http://localhost./a.tif", "http://0/a.tif", "http://0.0.0.0/a.tif",
    "http://10.0.0.1/a.tif", "http://192.168.1.1/a.tif", "http://172.16.0.1/a.tif", "http://[fe80::1]/a.tif",
    "http://[fc00::1]/a.tif", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/",
    "http://metadata.google.internal/computeMetadata/v1/", "http://[::]/a.tif", "http://①②⑦.0.0.1/a.tif",
    # the allowed host's name, put elsewhere
    "http://data.example.org@evil.example/a.tif", "http://data.example.org:80@evil.example/a.tif",
    "http://evil.example/data.example.org/a.tif", "http://data.example.org.evil.example/a.tif",
    "http://evil.example#@data.example.org/a.tif", "http://evil.example?@data.example.org/a.tif",
    "http://evil.example\\@data.example.org/a.tif", "http://data.example.org./a.tif", "http://data.example.org:22/a.tif",
    "http://data.example.org:99999/a.tif", "http://data.example.org:-1/a.tif", "http://xdata.example.org/a.tif",
    "http://data%2eexample%2eorg/a.tif", "http://data.example.org%00.evil.example/a.tif",
    "http://xn--data-.example.org/a.tif", "http://d\u0430ta.example.org/a.tif", "http://data。example。org/a.tif",
    "http:///a.tif", "http://user:s3cret@data.example.org/a.tif", "http://data.example.org\n.evil.example/a.tif",
    # no http at all
    "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "/vsicurl/http://data.example.org/a.tif",
    "ftp://data.example.org/a.tif", "gopher://data.example.org/", "s3://other/a.tif", "s3:///a.tif",
    "gs://bucket/a.tif",
    "<VRTDataset/>", "", " ", "PG:host=127.0.0.1", "WMS:http://data.example.org", "\\\\evil\\share\\a.tif",
    "//evil/a.tif",
]  # fmt: skip
HOSTS = ("data.example.org", "s3://scenes")


@pytest.mark.parametrize("href", HOSTILE)
def test_a_hostile_location_is_a_problem(href: str) -> None:
    with pytest.raises(Problem) as caught:
        allowed_location(href, HOSTS)
    assert caught.value.args[0] == 400
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("href", HOSTILE)
def test_nothing_is_on_an_empty_list(href: str) -> None:
    with pytest.raises(Problem):
        allowed_location(href, ())


@pytest.mark.parametrize(
    "href",
    [
        "http://data.example.org/a.tif", "HTTPS://Data.Example.ORG/a.tif?sig=1", "https://data.example.org:443/a.tif",
        "s3://scenes/a/b.tif",
    ],
)  # fmt: skip
def test_what_is_listed_is_allowed(href: str) -> None:
    allowed_location(href, HOSTS)


def test_at_least_fifty_hostile_hosts_are_tried() -> None:
    assert len(set(HOSTILE)) >= 50


@pytest.mark.parametrize("entry", ["", "http://host", "Host.Example", "host/path", " host"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="--hosts"):
        Egress((entry,))


def test_a_client_gets_the_problem_and_no_job(connect: Connect, settings: ServiceSettings) -> None:
    client: TestClient = connect(settings.model_copy(update={"hosts": HOSTS}))
    for href in HOSTILE:
        response = client.post("/processes/segment/execution", json={"inputs": {"scene": {"href": href}}})
        assert response.status_code == 400, href
        assert response.headers["content-type"] == "application/problem+json"
    assert client.get("/jobs").json()["numberMatched"] == 0


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1",
     "fe80::1%2", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_a_listed_name_with_an_address_of_a_private_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    async def ask() -> list[str]:
        loop = asyncio.get_running_loop()

        async def answers(*_: Any, **__: Any) -> list[Any]:
            return [(0, 0, 0, "", ("93.184.215.14", 80)), (0, 0, 0, "", (address, 80))]

        monkeypatch.setattr(loop, "getaddrinfo", answers)
        return await demand_public("data.example.org", 80)

    with pytest.raises(Problem, match="private"):
        asyncio.run(ask())


# --- the proxy ---


@contextmanager
def proxied(hosts: tuple[str, ...]) -> Iterator[Any]:
    """An opener whose requests go out through a proxy with this list."""
    import threading

    loop = asyncio.new_event_loop()
    way = Egress(hosts)
    loop.run_until_complete(way.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield build_opener(ProxyHandler({"http": way.environment()["http_proxy"]}))
    finally:
        asyncio.run_coroutine_threadsafe(way.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with range_server({"/a.bin": bytes(range(256)) * 1000}) as made:
        yield made


def place(server: RangeServer) -> str:
    return server.url.removeprefix("http://")


def test_the_proxy_passes_what_is_listed_unchanged(server: RangeServer) -> None:
    with proxied((place(server),)) as opener, opener.open(f"{server.url}/a.bin?x=1", timeout=10) as reply:
        assert reply.read() == server.files["/a.bin"]
    assert (server.asked[0].path, server.asked[0].query) == ("/a.bin", "x=1")
    assert "proxy-connection" not in server.asked[0].headers


def test_the_proxy_lets_nothing_else_through(server: RangeServer) -> None:
    with proxied(("127.0.0.1:1", "data.example.org")) as opener, pytest.raises(HTTPError) as caught:
        opener.open(f"{server.url}/a.bin", timeout=10)
    assert caught.value.code == 403
    caught.value.close()
    assert server.asked == []


def test_a_redirect_leads_to_no_other_host(server: RangeServer) -> None:
    with range_server({"/secret": b"secret"}) as inner, proxied((place(server),)) as opener:
        server.fault = lambda _: Fault(status=302, headers={"Location": f"{inner.url}/secret"})
        with pytest.raises(HTTPError) as caught:
            opener.open(f"{server.url}/a.bin", timeout=10)
        assert caught.value.code == 403
        caught.value.close()
        assert inner.asked == []


def test_a_name_of_this_machine_is_refused_though_it_is_listed(server: RangeServer) -> None:
    port = server.server_address[1]
    with proxied((f"localhost:{port}",)) as opener, pytest.raises(HTTPError) as caught:
        opener.open(f"http://localhost:{port}/a.bin", timeout=10)
    caught.value.close()
    assert server.asked == []


@pytest.mark.parametrize(
    "request_line",
    [b"", b"GET / HTTP/1.1", b"CONNECT 127.0.0.1:22 HTTP/1.1", b"CONNECT evil HTTP/1.1", b"GET http:///x HTTP/1.1",
     b"CONNECT [::1]:80 HTTP/1.1", b"\xff\xfe", b"GET http://[ HTTP/1.1", b"x " * 20000],
)  # fmt: skip
def test_the_proxy_ends_odd_connections(request_line: bytes) -> None:
    async def send() -> bytes:
        way = Egress(())
        await way.start()
        port = int(way.environment()["http_proxy"].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_line + b"\r\n\r\n")
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            await way.stop()

    assert not asyncio.run(send()).startswith(b"HTTP/1.1 200")


def test_gdal_goes_out_by_the_proxy(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's own process is told by its environment; jobs are told the same."""
    with proxied(()) as opener:
        url = next(handler.proxies["http"] for handler in opener.handlers if hasattr(handler, "proxies"))
        for name in ("http_proxy", "HTTP_PROXY", "GDAL_HTTP_PROXY"):
            monkeypatch.setenv(name, url)
        monkeypatch.setenv("no_proxy", "")
        import rasterio

        with pytest.raises(rasterio.errors.RasterioIOError), rasterio.open(f"/vsicurl/{server.url}/a.bin"):
            pass
    assert server.asked == []


def test_a_listed_bucket_is_reached_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.0.0.5:9000")
    assert Egress(HOSTS)._is_endpoint("10.0.0.5", 9000)
    assert not Egress(HOSTS)._is_endpoint("10.0.0.5", 9001)
    assert not Egress(("data.example.org",))._is_endpoint("10.0.0.5", 9000)
    reach = Egress(HOSTS)._may_reach
    assert reach("scenes.s3.eu-central-1.amazonaws.com", 443, tunnelled=True)
    assert not reach("other.s3.eu-central-1.amazonaws.com", 443, tunnelled=True)
    assert not reach("scenes.s3.evil.example", 443, tunnelled=True)


def test_names_that_cannot_be_found_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()

        async def fails(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(loop, "getaddrinfo", fails)
        await egress.demand_public("data.example.org", 80)

    with pytest.raises(Problem, match="no address"):
        asyncio.run(ask())
