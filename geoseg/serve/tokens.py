"""Who may use a service, and how much of it: names and hashes of tokens in a file, never the tokens."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoseg.errors import ConfigError

__all__ = ["ANYBODY", "Client", "read_tokens", "who"]

_Quota = Annotated[int, Field(ge=0)]


class Client(BaseModel):
    """One entry of the file of tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
    """What logs and jobs call it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    """Of the token, in hexadecimal."""
    queued: _Quota = 20
    """Jobs of its that may wait."""
    running: Annotated[int, Field(gt=0)] = 2
    """Jobs of its that may be at work at once."""
    per_day: _Quota = 200
    """Jobs that it may start within 24 hours."""


ANYBODY = Client(name="anybody", sha256="0" * 64, queued=1_000_000, running=1_000_000, per_day=1_000_000)
"""Who uses a service without tokens, from its own machine."""


def read_tokens(file: Path | None) -> tuple[Client, ...]:
    """The entries of a file of tokens, a YAML list; none where there is no file.

    Raises:
        ConfigError: It cannot be read, is no such list, or names one twice.
    """
    if file is None:
        return ()
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
        clients = tuple(Client.model_validate(entry) for entry in entries or ())
    except OSError as error:
        raise ConfigError(f"{file}: the tokens cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{file}: {place}: {first['msg']}; write '- name: NAME' and 'sha256: HASH'") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError):  # whose text would show what stands there
        raise ConfigError(f"{file}: no list of tokens; write '- name: NAME' and 'sha256: HASH' for each") from None
    if not clients:
        raise ConfigError(f"{file}: holds no token; write '- name: NAME' and 'sha256: HASH', or leave out --tokens")
    if len({client.name for client in clients}) < len(clients):
        raise ConfigError(f"{file}: a name stands there twice; give each token a name of its own")
    return clients


def who(clients: tuple[Client, ...], authorization: str) -> Client | None:
    """Whose token a header ``Authorization: Bearer ...`` holds; None: nobody's. All entries take the same time.

    >>> me = Client(name="me", sha256=hashlib.sha256(b"secret").hexdigest())
    >>> who((me,), "Bearer secret").name, who((me,), "Bearer guess"), who((me,), "secret")
    ('me', None, None)
    """
    scheme, _, token = authorization.partition(" ")
    digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
    matches = [client for client in clients if hmac.compare_digest(client.sha256, digest)]
    return matches[0] if matches and scheme.lower() == "bearer" else None
