"""``geoseg doctor``: what is installed, what this machine has, what is missing and the command that mends it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import click

from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import CHECK_FAILED, DONE
from geoseg.cli.text import byte_text, table
from geoseg.errors import ConfigError

__all__ = ["Check", "doctor", "examine"]

State = Literal["ok", "missing", "broken"]

LOADED = {
    "odc-geo": "odc.geo",
    "odc-stac": "odc.stac",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "rio-cogeo": "rio_cogeo",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
}
"""Module of a distribution, where the names differ by more than a hyphen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    topic: str
    """Heading: ``packages``, ``GDAL``, ``machine``, ``folders``."""
    name: str
    """What was looked at."""
    state: State
    """``ok``; ``missing``: geoseg works without it; ``broken``: it does not."""
    detail: str
    """What was found."""
    mend: str = ""
    """The command that mends it."""


@click.command()
@click.option("--scheduler", metavar="ADDRESS", help="Check every worker of this Dask cluster.")
@click.option("--scheduler-file", type=click.Path(path_type=Path), metavar="FILE", help="Where it wrote its address.")
@click.option(
    "--cluster", type=click.Path(path_type=Path), metavar="FILE.yaml", help="Start this cluster for the check."
)
@click.option(
    "--worker-timeout", type=float, default=600.0, metavar="SECONDS", help="How long to wait for its workers."
)
@click.option(
    "--reach", multiple=True, metavar="PLACE", help="Input, or DIR/, that every worker must reach; repeatable."
)
@json_option
@debug_option
def doctor(as_json: bool, reach: tuple[str, ...], **place: Any) -> int:
    """Check this installation and this machine, or every worker of a cluster.

    Ends with exit code 4 if something that geoseg needs is broken; every problem comes with the command that mends it.
    Of a cluster it shows each worker, names what differs from this machine, and ends with 4 where a run would fail.
    """
    from geoseg.settings import ClusterOptions

    options = ClusterOptions(**place)
    if options.named:
        from geoseg.cli.cluster_doctor import examine_cluster

        return examine_cluster(options, reach, as_json=as_json)
    if reach:
        raise ConfigError(
            "--reach is about workers: name their cluster with --scheduler, --scheduler-file or --cluster"
        )
    checks = list(examine())
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        click.echo(json.dumps({"healthy": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        click.echo(_page(checks))
    for check in broken:
        click.echo(f"geoseg: error: {check.name}: {check.detail}. Mend it with: {check.mend}", err=True)
    return CHECK_FAILED if broken else DONE


def _page(checks: list[Check]) -> str:
    lines = []
    for topic in dict.fromkeys(check.topic for check in checks):
        rows = [(check.name, check.state, check.detail) for check in checks if check.topic == topic]
        lines += [topic, table(rows, indent=2)]
    mends = [(check.name, check.mend) for check in checks if check.mend and check.state != "ok"]
    lines += ["to mend", table(mends, indent=2)] if mends else ["nothing is missing"]
    return "\n".join(lines)


def examine() -> Iterator[Check]:
    """Every check, one after the other; none of them raises."""
    yield Check(topic="packages", name="Python", state="ok", detail=f"{platform.python_version()} at {sys.executable}")
    yield from _packages()
    for topic, name, look in (
        ("GDAL", "drivers", _drivers),
        ("GDAL", "projections", _projections),
        ("machine", "processor", _processor),
        ("machine", "accelerator", _accelerator),
        ("machine", "memory", _memory),
        ("machine", "open files", _open_files),
        ("folders", "cache", _cache),
        ("folders", "temporary files", _temporary),
        ("folders", "here", _here),
    ):
        yield _guarded(topic, name, look)


def _guarded(topic: str, name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # noqa: BLE001  a check that fails is a finding
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Check(topic=topic, name=name, state="broken", detail=what, mend="pip install --upgrade geoseg")


def _packages() -> Iterator[Check]:
    """Every declared requirement: installed, new enough, and can be imported."""
    from packaging.requirements import Requirement

    try:
        declared = metadata.requires("geoseg") or []
    except metadata.PackageNotFoundError:
        mend = "pip install --editable ."
        yield Check(
            topic="packages", name="geoseg", state="missing", detail="runs from a folder, not installed", mend=mend
        )
        return
    yield Check(topic="packages", name="geoseg", state="ok", detail=metadata.version("geoseg"))
    for text in declared:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(
                requirement.name, str(requirement.specifier), mend=f"pip install '{text.partition(';')[0].strip()}'"
            )
    yield _extra("openvino", "a faster backend on Intel processors")


def _package(name: str, specifier: str, *, mend: str) -> Check:
    from packaging.specifiers import SpecifierSet

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(topic="packages", name=name, state="broken", detail="not installed", mend=mend)
    if not SpecifierSet(specifier).contains(version, prereleases=True):
        return Check(topic="packages", name=name, state="broken", detail=f"{version}, needed is {specifier}", mend=mend)
    try:
        import_module(LOADED.get(name.lower(), name.replace("-", "_")))
    except Exception as error:  # noqa: BLE001  whatever a broken package does
        what = f"{version}, cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
        mend = f"pip install --force-reinstall {name}"
        return Check(topic="packages", name=name, state="broken", detail=what, mend=mend)
    return Check(topic="packages", name=name, state="ok", detail=version)


def _extra(name: str, use: str) -> Check:
    try:
        return Check(topic="packages", name=name, state="ok", detail=metadata.version(name))
    except metadata.PackageNotFoundError:
        mend = f"pip install 'geoseg[{name}]'"
        return Check(topic="packages", name=name, state="missing", detail=f"optional: {use}", mend=mend)


def _drivers() -> Check:
    """What GDAL reads and writes; rasterio is asked as a library under examination, not as a reader."""
    rasterio = import_module("rasterio")
    with rasterio.Env() as env:
        names = set(env.drivers())
    version, mend = rasterio.__gdal_version__, "pip install --force-reinstall rasterio"
    if absent := sorted({"GTiff", "COG"} - names):
        what = f"GDAL {version} lacks {', '.join(absent)}"
        return Check(topic="GDAL", name="drivers", state="broken", detail=what, mend=mend)
    if "JP2OpenJPEG" not in names:
        what = f"GDAL {version} lacks JP2OpenJPEG: JPEG 2000 cannot be read"
        return Check(topic="GDAL", name="drivers", state="missing", detail=what, mend=mend)
    return Check(topic="GDAL", name="drivers", state="ok", detail=f"GDAL {version} with GTiff, COG, JP2OpenJPEG")


def _projections() -> Check:
    from odc.geo import CRS

    try:
        CRS("EPSG:32633").proj.to_wkt()
    except Exception as error:  # noqa: BLE001  pyproj raises what it likes
        what = f"the PROJ database cannot be read ({' '.join(str(error).split())})"
        return Check(topic="GDAL", name="projections", state="broken", detail=what, mend="unset PROJ_LIB PROJ_DATA")
    return Check(topic="GDAL", name="projections", state="ok", detail="the PROJ database answers")


def _processor() -> Check:
    threads = os.environ.get("OMP_NUM_THREADS")
    usable = len(os.sched_getaffinity(0))
    detail = f"{usable} of {os.cpu_count()} cores may be used" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    return Check(topic="machine", name="processor", state="ok", detail=detail)


def _accelerator() -> Check:
    cuda = import_module("torch").cuda
    if not cuda.is_available():
        return Check(topic="machine", name="accelerator", state="ok", detail="none; nets run on the processor")
    found = [cuda.get_device_properties(i) for i in range(cuda.device_count())]
    detail = ", ".join(f"cuda:{i} {card.name} {byte_text(card.total_memory)}" for i, card in enumerate(found))
    return Check(topic="machine", name="accelerator", state="ok", detail=detail)


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{byte_text(memory.available)} of {byte_text(memory.total)} are free"
    return Check(topic="machine", name="memory", state="ok", detail=detail)


def _open_files() -> Check:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    state: State = "ok" if soft == resource.RLIM_INFINITY or soft >= 256 else "missing"
    return Check(
        topic="machine", name="open files", state=state, detail=f"at most {soft} per process", mend="ulimit -n 1024"
    )


def _cache() -> Check:
    from geoseg.tuning import cache_dir

    return _folder("cache", cache_dir(), "set GEOSEG_CACHE to a folder that can be written")


def _temporary() -> Check:
    return _folder("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder that can be written")


def _here() -> Check:
    return _folder("here", Path.cwd(), "", state="ok")


def _folder(name: str, folder: Path, mend: str, *, state: State = "missing") -> Check:
    """A folder, its free space, and whether files can be made in it (or in the nearest parent that exists)."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = byte_text(shutil.disk_usage(existing).free)
    if os.access(existing, os.W_OK | os.X_OK):
        return Check(topic="folders", name=name, state="ok", detail=f"{folder}, {free} free")
    return Check(topic="folders", name=name, state=state, detail=f"{folder} cannot be written", mend=mend)
