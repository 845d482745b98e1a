"""How a run reaches workers: the same bytes wherever they are, and a clear word where they cannot take part."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.system import MEMORY_LIMIT

from geoseg import cluster as cluster_module
from geoseg import workers
from geoseg.cluster import CONNECT_SECONDS, STATIC_SECONDS, Cluster, ClusterOptions
from geoseg.errors import ClusterError, ConfigError, MissingExtraError
from geoseg.events import ClusterReady, Event, Warned
from geoseg.pipeline import plan_segment, segment
from geoseg.runner import DaskRunner, InlineRunner
from geoseg.settings import Settings
from geoseg.source.credentials import VARIABLES
from geoseg.testing import write_scene
from geoseg.tuning import Found
from geoseg.workers import Worker
from tests.clusters import scheduler_process, threads_as_workers, worker_processes

TEMPLATES = Path(__file__).resolve().parent.parent / "pipelines" / "clusters"
SMALL: dict[str, Any] = {"tile": 64, "chunk": 150, "vector": (), "backend": "torch", "device": "cpu"}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster and no credentials but those that a test names."""
    for name in ("DASK_SCHEDULER_ADDRESS", *VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write_scene(path, 200, 180, seed=1)
    return path


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a scheduler and two workers, processes of their own that were started without any credentials."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with scheduler_process(folder), worker_processes(folder, "--workers", "2", "--name", "w"):
        yield folder


@contextmanager
def told(**options: Any) -> Iterator[tuple[Cluster, list[Event]]]:
    with Cluster(ClusterOptions(**options)) as cluster:
        yield cluster, []


def unheard(event: Event) -> None:
    pytest.fail(f"nothing is to be said, not {event}")


def digest(out: Path) -> str:
    return hashlib.sha256((out / "labels.tif").read_bytes() + (out / "confidence.tif").read_bytes()).hexdigest()


# --- where the work is done ---


def test_scenes_share_a_cluster_and_give_the_same_bytes(
    scene: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(scene, out=tmp_path / "here", **SMALL)
    monkeypatch.chdir(scene.parent)
    (tmp_path / "linked").symlink_to(scene)
    events: list[Event] = []
    with Cluster(ClusterOptions(scheduler_file=elsewhere / "scheduler.json")) as cluster:
        for name in ("first", "second"):
            out = os.path.relpath(tmp_path / name)  # the workers are in another folder
            segment("scene.tif", out=out, cluster=cluster, on_event=events.append, **SMALL)
    assert digest(tmp_path / "first") == digest(tmp_path / "second") == digest(tmp_path / "here")
    ready = [event for event in events if isinstance(event, ClusterReady)]
    assert [(event.workers, event.address[:16]) for event in ready] == [(2, "tcp://127.0.0.1:")]
    assert not [event for event in events if isinstance(event, Warned)]
    assert not list(tmp_path.glob("**/reach-*"))


@pytest.mark.parametrize("way", ["address", "file", "variable"])
def test_a_plan_counts_the_workers_of_a_cluster(
    scene: Path, elsewhere: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = elsewhere / "scheduler.json"
    address = re.search(r"tcp://[\d.:]+", file.read_text())
    assert address
    options: dict[str, Any] = {"scheduler": address[0]} if way == "address" else {"scheduler_file": str(file)}
    if way == "variable":
        options = {}
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address[0])
    plan = plan_segment(scene, **options, **(SMALL | {"chunk": None}))
    assert plan.workers == 2
    assert plan.memory_limit == int(MEMORY_LIMIT) // 2
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)  # it would be a second place for the work
    assert len(plan.chunks) > len(plan_segment(scene, workers=1, **(SMALL | {"chunk": None})).chunks)


def test_what_is_given_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://10.0.0.1:8786")
    assert Cluster().elsewhere
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.5)
    with (
        Cluster(ClusterOptions(scheduler="tcp://127.0.0.1:1")) as cluster,
        pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:1"),
    ):
        cluster.ready(print)
    with pytest.raises(
        ConfigError, match=r"--workers 2 and DASK_SCHEDULER_ADDRESS=tcp://10\.0\.0\.1:8786 exclude each"
    ):
        Cluster(ClusterOptions(workers=2))


PLACES = {
    "workers": (2, "--workers 2"),
    "scheduler": ("tcp://a:1", "--scheduler tcp://a:1"),
    "scheduler_file": (Path("s.json"), "--scheduler-file s.json"),
    "cluster": (Path("c.yaml"), "--cluster c.yaml"),
}


@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("second", PLACES)
def test_there_is_one_place_for_the_work(first: str, second: str) -> None:
    options: dict[str, Any] = {first: PLACES[first][0], second: PLACES[second][0]}
    if first == second:
        assert list(ClusterOptions(**options).named) == [PLACES[first][1].split()[0]]
        return
    with pytest.raises(ConfigError) as caught:
        ClusterOptions(**options)
    assert PLACES[first][1] in str(caught.value)
    assert PLACES[second][1] in str(caught.value)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"worker_timeout": 0.0}, {"worker_timeout": float("inf")}])
def test_numbers_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        ClusterOptions(**wrong)


def test_bad_input_is_refused_before_anything_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "ready", lambda *_: pytest.fail("a cluster was reached"))
    with pytest.raises(OSError, match=r"no\.tif"):
        segment(tmp_path / "no.tif", out=tmp_path / "out", scheduler="tcp://127.0.0.1:1")


def test_one_process_needs_no_dask() -> None:
    with Cluster() as cluster:
        cluster.ready(unheard)
        assert isinstance(cluster.runner(unheard), InlineRunner)
        assert (cluster.size, cluster.memory, cluster.neighbours, cluster.elsewhere) == (1, None, 1, False)
        assert cluster.call(os.getpid) == os.getpid()


# --- workers that will not do ---


def _loops() -> set[threading.Thread]:
    """Threads of Dask's clients: one that is left over may be collected at a moment when Dask waits for it for ever."""
    return {thread for thread in threading.enumerate() if thread.name == "IO loop"}


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.5)
    before = _loops()
    with Cluster(ClusterOptions(scheduler="tcp://127.0.0.1:1")) as cluster:
        for _ in range(2):  # the next scene is told at once
            with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:1: no Dask scheduler answers within"):
                cluster.ready(unheard)
    assert not _loops() - before


@pytest.mark.parametrize("address", ["nonsense://a:1", "tls://127.0.0.1:1", "tcp://[:1"])
def test_an_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.5)
    before = _loops()
    with Cluster(ClusterOptions(scheduler=address)) as cluster, pytest.raises(ClusterError) as caught:
        cluster.ready(unheard)
    assert not _loops() - before
    assert str(caught.value).startswith(f"{address}: no Dask scheduler answers")
    assert "\n" not in str(caught.value)


def test_a_static_cluster_is_given_less_than_30_seconds() -> None:
    assert CONNECT_SECONDS + STATIC_SECONDS < 30


def test_a_cluster_without_workers_says_how_to_start_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "STATIC_SECONDS", 0.3)
    with threads_as_workers(0) as empty, Cluster(ClusterOptions(scheduler=empty.scheduler_address)) as cluster:
        with pytest.raises(ClusterError) as caught:
            cluster.ready(unheard)
        place = empty.scheduler_address
    assert str(caught.value) == f"{place}: it has no worker; start some with geoseg worker --scheduler {place}"


def test_workers_that_come_late_are_waited_for(scene: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("class: tests.clusters.EmptyCluster\nadapt: {minimum: 0, maximum: 5}\n")
    with (
        Cluster(ClusterOptions(cluster=path, worker_timeout=0.5)) as cluster,
        pytest.raises(ClusterError, match=r"c\.yaml: it has no worker after 0 s; .* or raise --worker-timeout"),
    ):
        cluster.ready(unheard)
    assert plan_segment(scene, cluster=path, **SMALL).workers == 5, "a plan starts nothing"


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster of two workers that are what a test says."""
    with threads_as_workers(2) as found, Cluster(ClusterOptions(scheduler=found.scheduler_address)) as cluster:

        def changed(**facts: Any) -> Cluster:
            ask = workers.ask_workers

            def answer(client: Client, *, gpus: bool) -> list[Worker]:
                first, second = sorted(ask(client, gpus=gpus), key=lambda worker: worker.address)
                return [first, replace(second, **facts)]

            monkeypatch.setattr(workers, "ask_workers", answer)
            return cluster

        yield changed


def test_a_gpu_that_nobody_has(two_threads: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "STATIC_SECONDS", 0.3)
    monkeypatch.setattr(workers, "_gpus", lambda: ())
    with pytest.raises(ClusterError, match="none of its 2 workers has a GPU that torch can use; start some with"):
        two_threads().ready(unheard, "cuda")


def test_chunks_for_a_gpu_stay_off_workers_without_one(two_threads: Callable[..., Cluster]) -> None:
    events: list[Event] = []
    cluster = two_threads(gpus=("card",))
    cluster.ready(events.append, "auto")
    runner = cluster.runner(events.append, "cuda:0")
    assert isinstance(runner, DaskRunner)
    assert len(runner._placement["workers"]) == 1
    assert (cluster.size, [event.workers for event in events if isinstance(event, ClusterReady)]) == (1, [1])
    assert cluster.call(os.getpid) == os.getpid()
    assert isinstance(on_cpu := cluster.runner(events.append, "cpu"), DaskRunner)
    assert not on_cpu._placement


def test_a_declared_gpu_is_given_to_one_chunk_at_a_time() -> None:
    with_gpu = [Worker(address=f"tcp://a:{n}", resources={"GPU": 1}, versions={}, gpus=("card",)) for n in range(2)]
    without = Worker(address="tcp://b:1", resources={}, versions={})
    undeclared = replace(with_gpu[0], resources={})
    placed = cluster_module._placed
    assert placed(with_gpu, [*with_gpu, without]) == placed(with_gpu, with_gpu) == {"resources": {"GPU": 1}}
    assert placed([undeclared], [undeclared]) == placed([], [without]) == {}
    assert placed([undeclared], [undeclared, without]) == {"workers": ["tcp://a:0"]}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"versions": {"geoseg": "9.9"}},
            r"geoseg is 9\.9 on worker tcp://.*: install the same versions on both sides",
        ),
        ({"trouble": "geoseg is not installed there"}, r"worker tcp://.*: geoseg is not installed there"),
        ({"resources": {"GPU": 1.0}}, r"worker tcp://.* should have a GPU, but torch finds none there"),
    ],
)
def test_workers_that_would_spoil_a_run_are_refused(
    two_threads: Callable[..., Cluster], facts: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_gpus", lambda: ())
    with pytest.raises(ClusterError, match=message):
        two_threads(**facts).ready(unheard)


def test_what_differs_harmlessly_is_a_warning(two_threads: Callable[..., Cluster]) -> None:
    events: list[Event] = []
    two_threads(versions=workers.versions_here() | {"numpy": "1.0"}).ready(events.append)
    (warned,) = [event.message for event in events if isinstance(event, Warned)]
    assert re.fullmatch(r"numpy is 1\.0 on worker tcp://\S+, but \S+ here", warned)


def test_workers_that_cannot_reach_the_run_are_named(
    scene: Path, two_threads: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "tcp://10.0.0.7:4"
    monkeypatch.setattr(workers, "strangers", lambda *_: {address: "what it writes does not arrive here"})
    with pytest.raises(ClusterError) as caught:
        segment(scene, out=tmp_path / "out", cluster=two_threads(), **SMALL)
    expected = (
        rf"worker {address} cannot see .*out.* \(what it writes does not arrive here\): use a shared .* or an s3://"
    )
    assert re.match(expected, str(caught.value))
    assert not (tmp_path / "out").exists(), "nothing was begun"
    monkeypatch.setattr(workers, "blind_workers", lambda *_: {address: "scene.tif: No such file"})
    with pytest.raises(ClusterError, match=rf"worker {address} cannot read the input \(scene\.tif: No such file\)"):
        segment(scene, out=tmp_path / "out", cluster=two_threads(), **SMALL)


def test_settings_are_chosen_where_the_net_will_run(
    scene: Path, two_threads: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def tune(model: str, **options: Any) -> Found:
        from distributed import get_worker

        asked.append({"model": model, "worker": get_worker().address, **options})
        options["on_event"](Warned(message="lower precision"))
        return Found(settings=Settings(threads=3))

    monkeypatch.setattr("geoseg.pipeline.tune", tune)
    events: list[Event] = []
    plan = plan_segment(scene, cluster=two_threads(), on_event=events.append, tile=64, device="auto")
    assert plan.settings == Settings(threads=3)
    assert (asked[0]["model"], asked[0]["device"], asked[0]["workers"]) == ("spectral-baseline", "auto", 2)
    assert [event.message for event in events if isinstance(event, Warned)] == ["lower precision"]


# --- processes of one's own ---


def test_own_processes_are_reached_once_and_leave_nothing() -> None:
    before = set(psutil.Process().children(recursive=True))
    events: list[Event] = []
    with Cluster(ClusterOptions(workers=2)) as cluster:
        assert (cluster.size, cluster.elsewhere, cluster.neighbours) == (2, False, 2)
        for _ in range(2):
            cluster.runner(events.append).close()
        started = set(psutil.Process().children(recursive=True)) - before
    assert [type(event) for event in events] == [ClusterReady]
    left = [each for each in started if each.is_running() and "resource_tracker" not in " ".join(each.cmdline())]
    assert not left


def test_a_busy_machine_gets_a_second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    class Failing:
        def __init__(self, **_: Any) -> None:
            attempts.append("failed")
            raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("geoseg.processes.LocalProcesses", Failing)
    with (
        Cluster(ClusterOptions(workers=2)) as cluster,
        pytest.raises(ClusterError, match=r"2 processes on this machine did not start \(Nanny failed to start\.\)"),
    ):
        cluster.runner(unheard)
    assert attempts == ["failed", "failed"]


@pytest.mark.parametrize("name", ["local-cpu", "local-gpu"])
def test_a_local_template_makes_a_map(name: str, scene: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    segment(scene, out=tmp_path / "out", cluster=TEMPLATES / f"{name}.yaml", on_event=events.append, **SMALL)
    segment(scene, out=tmp_path / "here", **SMALL)
    assert digest(tmp_path / "out") == digest(tmp_path / "here")
    assert [event.workers >= 1 for event in events if isinstance(event, ClusterReady)] == [True]


# --- performance report ---


def test_a_report_without_bokeh_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="--report needs the package bokeh: pip install bokeh"):
        Cluster(ClusterOptions(report=tmp_path / "run.html"))


# --- credentials ---

SECRET = "wJalrXUtnFEMI-s3cret-K7MDENG"
TOKEN = "Authorization: Bearer t0ken-of-the-user"


def _of_worker() -> list[str | None]:
    return [os.environ.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "GDAL_HTTP_HEADERS")]


def _of_scheduler(dask_scheduler: Any) -> bytes:
    """Everything that a scheduler keeps of runs and their tasks, but the plugins that carry credentials."""
    from distributed.protocol import pickle

    tasks = [(key, task.run_spec) for key, task in dask_scheduler.tasks.items()]
    logs = [str(entry) for entry in dask_scheduler.get_logs(start=0, n=None)]
    return bytes(pickle.dumps([tasks, dask_scheduler.task_metadata, logs]))


def test_credentials_reach_workers_and_nothing_else(
    scene: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-of-the-user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("GDAL_HTTP_HEADERS", TOKEN)
    kept: list[bytes] = []
    seen: list[dict[str, list[str | None]]] = []
    file = elsewhere / "scheduler.json"
    with Client(scheduler_file=str(file), set_as_default=False) as client:

        def watch(event: Event) -> None:
            kept.append(str(event).encode())
            if type(event).__name__ == "RowDone":
                kept.append(client.run_on_scheduler(_of_scheduler))
                seen.append(client.run(_of_worker))

        segment(scene, out=tmp_path / "out", scheduler_file=file, on_event=watch, **SMALL)
        assert client.run(_of_worker) == {address: [None, None] for address in seen[0]}, "taken back"
    assert list(seen[0].values()) == [[SECRET, TOKEN]] * 2
    assert any(b"geoseg" in each for each in kept if len(each) > 1000), "tasks were looked at"
    kept += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    kept += [path.read_bytes() for path in elsewhere.glob("*.log")]
    for secret in (SECRET, "t0ken-of-the-user", "AKIA-of-the-user"):
        assert not [each for each in kept if secret.encode() in each]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://10.0.0.1:8786", True),
        ("tcp://127.0.0.1:1", False),
        ("tls://10.0.0.1:8786", False),
        ("gateway://h/a", False),
    ],
)
def test_credentials_on_an_open_line_are_told(address: str, expected: bool) -> None:
    assert cluster_module._is_open(address) is expected


# --- encrypted ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a self-made authority's certificate (ca.pem), and of one for everybody (cert.pem, key.pem)."""
    pytest.importorskip("cryptography")
    from tests.certificates import write_certificates

    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


def security(folder: Path) -> str:
    named = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
    lines = [f"  {key}: {folder / name}" for key, name in named.items()]
    return "\n".join(["security:", *lines, "  require_encryption: true", ""])


def test_a_described_cluster_speaks_tls(scene: Path, certificate: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = "class: geoseg.processes.LocalProcesses\nkwargs: {workers: 1, memory_limit: 0}\n"
    path.write_text(text + security(certificate))
    events: list[Event] = []
    with Cluster(ClusterOptions(cluster=path)) as cluster:
        segment(scene, out=tmp_path / "out", cluster=cluster, on_event=events.append, **SMALL)
        (ready,) = [event for event in events if isinstance(event, ClusterReady)]
        assert ready.address.startswith("tls://127.0.0.1:")
        with Cluster(ClusterOptions(scheduler=ready.address)) as stranger, pytest.raises(ClusterError, match="tls://"):
            stranger.ready(unheard)  # without a certificate
    segment(scene, out=tmp_path / "here", **SMALL)
    assert digest(tmp_path / "out") == digest(tmp_path / "here")


def test_certificates_of_dasks_configuration_count(certificate: Path, tmp_path: Path) -> None:
    import dask

    settings = {"require-encryption": "True", "tls.ca-file": str(certificate / "ca.pem")}
    for role in ("client", "scheduler", "worker"):
        settings |= {f"tls.{role}.{what}": str(certificate / f"{what}.pem") for what in ("cert", "key")}
    variables = {
        f"DASK_DISTRIBUTED__COMM__{key.upper().replace('.', '__').replace('-', '_')}": value
        for key, value in settings.items()
    }
    with (
        scheduler_process(tmp_path, "--protocol", "tls", env=variables),
        worker_processes(tmp_path, "--workers", "1", env=variables),
        dask.config.set({f"distributed.comm.{key}": value for key, value in settings.items()}),
        Cluster(ClusterOptions(scheduler_file=tmp_path / "scheduler.json")) as cluster,
    ):
        events: list[Event] = []
        cluster.ready(events.append, "cpu")
        assert [str(event.address)[:6] for event in events if isinstance(event, ClusterReady)] == ["tls://"]
