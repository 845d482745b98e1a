"""What workers are asked, what they are compared for, and what they are handed: on threads of this process."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from geoseg import workers
from geoseg.errors import ClusterError, SourceError
from geoseg.source.credentials import Credentials
from geoseg.source.location import parse_location
from geoseg.store import open_store
from geoseg.store.folder import FolderStore
from geoseg.workers import (
    HandOver,
    Worker,
    ask_workers,
    blind_workers,
    clock_of,
    differences,
    marks_of,
    run_on,
    several,
    strangers,
    versions_here,
)
from tests.clusters import threads_as_workers


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with threads_as_workers(2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def addresses(client: Client) -> list[str]:
    return list(client.scheduler_info(n_workers=-1)["workers"])


def worker(address: str, **versions: str) -> Worker:
    return Worker(address=address, resources={}, versions=versions)


# --- comparing ---


def test_what_decides_the_bytes_must_not_differ_and_the_rest_is_told() -> None:
    here = {"geoseg": "1.0", "python": "3.11.7", "torch": "2.9.0+cpu", "numpy": "2.4"}
    same = here | {"torch": "2.9.0+cu128"}  # another build of the same version
    found = [
        worker("tcp://a:1", **same),
        worker("tcp://b:1", **same | {"geoseg": "0.9", "numpy": "2.3"}),
        worker("tcp://c:1", **same | {"torch": "2.8.0"}),
        worker("tcp://d:1", geoseg="1.0", torch="2.9.0", numpy="2.4", python="3.12.1"),
    ]
    wrong, odd = differences(found, here)
    assert wrong == [
        "geoseg is 0.9 on worker tcp://b:1, but 1.0 here",
        "torch is 2.8.0 on worker tcp://c:1, but 2.9.0+cpu here",
    ]
    assert odd == [
        "python is 3.12.1 on worker tcp://d:1, but 3.11.7 here",
        "numpy is 2.3 on worker tcp://b:1, but 2.4 here",
    ]


def test_a_package_that_a_worker_lacks_is_a_reason_to_refuse_it() -> None:
    wrong, odd = differences([worker("tcp://a:1", geoseg="1.0")], {"geoseg": "1.0", "rasterio": "1.4"})
    assert (wrong, odd) == (["rasterio is none on worker tcp://a:1, but 1.4 here"], [])


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_every_worker_that_differs_is_counted_once(kinds: list[int]) -> None:
    found = [worker(f"tcp://h:{port}", geoseg=f"1.{kind}") for port, kind in enumerate(kinds)]
    wrong, odd = differences(found, {"geoseg": "1.0"})
    assert len(wrong) == len(set(kinds) - {0})
    assert not odd
    for kind in set(kinds) - {0}:
        names = several(f"tcp://h:{port}" for port, own in enumerate(kinds) if own == kind)
        assert f"geoseg is 1.{kind} on {names}, but 1.0 here" in wrong


# --- asking ---


def test_workers_describe_themselves(client: Client) -> None:
    found = ask_workers(client, gpus=False)
    assert {each.address for each in found} == set(addresses(client))
    for each in found:
        assert (each.trouble, each.missing, each.gpus, each.threads, each.host) == ("", (), (), 1, "127.0.0.1")
        assert each.versions == versions_here()
    assert differences(found, versions_here()) == ([], [])


def test_gpus_are_found_by_asking_torch_there(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert {each.gpus for each in ask_workers(client, gpus=True)} == {("card 0", "card 1")}
    assert {each.gpus for each in ask_workers(client, gpus=False)} == {()}


def test_requirements_that_are_not_met_are_named(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=2", "click>=999", "no-such-thing>=1", "monai>=1 ; extra == 'bench'"]
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    assert {each.missing for each in ask_workers(client, gpus=False)} == {("click>=999", "no-such-thing")}


def test_a_worker_that_cannot_answer_says_why(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gpus: bool) -> dict[str, Any]:
        raise OSError(f"libgdal.so: cannot\nopen {gpus}")

    monkeypatch.setattr(workers, "_describe", broken)
    found = ask_workers(client, gpus=False)
    assert {each.trouble for each in found} == {"OSError: libgdal.so: cannot open False"}
    monkeypatch.setattr(metadata, "version", _no_geoseg)
    assert {each.trouble for each in ask_workers(client, gpus=False)} == {"geoseg is not installed there"}


def _no_geoseg(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_a_worker_that_does_not_answer_is_named(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 0.2)
    with pytest.raises(ClusterError, match=r"no answer from workers tcp://.*, tcp://.* within 0 s"):
        run_on(client, time.sleep, 2, workers=addresses(client))
    time.sleep(2)


def test_nobody_to_ask(client: Client) -> None:
    assert run_on(client, time.time, workers=[]) == {}


def test_clocks_of_this_machine_are_the_same(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask_workers(client, gpus=False)
    assert set(clock_of(client, found).values()) == {0.0}
    monkeypatch.setattr(
        workers,
        "run_on",
        lambda *_, workers: {each: time.time() + 60 * sign for each, sign in zip(workers, (1, -1), strict=True)},
    )
    ahead, behind = clock_of(client, found).values()
    assert 59 < ahead <= 60
    assert -60 <= behind < -59


# --- reach ---


def test_what_all_see_is_in_reach(client: Client, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").write_bytes(b"pixels")
    look = partial(marks_of, parse_location(tmp_path / "scene.tif"))
    assert blind_workers(client, addresses(client), look) == {}
    assert strangers(client, addresses(client), open_store(tmp_path)) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"], "nothing is left behind"


class _Elsewhere(FolderStore):
    """Arrives on a worker as another folder."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(FolderStore, root=self.root.parent / "elsewhere"), ()


def test_a_worker_that_writes_somewhere_else_is_found(client: Client, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    found = strangers(client, addresses(client), _Elsewhere(root=tmp_path / "out"))
    assert found == dict.fromkeys(addresses(client), "what it writes does not arrive here")


def test_a_worker_that_cannot_write_says_why(client: Client, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    found = strangers(client, addresses(client), _Elsewhere(root=tmp_path / "out"))  # there is no other folder
    assert set(found) == set(addresses(client))
    assert all("elsewhere" in why for why in found.values())


class _Look:
    """Tells one thing here and another on a worker."""

    def __init__(self, told: dict[str, str] | Exception) -> None:
        self.told = told

    def __reduce__(self) -> tuple[Any, ...]:
        return _Look, (
            {"scene.tif": "5 bytes"} if isinstance(self.told, dict) else SourceError("scene.tif: not there"),
        )

    def __call__(self) -> dict[str, str]:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def test_another_file_of_the_same_name_is_none(client: Client) -> None:
    found = blind_workers(client, addresses(client), _Look({"scene.tif": "6 bytes"}))
    assert set(found.values()) == {"scene.tif: is another file there (5 bytes; here 6 bytes)"}
    assert set(found) == set(addresses(client))


def test_marks_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"123")
    (place, mark), *rest = marks_of(parse_location(tmp_path / "a.tif")).items()
    assert place == str(tmp_path / "a.tif")
    assert mark.startswith("3 bytes of ")
    assert not rest
    with pytest.raises(SourceError, match=r"b\.tif"):
        marks_of(parse_location(tmp_path / "b.tif"))


# --- credentials ---


def test_credentials_are_taken_back(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "here")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    held = Credentials(environment={"AWS_REGION": "there", "AWS_SESSION_TOKEN": "s3cret-token"}, queries={})
    client.register_plugin(HandOver(held), name="test")
    assert os.environ["AWS_REGION"] == "there"
    assert os.environ["AWS_SESSION_TOKEN"] == "s3cret-token"
    client.unregister_worker_plugin("test")


def test_credentials_show_nothing() -> None:
    held = Credentials(environment={"AWS_SECRET_ACCESS_KEY": "s3cret-key"}, queries={"ticket": "sig=s3cret"})
    assert "s3cret" not in f"{held} {HandOver(held)!r} {HandOver(held)}"
    assert pickle.loads(pickle.dumps(HandOver(held))).credentials == held, "only the plugin itself carries them"
