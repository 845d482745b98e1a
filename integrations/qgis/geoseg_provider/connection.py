"""Which service is asked, with which token, and what it was last known to have."""

from __future__ import annotations

import json

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import QgsApplication, QgsAuthMethodConfig, QgsFeedback, QgsSettings

from geoseg_provider.client import Client, ServiceError

__all__ = ["TOKEN", "URL", "connect", "known", "remember"]

URL, TOKEN = "GEOSEG_URL", "GEOSEG_AUTHENTICATION"
"""Names of the settings."""


def connect(feedback: QgsFeedback) -> Client:
    """A client of the service that the settings name.

    Raises:
        ServiceError: The settings name none, or a token that QGIS does not give out.
    """
    return Client(str(ProcessingConfig.getSetting(URL) or "").strip(), _token(), feedback)


def _token() -> str:
    """What QGIS keeps encrypted: the password of the authentication configuration that the settings name."""
    name = str(ProcessingConfig.getSetting(TOKEN) or "").strip()
    if not name:
        return ""
    kept = QgsAuthMethodConfig()
    QgsApplication.authManager().loadAuthenticationConfig(name, kept, True)
    token = kept.config("password")
    if not token:
        raise ServiceError(f"QGIS gives no password of the authentication configuration {name!r}; look at its id")
    return str(token)


def known(what: str) -> list[str]:
    """Ids that the service was last seen to have: its ``scenes``, or the models of a process."""
    try:
        return [str(each) for each in json.loads(QgsSettings().value(f"geoseg/{what}", "[]"))]
    except (TypeError, ValueError):
        return []


def remember(what: str, names: list[str]) -> None:
    """Keeps ids for `known`."""
    QgsSettings().setValue(f"geoseg/{what}", json.dumps(names))
