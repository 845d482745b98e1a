"""The file of a pipeline: variables, and named steps of which each does one thing with what earlier ones made.

::

    variables:
      scene: null            # has to be given
      tile: 512              # may be given
    steps:
      cover:
        segment:
          inputs: ${scene}
          tile: ${tile}
      fields:
        vectorize:
          inputs: ${cover.labels}
          simplify: 20

``${name}`` is a variable, ``${step.output}`` the place of what an earlier step makes. A value that is nothing but a
variable keeps its type. Everything that can be wrong with the file alone is found when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from geoseg.errors import ConfigError
from geoseg.resolved import meant
from geoseg.yaml_file import read_yaml

__all__ = ["VERBS", "Step", "Workflow", "read_workflow"]

VERBS: Final = ("search", "segment", "change", "vectorize", "evaluate", "publish")
"""What a step can do."""

_NAME: Final = re.compile(r"[A-Za-z][\w-]*")
_REFERENCE: Final = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, with the values of variables in its options."""

    name: str
    """Also the name of its folder."""
    verb: str
    """One of `VERBS`."""
    options: Mapping[str, Any]
    """As JSON and YAML values; references to other steps stand in them."""
    origin: str
    """What messages call it: file and step."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps that it refers to, each once."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in _references(self.options)))

    def filled(self, outputs: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """The options with the places of what earlier steps make, by step and output.

        Raises:
            ConfigError: A step makes no such output.
        """

        def place(reference: str) -> str:
            name, _, output = reference.partition(".")
            if output not in outputs[name]:
                there = ", ".join(outputs[name])
                raise ConfigError(f"{self.origin}: ${{{reference}}}: {name} has no {output}; it has {there}")
            return outputs[name][output]

        filled: dict[str, Any] = _replaced(dict(self.options), place)
        return filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A pipeline as its file has it."""

    path: Path
    """The file."""
    variables: Mapping[str, Any]
    """Values by name."""
    steps: tuple[Step, ...]
    """In the order of the file, which is that of the work."""


def read_workflow(path: Path, given: Mapping[str, str]) -> Workflow:
    """The pipeline in a file, with the values of its variables.

    Args:
        path: YAML with the keys ``variables`` and ``steps``.
        given: Values by name, as typed, in place of those in the file; one that begins with ``[`` is a list in YAML.

    Raises:
        ConfigError: The file cannot be read; a key, variable, verb, name or reference in it is wrong, or a variable has
            no value. Names file, step and place.
    """
    content = _loaded(path)
    unknown = next((str(key) for key in content if key not in {"variables", "steps"}), None)
    if unknown is not None:
        hint = meant(unknown, ("variables", "steps"))
        raise ConfigError(f"{path}: {unknown}: no such key{hint}; a pipeline has variables and steps")
    variables = _variables(path, content.get("variables"), given)
    steps = tuple(_step(path, name, body, variables) for name, body in _bodies(path, content.get("steps")))
    _demand_order(path, steps)
    return Workflow(path=path, variables=variables, steps=steps)


def _loaded(path: Path) -> Mapping[Any, Any]:
    hint = "; between brackets ${...} needs quotes around it"
    content = read_yaml(path, "the pipeline", hint=hint)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is no pipeline: it needs a key steps, with named steps below it")
    return content


def _variables(path: Path, declared: Any, given: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(declared or {}, dict):
        raise ConfigError(f"{path}: variables: should be lines like 'tile: 512'")
    values: dict[str, Any] = {str(name): value for name, value in (declared or {}).items()}
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: variables: {name}: a name is a letter, then letters, digits, - and _")
        if any(_references(value)):
            raise ConfigError(f"{path}: variables: {name}: a default refers to nothing; write the value itself")
    for name, text in given.items():
        if name not in values:
            there = f"there are {', '.join(values)}" if values else "the file declares none"
            raise ConfigError(f"{path}: --set {name}: no such variable{meant(name, values)}; {there}")
        values[name] = _typed(path, name, text)
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ConfigError(f"{path}: variable {missing[0]} has no value; add --set {missing[0]}=VALUE")
    return values


def _typed(path: Path, name: str, text: str) -> Any:
    """A value as typed: text, which options read as they read that of a command line, or a list."""
    if not text.startswith("["):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: --set {name}={text}: is no list; write [A, B]") from error


def _bodies(path: Path, steps: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Name and content of each step, of a mapping by name or of a list in which each has a key ``name``."""
    if isinstance(steps, dict):
        named = list(steps.items())
    elif isinstance(steps, list) and all(isinstance(each, dict) and "name" in each for each in steps):
        named = [(each["name"], {key: value for key, value in each.items() if key != "name"}) for each in steps]
    else:
        raise ConfigError(f"{path}: steps: should be steps by name, or a list in which each has a name")
    if not named:
        raise ConfigError(f"{path}: steps: there is none; a step is a name and below it one of {', '.join(VERBS)}")
    seen: set[str] = set()
    for name, body in named:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: step {name}: a name is a letter, then letters, digits, - and _")
        if name in seen:
            raise ConfigError(f"{path}: step {name}: stands there twice; give each its own name")
        seen.add(name)
        if not isinstance(body, dict) or len(body) != 1:
            found = ", ".join(map(str, body)) if isinstance(body, dict) and body else "none"
            raise ConfigError(f"{path}: step {name}: does one of {', '.join(VERBS)}, not {found}")
        yield name, body


def _step(path: Path, name: str, body: Mapping[Any, Any], variables: Mapping[str, Any]) -> Step:
    verb, options = next(iter(body.items()))
    origin = f"{path}: step {name}"
    if verb not in VERBS:
        raise ConfigError(f"{origin}: {verb}: no such verb{meant(str(verb), VERBS)}; there are {', '.join(VERBS)}")
    if name in variables:
        raise ConfigError(f"{origin}: is also the name of a variable; give one of them another")
    if not isinstance(options or {}, dict):
        raise ConfigError(f"{origin}: {verb}: should hold lines like 'tile: 512'")
    torn = next((text for text in _texts(options) if "${" in _REFERENCE.sub("", text)), None)
    if torn is not None:
        raise ConfigError(f"{origin}: {torn}: a reference is ${{NAME}} or ${{STEP.OUTPUT}}; close it")

    def value(reference: str) -> Any:
        if "." in reference:
            return f"${{{reference}}}"
        if reference not in variables:
            there = f"there are {', '.join(variables)}" if variables else "the file declares none"
            hint = meant(reference, variables)
            raise ConfigError(f"{origin}: ${{{reference}}}: no such variable{hint}; {there}; a step's is ${{step.out}}")
        return variables[reference]

    return Step(name=name, verb=str(verb), options=_replaced(dict(options or {}), value), origin=origin)


def _demand_order(path: Path, steps: Sequence[Step]) -> None:
    """Refuses references to steps that are not there, or come later."""
    needs, done = {step.name: step.needs for step in steps}, set[str]()
    for step in steps:
        for name in step.needs:
            if name not in needs:
                raise ConfigError(
                    f"{step.origin}: refers to {name}: no such step{meant(name, needs)}; there are {', '.join(needs)}"
                )
            if name == step.name:
                raise ConfigError(f"{step.origin}: refers to itself; name the output of an earlier step")
            if step.name in _all_needs(name, needs):
                raise ConfigError(f"{path}: steps {step.name} and {name} wait for each other; take one reference out")
            if name not in done:
                raise ConfigError(f"{step.origin}: refers to {name}, which comes later; put {name} before {step.name}")
        done.add(step.name)


def _all_needs(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    """Steps that have to be done before one, whether they are there or not."""
    found, waiting = set[str](), [name]
    while waiting:
        new = set(needs.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def _references(value: Any) -> Iterator[str]:
    """What stands between ``${`` and ``}`` anywhere in a value."""
    for text in _texts(value):
        yield from _REFERENCE.findall(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _replaced(value: Any, found: Callable[[str], Any]) -> Any:
    """The value with every reference replaced; one that stands alone by what was found, as it is.

    >>> _replaced({"tile": "${tile}", "out": ["a-${tile}.tif"]}, {"tile": 512}.__getitem__)
    {'tile': 512, 'out': ['a-512.tif']}
    """
    if isinstance(value, dict):
        return {key: _replaced(each, found) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, found) for each in value]
    if not isinstance(value, str):
        return value
    alone = _REFERENCE.fullmatch(value)
    return found(alone[1]) if alone else _REFERENCE.sub(lambda match: str(found(match[1])), value)
