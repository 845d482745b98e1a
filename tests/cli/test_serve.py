"""How a service is started: what is wrong is one line, before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from geoseg.cli.serve import _listening
from geoseg.errors import ConfigError
from geoseg.serve.settings import ServiceSettings, read_settings
from tests.cli.conftest import Call


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--root is missing"),
        (["--root", "x", "--port", "99999"], "--port"),
        (["--root", "x", "--device", "gpu"], "--device"),
        (["--root", "x", "--host", "0.0.0.0"], "--tokens"),
        (["--root", "x", "--host", "203.0.113.7", "--tokens", "nowhere.yaml"], "--host 203.0.113.7"),
        (["--root", "x", "--tokens", "nowhere.yaml"], "nowhere.yaml"),
        (["--root", "x", "--hosts", "http://a"], "--hosts http://a"),
        (["--root", "x", "--models", "no-such-model"], "no-such-model"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_options_end_with_one_line(
    call: Call, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("serve", "--log-text", *([*words, "--port", "0"] if "--port" not in words else words))
    assert (ended.code, ended.out) == (2, "")
    [line] = ended.error_lines
    assert told in line
    assert not (tmp_path / "x").exists()


def test_a_port_that_is_taken_is_told(call: Call, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = call("serve", "--log-text", "--root", tmp_path / "root", "--port", port)
    assert ended.code == 2
    assert f"--port {port}" in ended.error_lines[0]


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("root: /srv/maps\nport: 1\nwindow-side: 7\nhosts: [a.example, 's3://b']\n")
    found = read_settings(file, {"port": "2", "models": "spectral-baseline,flood-s2"})
    assert (found.root, found.port, found.window_side) == (Path("/srv/maps"), 2, 7)
    assert found.hosts == ("a.example", "s3://b")
    assert found.models == ("spectral-baseline", "flood-s2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 1", "no such option"),
        ("- a", "lines like"),
        ("a: [", "YAML"),
        ("window-side: 7\nwindow_side: 8", "line 2: window_side stands there twice"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_settings(file, {"root": "x"})


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_does_not_wait_for_the_client_to_confirm_its_head(host: str) -> None:
    try:
        listening = _listening(host, 0)
    except ConfigError:
        pytest.skip(f"this machine has no {host}")
    with listening, socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
