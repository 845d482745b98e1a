"""``geoseg train``'s configuration: YAML, then ``--set key=value``, checked, with where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from geoseg.errors import ConfigError
from geoseg.train.options import NetOptions, TrainOptions, plain
from geoseg.yaml_file import plain_key, read_yaml

__all__ = ["TrainConfig", "keys_of", "resolve_training"]

_Tree: TypeAlias = dict[str, Any]
_MAPPINGS: Mapping[str, Mapping[str, Any]] = {
    "net.arguments": NetOptions().arguments,
    "package.provenance": {},
    "package.colors": {},
}
"""Options whose entries can be set one by one, and what they hold by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of a training, and where each came from."""

    options: TrainOptions
    """Every value."""
    origins: Mapping[str, str]
    """Dotted key -> ``--set``, a file, or ``default``."""

    def show(self) -> str:
        """YAML of every option, each line with where its value came from; it can be given back with ``-c``."""
        return _shown(asdict(self.options), self.origins)


def keys_of(kind: type[Any] = TrainOptions, prefix: str = "") -> tuple[str, ...]:
    """Dotted keys of all options.

    >>> [key for key in keys_of() if key.startswith("fit.e")]
    ['fit.epochs']
    """
    hints = get_type_hints(kind)
    found: list[str] = []
    for each in fields(kind):
        inner = hints[each.name]
        found += keys_of(inner, f"{prefix}{each.name}.") if is_dataclass(inner) else [prefix + each.name]  # type: ignore[arg-type]
    return tuple(found)


def resolve_training(file: Path | None = None, settings: Sequence[str] = ()) -> TrainConfig:
    """The options of a training: ``--set`` over the file over the defaults.

    Args:
        file: YAML, nested or with dotted keys.
        settings: ``key=value`` each; values are YAML.

    Raises:
        ConfigError: A key is unknown or a value wrong; names the file or the setting, and the key.

    >>> config = resolve_training(settings=["fit.epochs=3", "data.channels=[red, NDVI]"])
    >>> config.options.fit.epochs, config.options.data.channels, config.origins["fit.epochs"]
    (3, ('red', 'NDVI'), '--set')
    """
    tree: _Tree = {}
    origins = dict.fromkeys(keys_of(), "default")
    given = [] if file is None else [(str(file), key, value) for key, value in _flat(_load(file), str(file)).items()]
    for origin, key, value in [*given, *(("--set", *_setting(text)) for text in settings)]:
        origins[_option_of(key, origin)] = origin
        _put(tree, key, value)
    try:
        options = TypeAdapter(TrainOptions).validate_python(tree)
    except ValidationError as error:
        raise _explained(error, origins) from error
    return TrainConfig(options=options, origins=origins)


def _load(file: Path) -> _Tree:
    content = read_yaml(file, "the configuration", alike=plain_key)
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{file}: should hold lines like 'loss: dice', not a {type(content).__name__}")
    return content or {}


def _sections() -> frozenset[str]:
    return frozenset(key.rpartition(".")[0] for key in keys_of()) - {""}


def _flat(tree: Mapping[Any, Any], origin: str, prefix: str = "") -> _Tree:
    """Values by dotted key; what lies below a key that is no section is its value."""
    found: _Tree = {}
    for name, value in tree.items():
        key = f"{prefix}{name}".replace("-", "_")
        if key not in _sections():
            found[key] = value
        elif isinstance(value, dict):
            found |= _flat(value, origin, f"{key}.")
        elif value is not None:
            raise ConfigError(f"{origin}: {key} is a section: write keys below it, not {value!r}")
    return found


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write key=value, like fit.epochs=20")
    try:
        return key.strip().replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not YAML ({' '.join(str(error).split())})") from error


def _option_of(key: str, origin: str) -> str:
    """The option that a key sets: its own, or the mapping of which it sets one entry.

    Raises:
        ConfigError: There is none.
    """
    known = keys_of()
    above = key.rpartition(".")[0]
    if key in known or above in _MAPPINGS:
        return key if key in known else above
    if key in _sections():
        raise ConfigError(f"{origin}: {key} is a section: name a key in it, like {_first_in(key)}")
    ends = {each.rpartition(".")[2]: each for each in known}  # `epochs` means `fit.epochs`
    close = get_close_matches(key, known, n=1) or get_close_matches(key.rpartition(".")[2], ends, n=1)
    meant = f"; did you mean {ends.get(close[0], close[0])}?" if close else ""
    raise ConfigError(f"{origin}: {key}: no such option{meant}")


def _put(tree: _Tree, key: str, value: Any) -> None:
    """Sets a dotted key; an entry of a mapping that nobody gave is added to the default ones."""
    *sections, name = key.split(".")
    if (mapping := ".".join(sections)) in _MAPPINGS:
        *above, last = sections
        section = _section(tree, above).setdefault(last, dict(_MAPPINGS[mapping]))
        if not isinstance(section, dict):
            raise ConfigError(f"{mapping} is {section!r}, which has no {name}: it should hold lines like 'key: value'")
        section[name] = value
    else:
        _section(tree, sections)[name] = value


def _section(tree: _Tree, names: Sequence[str]) -> _Tree:
    for name in names:
        tree = tree.setdefault(name, {})
    return tree


def _first_in(section: str) -> str:
    return next(key for key in keys_of() if key.startswith(f"{section}."))


_WORDS = {
    "int": "should be a whole number",
    "float": "should be a number",
    "bool": "should be true or false",
    "string": "should be text",
    "tuple": "should be a list",
    "dict": "should hold lines like 'key: value'",
    "mapping": "should hold lines like 'key: value'",
}


def _explained(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    problems = error.errors(include_url=False)
    first = problems[0]
    if first["type"] == "value_error":  # raised by the options themselves, which name their key
        return ConfigError(str(first["msg"]).removeprefix("Value error, "))
    parts = [str(part) for part in first["loc"]]
    key = next(".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in origins)
    ways = [
        _what(each) for each in problems if [str(part) for part in each["loc"]][: key.count(".") + 1] == key.split(".")
    ]
    told = " or ".join(dict.fromkeys(ways))
    return ConfigError(f"{origins[key]}: {key} {told}, not {first['input']!r}")


def _what(problem: Mapping[str, Any]) -> str:
    kind = str(problem["type"]).partition("_")[0]
    return _WORDS.get(kind, str(problem["msg"]).removeprefix("Input ")).replace("'", "")


def _shown(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str = "", indent: str = "") -> str:
    lines = []
    for name, value in tree.items():
        key = prefix + name
        if key in _sections():
            lines.append(f"{indent}{name}:\n{_shown(value, origins, f'{key}.', f'{indent}  ')}")
            continue
        origin = f"  # {origins[key]}" if key in origins else ""
        lines.append(f"{indent}{name}: {_line(value)}{origin}\n")
    return "".join(lines)


def _line(value: Any) -> str:
    text = yaml.safe_dump(plain(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
