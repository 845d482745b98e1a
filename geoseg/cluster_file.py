"""Files that tell of a cluster: a description of one to start, and the address that a running one wrote down."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from geoseg.errors import ClusterError, ConfigError, GeosegError, MissingExtraError
from geoseg.yaml_file import read_yaml

__all__ = ["ClusterFile", "address_in", "first_line", "read_cluster_file"]

_KEYS = ("class", "kwargs", "adapt", "security")
_ADAPT = ("minimum", "maximum")
_ROLES = ("client", "scheduler", "worker")
_SECURITY = (
    "tls_ca_file",
    *(f"tls_{role}_{what}" for role in _ROLES for what in ("cert", "key")),
    "require_encryption",
)
_POLL_SECONDS = 0.2
_MEMBERS = ("adapt", "close", "scale")
"""What every class of a Dask cluster has; not all of them have an ancestor in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """A cluster that can be started: ``class``, ``kwargs``, ``adapt`` and ``security`` of a YAML file."""

    path: Path
    """The file."""
    name: str
    """Module and name of the class."""
    kwargs: Mapping[str, Any]
    """Its keyword arguments."""
    adapt: tuple[int, int] | None
    """Fewest and most workers that it may have, as work comes and goes."""
    security: Mapping[str, Any]
    """Arguments of `distributed.Security`."""

    @property
    def expected(self) -> int:
        """Workers that it will have, as far as the file tells; 0: it does not."""
        if self.adapt is not None:
            return self.adapt[1]
        named = (self.kwargs.get(key) for key in ("n_workers", "workers"))
        return next((count for count in named if isinstance(count, int)), 0)

    def start(self) -> Any:
        """The cluster, started, with as few workers as it may have; whoever calls closes it.

        Raises:
            ConfigError: Its class cannot be used so.
            MissingExtraError: The package of its class is not installed.
            ClusterError: It does not start.
        """
        made, kwargs = self._class(), dict(self.kwargs)
        if self.security:
            kwargs["security"] = self._security()
        try:
            cluster = made(**kwargs)
        except GeosegError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.path}: {self.name} does not take these kwargs ({first_line(error)})") from error
        except Exception as error:
            raise ClusterError(f"{self.path}: {self.name} did not start ({first_line(error)})") from error
        if self.adapt is not None:
            cluster.scale(max(1, self.adapt[0]))
        elif not self.expected and not getattr(cluster, "worker_spec", True):
            cluster.close()
            raise ConfigError(
                f"{self.path}: describes a cluster without workers: add adapt: {{minimum: 0, maximum: 16}}, "
                "or n_workers to its kwargs"
            )
        return cluster

    def _class(self) -> Any:
        module, _, attribute = self.name.rpartition(".")
        package = module.partition(".")[0]
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise ConfigError(f"{self.path}: class: {module} cannot be imported ({first_line(error)})") from error
            raise MissingExtraError(
                f"{self.path}: class {self.name} needs the package {package}: pip install {package.replace('_', '-')}"
            ) from error
        made = getattr(found, attribute, None)
        if made is None:
            raise ConfigError(f"{self.path}: class: {module} has no {attribute}{_meant(attribute, dir(found))}")
        if not inspect.isclass(made) or not all(callable(getattr(made, member, None)) for member in _MEMBERS):
            raise ConfigError(f"{self.path}: class: {self.name} is no class of Dask clusters")
        return made

    def _security(self) -> Any:
        from distributed import Security

        options = dict(self.security)
        for role in _ROLES[1:]:  # one certificate does for all, where no others are named
            for what in ("cert", "key"):
                if f"tls_client_{what}" in options:
                    options.setdefault(f"tls_{role}_{what}", options[f"tls_client_{what}"])
        return Security(**options)


def read_cluster_file(path: Path) -> ClusterFile:
    """What a YAML file says about a cluster; nothing is imported or started.

    Raises:
        ConfigError: It cannot be read, or says something else.
    """
    content = _mapping(path, "", read_yaml(path, "the description of a cluster"), _KEYS)
    name = content.get("class")
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        raise ConfigError(f"{path}: class: should be like dask_jobqueue.SLURMCluster, not {name!r}")
    security = _mapping(path, "security", content.get("security") or {}, _SECURITY)
    return ClusterFile(
        path=path,
        name=name,
        kwargs=_mapping(path, "kwargs", content.get("kwargs") or {}),
        adapt=_adapt(path, content.get("adapt")),
        security={key: _placed(path, key, value) for key, value in security.items()},
    )


def _mapping(path: Path, under: str, content: object, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    place = f"{path}: {under}" if under else str(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{place}: should hold lines like 'key: value', not a {type(content).__name__}")
    if keys is not None and (unknown := [key for key in content if key not in keys]):
        raise ConfigError(f"{place}: {unknown[0]}: no such key{_meant(unknown[0], keys)}; there are {', '.join(keys)}")
    return content


def _adapt(path: Path, content: object) -> tuple[int, int] | None:
    if content is None:
        return None
    numbers = _mapping(path, "adapt", content, _ADAPT)
    least, most = numbers.get("minimum", 0), numbers.get("maximum")
    if type(least) is not int or type(most) is not int or not 0 <= least <= most or most < 1:
        raise ConfigError(f"{path}: adapt: should be whole numbers like minimum: 0, maximum: 16, not {content}")
    return least, most


def _placed(path: Path, key: str, value: object) -> object:
    """A switch, or the path of a file that there is; relative to the description."""
    if key == "require_encryption":
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{path}: security: {key}: should be true or false, not {value!r}")
    file = path.parent / Path(str(value)).expanduser()
    if not file.is_file():
        raise ConfigError(f"{path}: security: {key}: there is no file {file}")
    return str(file)


def _meant(word: str, words: Any) -> str:
    close = get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def address_in(path: Path, wait: float = 0.0) -> str:
    """The address that a Dask scheduler wrote to a file, once it is there.

    Args:
        path: The scheduler's ``--scheduler-file``.
        wait: Seconds to wait for it.

    Raises:
        ClusterError: There is none.
    """
    end = time.monotonic() + wait
    while True:
        try:
            return str(json.loads(path.read_text("utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() >= end:
                what = "cannot be read" if isinstance(error, OSError) else "does not hold a scheduler's address"
                raise ClusterError(
                    f"{path}: {what} ({first_line(error)}); start the scheduler with dask scheduler --scheduler-file"
                ) from error
        time.sleep(_POLL_SECONDS)


def first_line(error: BaseException) -> str:
    r"""An error in one line.

    >>> first_line(ValueError("no\nway")), first_line(TimeoutError())
    ('no', 'TimeoutError')
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__
