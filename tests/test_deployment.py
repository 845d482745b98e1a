"""Dockerfile and compose.yaml, without Docker: what they say holds, and the commands in them make a service."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clusters import running, until
from tests.conftest import CHECKOUT

COMPOSE = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GUIDE = CHECKOUT / "docs" / "how-to" / "deploy.md"
TOKEN = "a-token-of-this-test"
PYTHON = {
    "geoseg": [sys.executable, "-u", "-m", "geoseg"],
    "dask": [sys.executable, "-m", "dask"],
    "python": [sys.executable],
}
"""The programs of the image, here."""


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order, without comments."""
    lines = [line for line in (CHECKOUT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def last(word: str) -> str:
    """What the last instruction of a name says."""
    return [rest for name, rest in instructions() if name == word][-1]


def words_of(name: str) -> list[str]:
    """The command line of one service."""
    service = SERVICES[name]
    words = [*service.get("entrypoint", json.loads(last("ENTRYPOINT"))), *service["command"]]
    return [*PYTHON[words[0]], *words[1:]]


def test_the_image_is_made_of_what_is_there() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    arguments = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= set(project["optional-dependencies"])
    assert json.loads(last("ENTRYPOINT"))[0] in project["scripts"]
    admitted = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word.removeprefix("./") for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}
    assert copied == admitted
    assert all((CHECKOUT / name).exists() for name in copied)
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "geoseg"}
    assert needed <= copied, "the build of the wheel reads them"
    pips = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert pips
    assert all("--constraint constraints.txt" in line for line in pips)


def test_nothing_runs_as_root_or_gains_rights() -> None:
    names = [name for name, _ in instructions()]
    assert last("USER") not in {"root", "0"}
    assert "RUN" not in names[names.index("USER") :]
    assert f"useradd --uid 10001 --create-home {last('USER')}" in " ".join(rest for _, rest in instructions())
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
        assert "privileged" not in service
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"service": ["127.0.0.1:8080:8080"]}


def test_secrets_are_files_that_are_never_committed_or_built_in() -> None:
    files = [secret["file"] for secret in COMPOSE["secrets"].values()]
    used = {name for service in SERVICES.values() for name in service["secrets"]}
    assert used == set(COMPOSE["secrets"])
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", *files], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    if asked.returncode == 128:
        pytest.skip("not a checkout of git")
    assert asked.stdout.split() == files
    assert [name for name, service in SERVICES.items() if "tokens" in service["secrets"]] == ["service"]


def test_service_and_workers_see_the_same_files_and_workers_have_the_gpus() -> None:
    volumes = [service["volumes"] for service in SERVICES.values()]
    assert all(each == volumes[0] for each in volumes)
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in SERVICES["service"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


class Here:
    """What stands at fixed places of the containers, in a folder and on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = {
            "/srv/": f"{folder}/srv/",
            "/etc/geoseg/": f"{folder}/etc/",
            "/run/secrets/": f"{folder}/secrets/",
            "tls://scheduler:": "tls://127.0.0.1:",
            "8786": str(free_port()),
            "host: 0.0.0.0": "host: 127.0.0.1",
            "port: 8080": "port: 0",
            "device: auto": "device: cpu",
        }

    def text(self, text: str) -> str:
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def prepare(self) -> None:
        """Settings, certificates, a token and two scenes."""
        from tests.serve.conftest import add_scene, write_listing

        for name in ("etc", "secrets", "srv/maps"):
            (self.folder / name).mkdir(parents=True)
        for volume in SERVICES["service"]["volumes"]:
            source, _, target = volume.partition(":")
            if source.startswith("./deploy/"):
                file = self.folder / "etc" / Path(target.split(":")[0]).name
                file.write_text(self.text((CHECKOUT / source).read_text()))
        for line in re.findall(r"^\$ (openssl (?:req|x509) .+)$", GUIDE.read_text(), re.MULTILINE):
            subprocess.run(shlex.split(line), check=True, capture_output=True, cwd=self.folder / "secrets")
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        (self.folder / "secrets" / "tokens").write_text(f"- name: ann\n  sha256: {digest}\n")
        add_scene(self.folder / "srv" / "scenes", "before")
        write_listing(self.folder / "srv" / "scenes")


def fetched(url: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Prefer": "respond-async"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def has_begun(process: subprocess.Popen[bytes], log: Path, sign: bytes) -> bool:
    """Whether a process has said a word, or ended."""
    return sign in log.read_bytes() or process.poll() is not None


@pytest.mark.slow
def test_the_commands_of_compose_make_a_map(tmp_path: Path) -> None:
    """Scheduler, worker and service as processes, with TLS between them; a job over HTTP; the health check."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    here = Here(tmp_path)
    here.prepare()
    own = {name: here.text(value) for name, value in SERVICES["worker"]["environment"].items()}
    environment = own | {"PYTHONPATH": str(CHECKOUT), "CUDA_VISIBLE_DEVICES": ""}
    logs = {name: tmp_path / f"{name}.log" for name in ("scheduler", "worker", "service")}
    with ExitStack() as stack:
        for name, sign in (("scheduler", b"Scheduler at:"), ("worker", b"at work"), ("service", b"http://")):
            words = [here.text(word) for word in words_of(name)]
            words += ["--host", "127.0.0.1"] if name == "scheduler" else []
            words += ["--workers", "1"] if name == "worker" else []
            process = stack.enter_context(running(*words, log=logs[name], env=environment, cwd=tmp_path))
            log = logs[name]
            until(partial(has_begun, process, log, sign))
            assert process.poll() is None, log.read_text()
        url = next(line for line in logs["service"].read_text().splitlines() if line.startswith("http://"))
        job = fetched(f"{url}/processes/segment/execution", {"inputs": {"scene": "before", "tile": 64}})
        end = time.monotonic() + 120
        while (status := fetched(f"{url}/jobs/{job['jobID']}"))["status"] in {"accepted", "running"}:
            assert time.monotonic() < end, status
            time.sleep(0.3)
        assert status["status"] == "successful", status
        report = fetched(fetched(f"{url}/jobs/{job['jobID']}/results")["report"]["href"])
        check = shlex.join(json.loads(last("HEALTHCHECK").partition("CMD ")[2])).replace("http://127.0.0.1:8080", url)
        health = [*PYTHON["python"], *shlex.split(check)[1:]]
        assert subprocess.run(health, check=False, timeout=30, capture_output=True).returncode == 0
    assert subprocess.run(health, check=False, timeout=30, capture_output=True).returncode != 0, "it has ended"
    assert [worker["name"].partition("127")[0] for worker in report["workers"]] == ["tls://"]
    assert (tmp_path / "srv" / "maps" / "jobs" / job["jobID"] / "run" / "labels.tif").stat().st_size > 0
