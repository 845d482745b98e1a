"""Options on the command line, made from the fields of `RunConfig`, `ChangeConfig` or `VectorizeConfig`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from geoseg.config import RunConfig
from geoseg.polygon_config import PolygonConfig
from geoseg.resolved import key_of, resolve, show_config

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["EPILOG", "GroupedCommand", "GroupedOption", "debug_option", "json_option", "run_options"]

EPILOG = (
    "Every option can also stand in the environment (GEOSEG_TILE=512) or in a file (-c run.yaml, tile: 512); "
    "the command line wins over the environment, the environment over the file. --show-config shows what holds."
)
_GROUPS = ("Map", "Scene", "Model", "Run", "Result", "Polygons", "Messages")

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document to standard output.")
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Tracebacks and library messages.")


class GroupedOption(click.Option):
    """An option that stands under a heading of its command's help."""

    def __init__(self, *args: Any, group: str = "Messages", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help lists options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One section per group of options."""
        for group in _GROUPS:
            options = [
                option
                for option in self.get_params(ctx)
                if isinstance(option, click.Option) and getattr(option, "group", "Messages") == group
            ]
            records = [record for option in options if (record := option.get_help_record(ctx))]
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _metavar(field: FieldInfo, extra: dict[str, str]) -> str | None:
    if get_origin(field.annotation) is Literal:
        return "|".join(map(str, get_args(field.annotation)))
    return extra.get("metavar") or None


def _option(name: str, field: FieldInfo) -> GroupedOption:
    """The option of one field; values stay as typed, `resolve` reads them."""
    extra = field.json_schema_extra
    texts = {key: str(value) for key, value in extra.items()} if isinstance(extra, dict) else {}
    key = key_of(name, field)
    flag = f"--{key.replace('_', '-')}"
    declared = [text for text in (texts.get("short"), f"{flag}/{texts['off']}" if texts.get("off") else flag) if text]
    description = field.description or ""
    if field.annotation is bool:
        return GroupedOption([*declared, key], is_flag=True, default=None, help=description, group=texts["group"])
    if field.default and not isinstance(field.default, dict):
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        description += f" Default: {shown}."
    metavar = _metavar(field, texts)
    bare = {"is_flag": False, "flag_value": texts["bare"]} if texts.get("bare") else {}
    several = bool(texts.get("several"))
    return GroupedOption(
        [*declared, key], metavar=metavar, help=description, group=texts["group"], multiple=several, **bare
    )


def _given(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value not in (None, ())}


def run_options(
    kind: type[PolygonConfig] = RunConfig, *, metavar: str = "INPUT...", skip: tuple[str, ...] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Gives a command every option of `kind` but `skip`; the command is called with the resolved options."""
    names = {key_of(name, field) for name, field in kind.model_fields.items()}

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        def call(inputs: tuple[str, ...], config: Path | None, show: bool, **values: Any) -> int:
            own = {key: values.pop(key) for key in list(values) if key not in names}
            resolved = resolve(_given({"inputs": inputs, **values}), file=config, environ=os.environ, kind=kind)
            if show:
                click.echo(show_config(resolved), nl=False)
                return 0
            return command(resolved, **own)

        call.__doc__ = command.__doc__
        own = getattr(command, "__click_params__", [])
        call.__click_params__ = [*own, *reversed(_parameters(kind, metavar, skip))]  # type: ignore[attr-defined]
        return call

    return decorate


def _parameters(kind: type[PolygonConfig], inputs: str, skip: tuple[str, ...]) -> list[click.Parameter]:
    fields = {name: field for name, field in kind.model_fields.items() if name not in {"inputs", *skip}}
    file = click.Path(path_type=Path, dir_okay=False)
    shown = "Print every option and where it came from, and stop."
    return [
        click.Argument(["inputs"], nargs=-1, metavar=inputs),
        *(_option(name, field) for name, field in fields.items()),
        GroupedOption(["-c", "--config"], type=file, metavar="FILE.yaml", help="Options, one per line.", group="Run"),
        GroupedOption(["--show-config", "show"], is_flag=True, help=shown, group="Run"),
    ]
