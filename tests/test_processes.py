"""Worker processes of this machine: how many, with which environment; and real ones, which listen to nobody else."""

from __future__ import annotations

import os
import signal

import dask
import psutil
import pytest
from distributed import Client
from distributed.system import MEMORY_LIMIT
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ConfigError
from geoseg.processes import LocalProcesses, processes_of
from geoseg.tuning import usable_cores
from tests.clusters import until

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@given(workers=st.integers(1, 40), threads=st.integers(1, 8))
def test_processes_on_the_cpu_share_the_machine(workers: int, threads: int) -> None:
    found = processes_of(workers=workers, threads=threads)
    assert len(found) == workers
    assert sum(process.memory_limit for process in found) <= MEMORY_LIMIT
    for process in found:
        assert {process.environment[name] for name in POOLS} == {str(threads)}
        assert "CUDA_VISIBLE_DEVICES" not in process.environment
        assert not process.resources


@given(gpus=st.lists(st.integers(0, 15), min_size=1, unique=True))
def test_each_gpu_gets_a_process_of_its_own(gpus: list[int]) -> None:
    for given_as in (gpus, ",".join(map(str, gpus))):
        found = processes_of(gpus=given_as)
        assert [process.environment["CUDA_VISIBLE_DEVICES"] for process in found] == [str(gpu) for gpu in gpus]
        assert all(process.resources == {"GPU": 1} for process in found)


@pytest.mark.parametrize(
    ("count", "shown", "expected"),
    [(2, None, ["0", "1"]), (2, "3,5", ["3", "5"]), (1, "GPU-a1,GPU-b2", ["GPU-a1"]), (0, None, []), (0, "", [])],
)
def test_auto_means_the_devices_that_torch_can_use(
    count: int, shown: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    found = processes_of(gpus="auto")
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in found if p.resources] == expected
    assert len(found) == (len(expected) or usable_cores())
    assert not any(process.resources for process in processes_of(gpus="auto", workers=1)), "asked for the CPU"
    assert not any(process.resources for process in processes_of(gpus="none"))


@pytest.mark.parametrize(
    ("limit", "expected"), [("0", 0), (0, 0), ("2GB", 2_000_000_000), ("512MiB", 2**29), (1000, 1000)]
)
def test_memory_limits(limit: str | int, expected: int) -> None:
    assert {process.memory_limit for process in processes_of(workers=2, memory_limit=limit)} == {expected}


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"threads": 0},
        {"workers": 2, "gpus": "0,1"},
        {"gpus": "0,0"},
        {"gpus": ""},
        {"gpus": "0;rm"},
        {"memory_limit": "much"},
        {"memory_limit": "-1"},
    ],
)
def test_what_does_not_go_together(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        processes_of(**wrong)  # type: ignore[arg-type]


def _seen() -> dict[str, str]:
    import torch

    names = (*POOLS, "CUDA_VISIBLE_DEVICES")
    return {name: os.environ.get(name, "") for name in names} | {"torch": str(torch.get_num_threads())}


def test_a_worker_that_is_missing_when_dask_looks_for_it_comes_back_all_the_same() -> None:
    settings = {"distributed.deploy.lost-worker-timeout": "10ms", "distributed.worker.daemon": True}
    with (
        dask.config.set(settings),
        LocalProcesses(workers=1, memory_limit=0) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        [before] = client.run(os.getpid).values()
        os.kill(before, signal.SIGKILL)
        until(lambda: set(client.run(os.getpid, on_error="ignore").values()) - {before})
        assert cluster.workers.keys() == {0}, "its nanny was ended, and the new worker with it"


def _listening() -> list[str]:
    me = psutil.Process()
    return [link.laddr.ip for link in me.net_connections("tcp") if link.status == psutil.CONN_LISTEN]


def test_real_processes_have_a_gpu_each_listen_here_only_and_are_gone_at_the_end() -> None:
    before = set(psutil.Process().children(recursive=True))
    with LocalProcesses(gpus=[3, 7], threads=2) as cluster, Client(cluster, set_as_default=False) as client:
        seen = client.run(_seen)
        found = client.scheduler_info(n_workers=-1)["workers"]
        assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in seen.values()) == ["3", "7"]
        assert {each[name] for each in seen.values() for name in (*POOLS, "torch")} == {"2"}
        assert [each["resources"] for each in found.values()] == [{"GPU": 1.0}] * 2
        assert {each["nthreads"] for each in found.values()} == {1}
        listening = [ip for each in client.run(_listening).values() for ip in each] + _listening()
        assert len(listening) >= 3
        assert set(listening) == {"127.0.0.1"}
        started = set(psutil.Process().children(recursive=True)) - before
        assert len(started) >= 2
    left = [each for each in started if each.is_running() and "resource_tracker" not in " ".join(each.cmdline())]
    assert not left
