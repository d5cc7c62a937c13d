"""``binder builds``: what an operator sees of a server's builds, and does with them."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final
from urllib.parse import quote

import click
import httpx
import msgspec
from httpx_sse import EventSource

from binder_core import events
from binder_core.errors import BinderError
from binder_core.events import Event, Failed
from binder_http.cli_text import clean, lines, short_time
from binder_http.client import BlockingClient
from binder_http.remote import Remote

_TIMEOUT: Final = httpx.Timeout(20.0, read=75.0)
"""Servers send a heartbeat every 30 s at least."""
_STOP_TIMEOUT: Final = httpx.Timeout(20.0, read=300.0)
"""A build that is being stopped may take its time to end."""
_BODY_SHOWN: Final = 65536
_HEAD: Final = ("NAME", "REPOSITORY", "REF", "PHASE", "AGE", "WATCHERS", "PLACE", "RUN")
_SHORT_REF: Final = 12


def list_builds(server: str, token: str | None, *, as_json: bool) -> int:
    """Print the builds; return the exit status.

    Raises:
        BinderError: The server is not there, or does not let us.
    """
    remote = Remote(server, token)
    with _asked("GET", remote, remote.url("api/builds")) as answer:
        found = json.loads(answer.read())
    if as_json:
        click.echo(json.dumps(found))
        return 0
    rows = [_HEAD, *map(_row, found["builds"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    if not found["complete"]:
        click.echo(f"Builds that other servers started are not in it: {found['message']}", err=True)
    return 0


def show_log(server: str, token: str | None, name: str, *, follow: bool, as_json: bool) -> int:
    """Print the log of a build; return the exit status: 1 if it was seen to fail.

    Raises:
        BinderError: As `list_builds`, or there is no such build, or the connection broke.
    """
    last: Event | None = None
    overwritten = ""
    reading = _followed if follow else _so_far
    with closing(reading(server, token, name)) as told:
        for last in told:
            if as_json:
                click.echo(events.encode(last))
                continue
            done, overwritten = lines(last.message)
            for line in done:
                click.echo(line)
    if overwritten:
        click.echo(overwritten)
    return 1 if isinstance(last, Failed) else 0


def stop_build(server: str, token: str | None, name: str, reason: str, *, as_json: bool) -> int:
    """End a build; return the exit status.

    Raises:
        BinderError: As `list_builds`, or there is no such build under way.
    """
    path = f"api/builds/{quote(name, safe='')}?reason={quote(reason, safe='')}"
    remote = Remote(server, token)
    with _asked("DELETE", remote, remote.url(path), timeout=_STOP_TIMEOUT) as answer:
        told = json.loads(answer.read())
    click.echo(json.dumps(told) if as_json else f"{clean(told['name'])} has ended.")
    return 0


def _so_far(server: str, token: str | None, name: str) -> Generator[Event]:
    """Yield what there is of a log."""
    remote = Remote(server, token)
    url = remote.log_url(name, follow=False)
    with _asked("GET", remote, url, accept="text/event-stream") as answer:
        for sse in EventSource(answer).iter_sse():
            if sse.data:
                yield events.decode(sse.data.encode())


def _followed(server: str, token: str | None, name: str) -> Generator[Event]:
    """Yield a log to its end, over as many connections as that takes."""
    remote = Remote(server, token)
    with _asked("GET", remote, remote.url("api/builds")) as answer:
        builds = json.loads(answer.read())["builds"]
    # The newest of that name: the last one.
    image = next((build["image"] for build in reversed(builds) if build["name"] == name), "")

    def lost(reason: str, delay: float) -> None:
        click.echo(f"Connection lost ({reason}); next try in {delay:.0f} s.", err=True)

    with BlockingClient(server, token=token, on_trouble=lost) as client:
        yield from client.build_log(name, image=image)


@contextmanager
def _asked(
    method: str,
    remote: Remote,
    url: str,
    *,
    accept: str = "application/json",
    timeout: httpx.Timeout = _TIMEOUT,
) -> Iterator[httpx.Response]:
    """Return a good answer, not read yet.

    Raises:
        BinderError: There is none; it says why.
    """
    headers = {"accept": accept, **remote.headers}
    try:
        with (
            httpx.Client(trust_env=not remote.loopback, timeout=timeout) as client,
            client.stream(method, url, headers=headers) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                body = next(answer.iter_bytes(_BODY_SHOWN), b"")
                raise BinderError(remote.answer(answer, body), status=answer.status_code)
            answer.encoding = "utf-8"
            yield answer
    except httpx.HTTPError as error:
        raise BinderError(f"{remote.shown}: {remote.no_connection(error)}", status=503) from error
    except (msgspec.MsgspecError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BinderError(f"{remote.shown}: its answer is none of a Binder of ours") from error


def _row(build: Mapping[str, Any]) -> tuple[str, ...]:
    phase = build["phase"] or build["state"]
    if build["state"] in {"queued", "stopping"}:
        phase = build["state"]
    spoken = (
        build["name"],
        f"{build['provider']} {build['repo_url']}".strip() or "?",
        build["ref"][:_SHORT_REF],
        phase,
        "?" if build["age"] is None else short_time(build["age"]),
        "elsewhere" if build["elsewhere"] else str(build["watchers"]),
        str(build["place"] or "-"),
        build["run_id"] or "-",
    )
    return tuple(clean(cell) for cell in spoken)
