"""Commands made from a declaration: ``binder build start …``, one for each endpoint.

Parameters stand in the order of the declaration, the required ones first. One that may be left out
has an option too, so that it can be given where another one is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from binder_core.protocol import (
    DeclarationError,
    Endpoint,
    Failure,
    Group,
    Kind,
    Param,
    Protocol,
    Value,
    dumps,
    fill,
    filled,
    kebab_name,
    loads,
    python_name,
    read_value,
)
from binder_http.cli_text import clean
from binder_http.protocol_text import as_json, as_text

Values: TypeAlias = dict[str, Value | None]

_FAILED: Final = 1

_OPTIONS: Final = frozenset({"host", "port", "api-key", "timeout", "json", "help"})
"""What no parameter can have as an option."""

_VARIABLES: Final = {"host": "BINDER_HOST", "port": "BINDER_PORT", "api-key": "BINDER_API_KEY"}


def read(path: str) -> Protocol:
    """Return the declaration that a JSON file holds.

    Raises:
        click.UsageError: It holds none.
    """
    try:
        return loads(Path(path).read_bytes())
    except OSError as error:
        raise click.UsageError(f"{clean(path)}: {error.strerror}") from None
    except DeclarationError as error:
        raise click.UsageError(f"{clean(path)}: {_line(str(error))}") from None


def group_of(protocol: Protocol, name: str) -> click.Group | None:
    """Return the commands of a group, if there is one of that name.

    Args:
        protocol: The API.
        name: The group's, as a word of a command line.
    """
    for group in protocol.groups:
        if kebab_name(group.name) == name:
            told = ", ".join(kebab_name(endpoint.name) for endpoint in group.endpoints)
            made = click.Group(name, help=f"Ask a server: {told}.")
            for endpoint in group.endpoints:
                made.add_command(_command(protocol, group, endpoint))
            return made
    return None


def names_of(protocol: Protocol) -> list[str]:
    """Return the names of the groups as words of a command line."""
    return [kebab_name(group.name) for group in protocol.groups]


def exported(protocol: Protocol, form: str) -> str:
    """Return a declaration as a document.

    Args:
        protocol: The API.
        form: ``json``, ``openapi`` or ``markdown``.
    """
    match form:
        case "openapi":
            from binder_http.protocol_openapi import openapi  # noqa: PLC0415 - needs apispec

            return as_json(openapi(protocol))
        case "markdown":
            from binder_http.protocol_docs import markdown  # noqa: PLC0415 - as above: rarely used

            return markdown(protocol)
        case _:
            return dumps(protocol).decode()


def _command(protocol: Protocol, group: Group, endpoint: Endpoint) -> click.Command:
    def run(**given: Any) -> None:
        values = _values(endpoint, given)
        try:
            fill(protocol, endpoint, values)
        except Failure as error:
            raise click.UsageError(_line(error.message)) from None
        if hasattr(sys.stdout, "reconfigure"):
            # An answer may hold what this terminal's encoding has no character for.
            sys.stdout.reconfigure(errors="replace")
        shown: dict[str, object] = {
            name: _line(as_text(value)) for name, value in values.items() if value is not None
        }
        if not given["json"] and endpoint.msg:
            click.echo(_line(filled(endpoint.msg, shown)))
        try:
            result = _ask(protocol, group, endpoint, values, given)
        except Failure as error:
            _complain(error)
            sys.exit(_FAILED)
        if given["json"]:
            click.echo(as_json(result))
        else:
            # The results have lines of their own, and are clean.
            lines = endpoint.response.success.msg.split("\n")
            msg = "\n".join(clean(line) for line in lines)
            click.echo(filled(msg, {**shown, "results": as_text(result)}).rstrip())

    required = [param for param in endpoint.params if param.required]
    others = [param for param in endpoint.params if not param.required]
    ordered: list[click.Parameter] = [_argument(param) for param in required + others]
    ordered += [_option(param) for param in others if kebab_name(param.name) not in _OPTIONS]
    ordered += _global_options(protocol, endpoint)
    return click.Command(
        kebab_name(endpoint.name), callback=run, params=ordered, help=_help(endpoint)
    )


def _reader(declared: Param) -> Callable[..., Value | None]:
    """Return what makes a value of a text, by the rules of the wire."""

    def read_text(ctx: click.Context, param: click.Parameter, text: str | None) -> Value | None:
        try:
            return None if text is None else read_value(declared, text)
        except ValueError as error:
            raise click.BadParameter(clean(str(error)), ctx, param) from None

    return read_text


def _argument(param: Param) -> click.Argument:
    # The prefix keeps it apart from the option of that name, and from the global ones.
    return click.Argument(
        [f"argument_{python_name(param.name)}"],
        metavar=kebab_name(param.name).upper()
        if param.required
        else f"[{kebab_name(param.name).upper()}]",
        required=param.required,
        type=str,
        callback=_reader(param),
    )


def _option(param: Param) -> click.Option:
    return click.Option(
        [f"--{kebab_name(param.name)}", f"option_{python_name(param.name)}"],
        type=str,
        callback=_reader(param),
        metavar=str(param.type).upper(),
        help=clean(param.description),
    )


def _global_options(protocol: Protocol, endpoint: Endpoint) -> list[click.Parameter]:
    told = {param.name: clean(param.description) for param in protocol.params}
    key = told.get("api-key") or "key that the server knows"
    return [
        click.Option(
            ["--host"],
            required=True,
            envvar=_VARIABLES["host"],
            show_envvar=True,
            help=told.get("host") or "name or address of the server",
        ),
        click.Option(
            ["--port"],
            type=click.IntRange(1, 65535),
            envvar=_VARIABLES["port"],
            show_envvar=True,
            help=(told.get("port") or "port of the server") + "; that of the URL, if host is one",
        ),
        click.Option(
            ["--api-key"],
            required=endpoint.request.authorized,
            envvar=_VARIABLES["api-key"],
            show_envvar=True,
            help=f"{key}; better by the variable: others can read arguments",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="how long to wait for the answer",
        ),
        click.Option(["--json"], is_flag=True, help="print the answer as JSON, and nothing else"),
    ]


def _help(endpoint: Endpoint) -> str:
    text = clean(endpoint.description or endpoint.name) + "."
    if endpoint.params:
        # \b keeps click from joining the lines.
        rows = "\n".join(
            f"  {kebab_name(param.name).upper()}: {_hint(param)}{clean(param.description)}"
            for param in endpoint.params
        )
        text += f"\n\n\b\n{rows}"
    return text + "\n\nExit status: 0 done, 1 the server said no or is not there, 2 wrong usage."


def _hint(param: Param) -> str:
    return "true or false: " if param.type is Kind.BOOLEAN else ""


def _values(endpoint: Endpoint, given: Mapping[str, Any]) -> Values:
    values: Values = {}
    for param in endpoint.params:
        name = python_name(param.name)
        argument, option = given[f"argument_{name}"], given.get(f"option_{name}")
        if argument is not None and option is not None:
            raise click.UsageError(f"{kebab_name(param.name)} is given twice.")
        values[param.name] = option if argument is None else argument
    return values


def _ask(
    protocol: Protocol, group: Group, endpoint: Endpoint, values: Values, given: Mapping[str, Any]
) -> Any:
    """Return the server's answer.

    Raises:
        Failure: There is none, or it is an error.
    """
    # Not at the top: httpx costs 100 ms, and --help has to come at once.
    from binder_http.protocol_calls import BlockingProtocolClient  # noqa: PLC0415

    where = {name: given[name] for name in ("host", "port", "api_key")}
    names = {python_name(name): value for name, value in values.items()}
    with BlockingProtocolClient(protocol, timeout=given["timeout"]) as client:
        return client.function(f"{group.name}.{endpoint.name}")(**names, **where)


def _complain(error: Failure) -> None:
    click.echo(f"Error: {_line(error.message)}", err=True)
    for suggestion in error.suggestions:
        click.echo(f"  - Possible fix: {_line(suggestion)}", err=True)


def _line(text: str) -> str:
    return clean(" ".join(text.split()))
