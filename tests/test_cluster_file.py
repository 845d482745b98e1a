"""Descriptions of clusters: what they may say, what a wrong one is told, and that the templates fit their classes."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from geoseg.cluster_file import address_in, read_cluster_file
from geoseg.errors import ClusterError, ConfigError, MissingExtraError

TEMPLATES = sorted((Path(__file__).resolve().parent.parent / "pipelines" / "clusters").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def test_everything_that_a_description_can_say(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    file = read_cluster_file(
        written(
            tmp_path,
            "class: dask_jobqueue.SLURMCluster\nkwargs: {cores: 4, n_workers: 3}\nadapt: {minimum: 2, maximum: 9}\n"
            "security: {tls_ca_file: ca.pem, require_encryption: true}\n",
        )
    )
    assert (file.name, file.kwargs, file.adapt) == ("dask_jobqueue.SLURMCluster", {"cores": 4, "n_workers": 3}, (2, 9))
    assert file.security == {"tls_ca_file": str(tmp_path / "ca.pem"), "require_encryption": True}
    assert file.expected == 9


@pytest.mark.parametrize(
    ("rest", "expected"),
    [("kwargs: {n_workers: 3}", 3), ("kwargs: {workers: 5}", 5), ("adapt: {maximum: 7}", 7), ("", 0)],
)
def test_how_many_workers_are_expected(tmp_path: Path, rest: str, expected: int) -> None:
    assert read_cluster_file(written(tmp_path, f"class: some.Cluster\n{rest}\n")).expected == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- class", "should hold lines like 'key: value', not a list"),
        ("class: [", "not YAML"),
        ("klass: a.B", "klass: no such key; did you mean class?; there are class, kwargs, adapt, security"),
        ("kwargs: {}", "class: should be like dask_jobqueue.SLURMCluster, not None"),
        ("class: SLURMCluster", "class: should be like dask_jobqueue.SLURMCluster, not 'SLURMCluster'"),
        ("class: os.system('x')", "class: should be like dask_jobqueue.SLURMCluster"),
        ("class: a.B\nkwargs: 3", "kwargs: should hold lines like 'key: value', not a int"),
        ("class: a.B\nadapt: {min: 1}", "adapt: min: no such key; did you mean minimum?"),
        ("class: a.B\nadapt: {minimum: 1}", "adapt: should be whole numbers like minimum: 0, maximum: 16"),
        ("class: a.B\nadapt: {minimum: 3, maximum: 2}", "adapt: should be whole numbers"),
        ("class: a.B\nadapt: {maximum: true}", "adapt: should be whole numbers"),
        ("class: a.B\nsecurity: {tls_ca: x}", "security: tls_ca: no such key; did you mean tls_ca_file?"),
        ("class: a.B\nsecurity: {tls_ca_file: no.pem}", "security: tls_ca_file: there is no file"),
        ("class: a.B\nsecurity: {require_encryption: 1}", "require_encryption: should be true or false, not 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_cluster_file(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot read the description of a cluster \(No such file"):
        read_cluster_file(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("rest", "error", "message"),
    [
        (
            "no_such_package.XCluster",
            MissingExtraError,
            "needs the package no_such_package: pip install no-such-package",
        ),
        ("distributed.no_such.Cluster", ConfigError, r"distributed\.no_such cannot be imported"),
        ("distributed.LocalClutser", ConfigError, "distributed has no LocalClutser; did you mean LocalCluster?"),
        ("distributed.Client", ConfigError, r"distributed\.Client is no class of Dask clusters"),
        ("distributed.wait", ConfigError, r"distributed\.wait is no class of Dask clusters"),
        ("tests.clusters.EmptyCluster\nkwargs: {wrong: 1}", ConfigError, r"does not take these kwargs \(.*'wrong'"),
        (
            "geoseg.processes.LocalProcesses\nkwargs: {gpus: [0], workers: 1}",
            ConfigError,
            "--workers and --gpus exclude",
        ),
        ("tests.clusters.EmptyCluster", ConfigError, "describes a cluster without workers: add adapt"),
    ],
)
def test_a_class_that_cannot_be_started(tmp_path: Path, rest: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_cluster_file(written(tmp_path, f"class: {rest}\n")).start()


def test_a_cluster_begins_with_as_few_workers_as_it_may(tmp_path: Path) -> None:
    text = "class: tests.clusters.EmptyCluster\nadapt: {{minimum: {}, maximum: 9}}\n"
    for least, asked in ((0, 1), (4, 4)):
        with read_cluster_file(written(tmp_path, text.format(least))).start() as cluster:
            assert cluster.asked == asked


def test_one_certificate_does_for_all_roles(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key", "own"):
        (tmp_path / name).touch()
    path = written(
        tmp_path,
        "class: tests.test_cluster_file.Told\nkwargs: {n_workers: 1}\nsecurity:\n  tls_ca_file: ca\n"
        "  tls_client_cert: cert\n  tls_client_key: key\n  tls_worker_cert: own\n  require_encryption: true\n",
    )
    security = read_cluster_file(path).start().kwargs["security"]
    assert security.require_encryption
    assert security.tls_scheduler_cert == security.tls_client_cert == str(tmp_path / "cert")
    assert security.tls_worker_cert == str(tmp_path / "own")
    assert security.tls_worker_key == str(tmp_path / "key")


class Told:
    """Keeps what it is told."""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs

    def adapt(self, minimum: int, maximum: int) -> None:
        """As Dask's clusters."""

    def scale(self, n: int) -> None:
        """As Dask's clusters."""

    def close(self) -> None:
        """As Dask's clusters."""


# --- templates ---


def jobqueue(  # type: ignore[no-untyped-def]
    # dask_jobqueue 0.9: JobQueueCluster, Job and SLURMJob, which take each other's rest
    *, n_workers=0, job_cls=None, loop=None, security=None, shared_temp_directory=None, silence_logs="error", name=None,
    asynchronous=False, dashboard_address=None, host=None, scheduler_options=None, interface=None, protocol=None,
    config_name=None, cores=None, memory=None, processes=None, nanny=True, death_timeout=None, local_directory=None,
    worker_command=None, worker_extra_args=None, job_extra_directives=None, job_script_prologue=None,
    job_directives_skip=None, log_directory=None, shebang=None, python=None, job_name=None, queue=None, account=None,
    walltime=None, job_cpu=None, job_mem=None,
) -> None:  # fmt: skip
    """Signature."""


def kubernetes(  # type: ignore[no-untyped-def]
    # dask_kubernetes 2026.3: operator.KubeCluster
    *, name=None, namespace=None, image=None, n_workers=None, resources=None, env=None, worker_command=None,
    port_forward_cluster_ip=None, create_mode=None, shutdown_on_close=None, idle_timeout=None, resource_timeout=None,
    scheduler_service_type=None, custom_cluster_spec=None, scheduler_forward_port=None, jupyter=False, loop=None,
    asynchronous=False, quiet=False,
) -> None:  # fmt: skip
    """Signature."""


def gateway(  # type: ignore[no-untyped-def]
    # dask_gateway 2026.3: GatewayCluster; the rest are options of the gateway
    address=None, proxy_address=None, public_address=None, auth=None, cluster_options=None, shutdown_on_close=True,
    asynchronous=False, loop=None, **kwargs,
) -> None:  # fmt: skip
    """Signature."""


SIGNATURES: dict[str, Callable[..., None]] = {
    "dask_jobqueue.SLURMCluster": jobqueue,
    "dask_kubernetes.operator.KubeCluster": kubernetes,
    "dask_gateway.GatewayCluster": gateway,
}
FOREIGN = [path for path in TEMPLATES if not path.stem.startswith("local")]


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.stem)
def test_a_template_fits_its_class(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = read_cluster_file(path)
    inspect.signature(SIGNATURES[file.name]).bind(**file.kwargs)
    module, _, name = file.name.rpartition(".")
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
    monkeypatch.setattr(sys.modules[module], name, Told, raising=False)
    assert file.start().kwargs == file.kwargs
    assert file.adapt is not None


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.stem)
def test_a_template_without_its_package_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = read_cluster_file(path)
    package = file.name.partition(".")[0]
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises((MissingExtraError, ConfigError), match=rf"{package}"):
        file.start()
    assert f"pip install {package.replace('_', '-')}" in path.read_text()


def test_each_template_is_listed_and_commented() -> None:
    assert {path.stem for path in TEMPLATES} == {"local-cpu", "local-gpu", "slurm", "kubernetes", "gateway"}
    listed = (TEMPLATES[0].parent / "README.md").read_text()
    for path in TEMPLATES:
        assert f"({path.name})" in listed
        assert path.read_text().startswith("# ")
        assert not re.search(r"adapt:[^#]*#.*\badapt:", path.read_text())
        assert set(yaml.safe_load(path.read_text())) <= {"class", "kwargs", "adapt", "security"}


# --- a scheduler's file ---


def test_the_address_in_a_schedulers_file(tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text('{"type": "Scheduler", "address": "tcp://10.0.0.1:8786"}')
    assert address_in(tmp_path / "scheduler.json") == "tcp://10.0.0.1:8786"


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", "{"])
def test_a_file_without_an_address(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        ClusterError, match=r"scheduler\.json: .*start the scheduler with dask scheduler --scheduler-file"
    ):
        address_in(path)
