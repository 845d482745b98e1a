"""What every route needs: the settings, the jobs, the finished runs, the scenes and the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geoseg.errors import ConfigError
from geoseg.models import package_path, read_spec
from geoseg.serve.database import Database
from geoseg.serve.limits import is_loopback
from geoseg.serve.queue import JobQueue
from geoseg.serve.runs import Runs
from geoseg.serve.scenes import Scenes
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.tokens import Client, read_tokens
from geoseg.spec import ModelSpec

__all__ = ["Service", "make_service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service; in ``app.state.service``."""

    settings: ServiceSettings
    """What it was started with."""
    clients: tuple[Client, ...]
    """Who may use it; empty: whoever is on this machine."""
    jobs: JobQueue
    """What was asked for."""
    runs: Runs
    """What is finished."""
    scenes: Scenes
    """What jobs may use."""
    models: Mapping[str, ModelSpec]
    """Cards of the models that jobs may use, by name."""
    database: Database | None
    """In which polygons are looked up before the runs' own files."""
    places: Mapping[str, str]
    """Where those models are, by name: for `geoseg.models.load_model`, never for clients."""


def make_service(settings: ServiceSettings) -> Service:
    """A service that does not run yet; its models' cards and its tokens are read.

    Raises:
        ConfigError: It would be open to other machines, two models bear one name, the tokens cannot be read, or
            what should be the database's address is none.
        MissingExtraError: There is a database, and psycopg is not installed.
        ModelError: A model cannot be used.
    """
    clients = read_tokens(settings.tokens)
    if not clients and not is_loopback(settings.host):
        raise ConfigError(f"--host {settings.host}: other machines could use the service; name those who may: --tokens")
    specs = [(str(name), read_spec(name)) for name in settings.models]
    models = {spec.name: spec for _, spec in specs}
    if len(models) < len(specs):
        raise ConfigError("--models: two packages bear one name; leave one out")
    runs, scenes = Runs(settings.root), Scenes(settings.catalog)
    places = {spec.name: str(package_path(name).absolute()) for name, spec in specs}
    database = None if settings.features is None else Database(settings.features)
    return Service(
        settings=settings,
        clients=clients,
        jobs=JobQueue(settings),
        runs=runs,
        scenes=scenes,
        models=models,
        database=database,
        places=places,
    )
