"""The page as it is sent: to whom, under which policy, and with nothing in it that asks anybody else."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from geoseg.serve import web
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.web import prefers_html
from tests.serve.conftest import Connect
from tests.serve.test_limits import SECRET, tokens

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(path for path in Path(web.__file__).with_name("page").iterdir() if path.name != "index.html")


def test_people_get_a_page_and_programs_the_landing_page(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    document = client.get("/")
    assert document.json()["type"] == "Catalog"
    assert page.headers["vary"] == document.headers["vary"] == "Accept"


@given(st.lists(st.sampled_from(["text/html", "application/json", "*/*", "text/html;q=0", "q=;;,", "é"])))
def test_only_who_names_html_gets_it(wishes: list[str]) -> None:
    accept = ",".join(wishes)
    assert prefers_html(accept) <= ("text/html" in accept)
    assert not prefers_html(f"{accept},text/html;q=0.5,application/json")


def test_the_policy_allows_no_other_host_and_no_inline_code(client: TestClient) -> None:
    policy = client.get("/", headers=BROWSER).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert {source for rule in rules.values() for source in rule.split()} == {"'none'", "'self'", "data:", "blob:"}
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"


@pytest.mark.skipif(find_spec("maplibre") is None, reason="needs maplibre, of the extra serve")
def test_what_the_page_names_is_there(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER).text
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', page))
    for path in FILES:
        named |= set(re.findall(r'from "\./([^"]+)"', path.read_text()))
    assert {path.name for path in FILES} <= named
    for name in sorted(named):
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(f"/page/{name}", headers={"If-None-Match": '"other"'}).content == answer.content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_names_a_host_or_makes_markup_of_text(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)


@pytest.mark.parametrize("name", ["index.html", "..%2fweb.py", "%2e%2e/web.py", "web.py", "maplibre-gl.js.map", "a\\b"])
def test_no_other_file_is_sent(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_without_maplibre_the_service_says_what_is_missing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_files", dict)
    answer = client.get("/page/maplibre-gl.js")
    assert answer.status_code == 404
    assert "pip install 'geoseg[serve]'" in answer.json()["detail"]


def test_the_page_needs_no_token_and_what_it_shows_does(
    connect: Connect, settings: ServiceSettings, tmp_path: Path
) -> None:
    client = connect(settings.model_copy(update={"tokens": tokens(tmp_path)}))
    assert client.get("/", headers=BROWSER).status_code == 200
    assert client.get("/page/main.js").status_code == 200
    assert client.get("/jobs").status_code == 401
    assert client.get("/jobs", headers={"Authorization": f"Bearer {SECRET}"}).status_code == 200
