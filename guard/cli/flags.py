"""Commands whose flags are the fields of a request, so that name, type, default and help are written down once."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ..requests import Request
from .arguments import settings, weighted

DEBUG_FLAG = "--debug"
# Only shown in the help and accepted anywhere: `main` looks for the flag itself, because an error leaves the parser.
Debug = Annotated[bool, typer.Option(DEBUG_FLAG, help="Show tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Runtime = Annotated[
    str, typer.Option(help="What runs an .onnx file: auto, onnxruntime, onnxruntime-tensorrt, tensorrt or openvino.")
]
Model = Annotated[Path, typer.Argument(help="guard.onnx, guard.engine or a run folder.")]
NoExport = Annotated[bool, typer.Option("--no-export", help="Do not write guard.onnx into the run folder.")]

Command = Callable[..., None]
R = TypeVar("R", bound=Request)


def _as_it_is(given: Any) -> Any:
    return given


@dataclass(frozen=True)
class Flag:
    """How a field of a request is typed, where that does not follow from its type.

    Attributes:
        kind: what typer parses: str, Path, list[str] for a flag that is repeated ...
        convert: makes the field's value of it; not called for what was not typed.
        names: instead of ``--name-of-the-field``.
        positional: an argument, not an option.
        metavar, help: instead of the field's.
        beside: words for what else gives the field, such as a flag of the command's own.
    """

    kind: Any = str
    convert: Callable[[Any], Any] = _as_it_is
    names: tuple[str, ...] = ()
    positional: bool = False
    metavar: str | None = None
    help: str | None = None
    beside: str = ""


DATA = Flag(
    positional=True,
    metavar="DATA",
    help="Folder with one sub-folder per class, CSV of path,label, Parquet, Hugging Face data set id, or 'digits'.",
)
GUARD = Flag(Path, positional=True, metavar="MODEL", help="guard.onnx, guard.engine or a run folder.")
INPUT = {name: Flag() for name in ("image_size", "background", "fill")}  # texts, which the requests read
SET = ("--set",)  # of the options of a method, which are told what else the command takes
SPLIT = Flag()  # a count, a share or the name of a data set: the request tells them apart
OUTLIERS = Flag(
    list[str],
    weighted,
    metavar="WHAT[=WEIGHT]",
    help="Images that are not in-distribution, a store of guard synth, or a synthesiser (see: guard synthesisers). "
    "Repeatable; each step takes shares by weight.",
)
RUN_FOLDER = Flag(Path, help="Run folder; default runs/<time>-<what>.")


def settings_flag(flag: str) -> Flag:
    """``--set``, ``--score-set`` or ``--head-set``: NAME=VALUE, repeated; NAME may be a path, diffusion.epochs."""
    return Flag(list[str], partial(settings, flag=flag), names=(flag,), metavar="NAME=VALUE", help=None)


def from_request(
    request: type[R], without: tuple[str, ...] = (), /, **flags: Flag
) -> Callable[[Callable[..., None]], Command]:
    """Decorator: a command that builds a `request` of its flags and hands it on, before the parameters of its own.

    Args:
        without: fields that the command line does not offer.
        flags: how fields are typed whose type does not say it.
    """

    def decorate(run: Callable[..., None]) -> Command:
        _, *after = inspect.signature(run, eval_str=True).parameters.values()
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in after]
        fields = {n: request.model_fields[n] for n in _own_fields_first(request) if n not in without}
        offered = {n: flags[n] if n in flags else _flag(n, field) for n, field in fields.items()}

        beside = {n: _as_typed(n, flag) for n, flag in offered.items() if flag.names != SET}
        for n, flag in offered.items():
            if flag.names == SET:
                offered[n] = replace(flag, convert=partial(flag.convert, beside=beside))  # type: ignore[call-arg]

        def command(**typed: Any) -> None:
            rest = {p.name: typed.pop(p.name) for p in own}
            values = {n: offered[n].convert(given) for n, given in typed.items() if given is not None}
            with request.checked():
                asked = request(**values)
            run(asked, **rest)

        parameters = [*(_parameter(n, fields[n], flag) for n, flag in offered.items()), *own]
        command.__name__, command.__doc__, command.__module__ = run.__name__, run.__doc__, run.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _as_typed(name: str, flag: Flag) -> str:
    """How a field is given on the command line, in words."""
    if flag.positional:
        return f"the argument {flag.metavar or name.upper()}"
    way = flag.names[0] if flag.names else f"--{name.replace('_', '-')}"
    return f"{way} NAME=VALUE" if flag.metavar == "NAME=VALUE" else f"{way}{flag.beside}"


def call(function: Callable[..., Any], asked: Request, **instead: Any) -> Any:
    """A public function with what was asked, some of it replaced; method options become its keyword arguments."""
    values = {**dict(asked), **instead}
    return function(**values.pop("options", {}), **values)


def _own_fields_first(request: type[Request]) -> list[str]:
    """The fields of a request in the order of its help: those that it inherits last."""
    own = [name for name in request.__annotations__ if name in request.model_fields]
    return [*own, *(name for name in request.model_fields if name not in own)]


def _flag(name: str, field: FieldInfo) -> Flag:
    """What follows from the type of a field."""
    kind = field.annotation
    if kind is bool and field.default is True:
        return Flag(
            bool, lambda given: not given, names=(f"--no-{name.replace('_', '-')}",), help=f"Not: {field.description}"
        )
    if kind is bool:
        return Flag(bool, names=(f"--{name.replace('_', '-')}",))
    if get_origin(kind) is Literal:
        return Flag(str)
    members = set(get_args(kind)) - {type(None)} if get_origin(kind) in (Union, types.UnionType) else {kind}
    if len(members) == 1 and get_origin(next(iter(members))) is Literal:
        return Flag(str)
    if len(members) != 1 or not members <= {int, float, str, Path}:
        raise TypeError(f"the flag of {name} does not follow from {kind}; say how it is typed with a Flag")
    return Flag(members.pop())


def _parameter(name: str, field: FieldInfo, flag: Flag) -> inspect.Parameter:
    """A field as the parameter of a command, for typer."""
    required = field.is_required()
    plain = isinstance(field.default, int | float | str) and flag.kind is not bool
    switch = flag.kind is bool and isinstance(field.default, bool)
    default = inspect.Parameter.empty if required else field.default if plain else False if switch else None
    meaning = flag.help or field.description or ""
    if flag.kind == list[str] and "Repeatable" not in meaning:
        meaning = f"{meaning} Repeatable."
    words: dict[str, Any] = {"help": meaning, "metavar": flag.metavar}
    info = typer.Argument(**words) if flag.positional else typer.Option(*flag.names, **words)
    kind = flag.kind if required or plain or switch else flag.kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
