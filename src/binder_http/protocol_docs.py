"""A declared API, described for people: Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from binder_core.protocol import (
    Endpoint,
    ErrorCase,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Shape,
    kebab_name,
    python_name,
)


def markdown(protocol: Protocol) -> str:
    """Return a description of all groups and of what can go wrong everywhere."""
    lines: list[str] = []
    for group in protocol.groups:
        lines += [f"## {group.name}", ""]
        for endpoint in group.endpoints:
            lines += _endpoint(group, endpoint)
    if protocol.errors:
        lines += ["## Every request", "", *_errors(protocol.errors)]
    return "\n".join(lines).rstrip() + "\n"


def shape_text(shape: Shape | None) -> str:
    """Return what an answer looks like, on one line."""
    match shape:
        case None:
            return "whatever the server answers"
        case Kind():
            return str(shape)
        case Maybe(kind):
            return f"{kind} or null"
        case Items(of):
            return f"[{shape_text(of)}]"
        case Fields(fields):
            return "{" + ", ".join(f"{name}: {shape_text(each)}" for name, each in fields) + "}"


def _endpoint(group: Group, endpoint: Endpoint) -> Iterator[str]:
    required = [param for param in endpoint.params if param.required]
    others = [param for param in endpoint.params if not param.required]
    words = [kebab_name(param.name).upper() for param in required]
    words += [f"[{kebab_name(param.name).upper()}]" for param in others]
    command = " ".join(["binder", kebab_name(group.name), kebab_name(endpoint.name), *words])
    arguments = [f"{python_name(param.name)}=…" for param in required]
    call = f"client.{python_name(group.name)}.{python_name(endpoint.name)}({', '.join(arguments)})"
    yield f"### {group.name}.{endpoint.name}"
    yield ""
    yield f"{endpoint.description}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    key = ", with an API key" if endpoint.request.authorized else ""
    yield f"| request | `{endpoint.request.method} {endpoint.path}`{key} |"
    yield f"| command | `{command}` |"
    yield f"| Python | `{call}` |"
    answer = shape_text(endpoint.response.body)
    yield f"| answer | {endpoint.response.success.status}, `{answer}` |"
    yield ""
    if endpoint.params:
        yield "| parameter | in | type | |"
        yield "|---|---|---|---|"
        for param in endpoint.params:
            kind = str(param.type) if param.required else f"{param.type}, optional"
            where, told = _where(endpoint, param), _cell(param.description)
            yield f"| `{param.name}` | {where} | {kind} | {told} |"
        yield ""
    if endpoint.response.errors:
        yield from _errors(endpoint.response.errors)


def _where(endpoint: Endpoint, param: Param) -> str:
    if param.name in endpoint.request.body:
        return "body"
    return "query" if param in endpoint.query else "path"


def _errors(errors: tuple[ErrorCase, ...]) -> Iterator[str]:
    yield "| error | status | message | possible fixes |"
    yield "|---|---|---|---|"
    for case in errors:
        status = "told by the client" if case.status is None else str(case.status)
        fixes = "; ".join(case.suggestions)
        yield f"| `{case.name}` | {status} | {_cell(case.msg)} | {_cell(fixes)} |"
    yield ""


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())
