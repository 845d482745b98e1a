"""A PostgreSQL server of the tests' own, with PostGIS: Debian's programs in a temporary folder, on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "correct horse:battery/staple@"
"""Of the server's only user: what a URL has to quote."""

_PATIENCE = 60  # seconds until a server answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a running server listens, and who may enter."""

    port: int
    host: str = "127.0.0.1"
    user: str = "geoseg"
    password: str = PASSWORD

    def environment(self, database: str = "postgres") -> Mapping[str, str]:
        """What libpq, and so psql and ogr2ogr, connect with where nothing else is said."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
        }

    def psql(self, command: str, database: str = "postgres") -> list[list[str]]:
        """The rows that a command returns, as text."""
        done = subprocess.run(
            ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--field-separator=\t", "-v", "ON_ERROR_STOP=1"],
            input=command,
            env=os.environ | self.environment(database),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """An empty database with PostGIS, which ends with the context."""
        self.psql(f'CREATE DATABASE "{name}"')
        try:
            self.psql("CREATE EXTENSION postgis", name)
            yield name
        finally:
            self.psql(f'DROP DATABASE "{name}" WITH (FORCE)')


def _programs() -> Path:
    """The folder of the newest server that Debian's packages brought; skips where it lacks PostGIS."""
    folders = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found = sorted((path.parent for path in folders), key=lambda path: float(path.parent.name))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql postgresql-postgis")
    if not Path(f"/usr/share/postgresql/{found[-1].parent.name}/extension/postgis.control").exists():
        pytest.skip("PostGIS is not installed: apt-get install postgresql-postgis")
    return found[-1]


def _account() -> dict[str, Any]:
    """Whose processes the server's are, as `subprocess` wants it: it refuses to be run by root."""
    if os.geteuid() != 0:
        return {}
    with suppress(KeyError):
        account = pwd.getpwnam("postgres")
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return pytest.skip("PostgreSQL does not run as root, and there is no account postgres")


@contextmanager
def postgis_server() -> Iterator[Server]:
    """A server that is stopped, and its files removed, when the context ends."""
    programs, account = _programs(), _account()
    folder = Path(tempfile.mkdtemp(prefix="postgis-"))  # not below pytest's, which other users may not enter
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        _create(programs, folder, account)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            server = Server(port=probe.getsockname()[1])
        with _running(programs, folder, account, server):
            yield server
    finally:
        shutil.rmtree(folder)


def _create(programs: Path, folder: Path, account: Mapping[str, Any]) -> None:
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)  # it is no secret, and the file goes at once
    subprocess.run(
        [
            programs / "initdb", f"--pgdata={folder / 'data'}", "--username=geoseg", f"--pwfile={secret}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
        ],
        check=True, capture_output=True, cwd=folder, **account,
    )  # fmt: skip
    secret.unlink()


@contextmanager
def _running(programs: Path, folder: Path, account: Mapping[str, Any], server: Server) -> Iterator[None]:
    settings = {"listen_addresses": server.host, "port": server.port, "unix_socket_directories": folder, "fsync": "off"}
    options = [f"-c{name}={value}" for name, value in settings.items()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log, cwd=folder, **account
        )
    try:
        _wait(process, server, folder / "log")
        yield
    finally:
        process.send_signal(signal.SIGINT)  # at once, without waiting for clients
        process.wait(timeout=_PATIENCE)


def _wait(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    ask = ["pg_isready", "--quiet", f"--host={server.host}", f"--port={server.port}"]
    while subprocess.run(ask, check=False).returncode != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
