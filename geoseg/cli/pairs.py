"""Options that hold pairs, several with commas between: 1=water,2=land."""

from __future__ import annotations

from collections.abc import Iterable

from geoseg.errors import ConfigError

__all__ = ["named_once", "names_of", "pairs_of"]


def pairs_of(text: str, option: str) -> dict[str, str]:
    """``3=1,4=1`` as a mapping.

    Raises:
        ConfigError: A part is no pair, or something stands twice before the sign.
    """
    found: dict[str, str] = {}
    for key, value in _pairs(text, option):
        if key in found:
            raise ConfigError(f"{option} {text}: {key} stands there twice; write it once")
        found[key] = value
    return found


def names_of(text: str) -> dict[int, str]:
    """Names by value, of ``1=water`` or ``water=1``.

    Raises:
        ConfigError: A part is no pair of a whole number and a name, or one of them stands twice.

    >>> names_of("1=water, nothing=-1")
    {1: 'water', -1: 'nothing'}
    """
    pairs = [(key, value) if _is_whole(key) else (value, key) for key, value in _pairs(text, "--names")]
    if not all(_is_whole(number) for number, _ in pairs):
        raise ConfigError(f"--names {text}: write VALUE=NAME, 1=water for instance")
    return named_once(((int(number), name) for number, name in pairs), f"--names {text}")


def named_once(pairs: Iterable[tuple[int, str]], given: str) -> dict[int, str]:
    """Names by value, of which none takes the place of another.

    Args:
        pairs: Values and names.
        given: The option that holds them, as typed.

    Raises:
        ConfigError: A value or a name stands twice.
    """
    found: dict[int, str] = {}
    for value, name in pairs:
        if value in found:
            raise ConfigError(f"{given}: the value {value} stands there twice; give each one name")
        if name in found.values():
            raise ConfigError(f"{given}: the name {name} stands there twice; give each one value")
        found[value] = name
    return found


def _pairs(text: str, option: str) -> list[tuple[str, str]]:
    pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
    found = [(key.strip(), value.strip()) for key, _, value in pairs]
    if not all(key and value for key, value in found):
        raise ConfigError(f"{option} {text}: write NAME=VALUE, several with commas between")
    return found


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
