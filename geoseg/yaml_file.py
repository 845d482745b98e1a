"""YAML that people write: each key once, and what is wrong with the file in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from geoseg.errors import ConfigError

__all__ = ["plain_key", "read_yaml"]

_DATE = "tag:yaml.org,2002:timestamp"


def plain_key(key: object) -> str:
    """A key as Python writes it.

    >>> plain_key("batch-size")
    'batch_size'
    """
    return str(key).replace("-", "_")


def read_yaml(path: Path, what: str, *, alike: Callable[[str], str] = str, hint: str = "") -> Any:
    """What a file holds; a date that the calendar does not have stays text.

    Args:
        path: The file.
        what: What the file is, for messages: ``the configuration``.
        alike: Keys at the top of the file are one and the same where this gives the same for them.
        hint: Added where the file is no YAML.

    Raises:
        ConfigError: It cannot be read, is no YAML, or has a key twice.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            root = loader.get_single_node()
            if isinstance(root, yaml.MappingNode):
                _demand_once(root, alike)
            return None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read {what} ({error.strerror})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())}){hint}") from error


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _demand_once(node, str)
        return super().construct_mapping(node, deep)


def _date_or_text(loader: _Loader, node: yaml.ScalarNode) -> object:
    """Whoever wants a date can say which option it is for."""
    try:
        return loader.construct_yaml_timestamp(node)
    except ValueError:
        return node.value


_Loader.add_constructor(_DATE, _date_or_text)


def _demand_once(node: yaml.MappingNode, alike: Callable[[str], str]) -> None:
    keys: dict[str, yaml.ScalarNode] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        first = keys.setdefault(alike(key.value), key)
        if first is not key:
            line, before = key.start_mark.line + 1, first.start_mark.line + 1
            spelled = "" if first.value == key.value else f", as {first.value}"
            raise ConfigError(f"line {line}: {key.value} stands there twice (line {before}{spelled}); keep one of them")
