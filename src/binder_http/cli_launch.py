"""``binder launch``: one repository, here or on a server.

Here means: an engine in this very process, which ends, with all it started, when the command does.
"""

from __future__ import annotations

import html
import os
import signal
import tempfile
import webbrowser
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import click

from binder_core.errors import BinderError
from binder_core.events import Event, Failed, Ready
from binder_core.providers import defaults
from binder_core.providers.directory import PREFIX, Directory
from binder_http.cli_display import Display, make_display
from binder_http.cli_target import Target, folder_spec, read_target
from binder_http.cli_text import address

READY: Final = 0
FAILED: Final = 1

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BEAT: Final = 0.12
_SIGNALLED: Final = 128
"""Added to a signal's number it is the exit status of what the signal ended, as in a shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What both kinds of launch are told."""

    build_only: bool = False
    as_json: bool = False
    open_browser: bool = False


@dataclass(slots=True)
class _Course:
    """How a launch goes, and what a signal changes in that."""

    display: Display
    options: Options
    path: str
    work: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled by the first signal: build, launch, and the notebook's life."""
    tidying: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled by the second one: the wait for builds to stop."""
    ended: bool = False
    status: int = FAILED
    error: BinderError | OSError | None = None
    pages: list[Path] = field(default_factory=list)

    async def follow(self, events: AsyncGenerator[Event, None]) -> bool:
        """Show the events; return whether the end was a good one."""
        async with aclosing(events):
            async for event in events:
                self.display.tell(event)
                if isinstance(event, Ready):
                    self.status, self.ended = READY, True
                    await self._open(event)
                elif isinstance(event, Failed):
                    self.ended = True
        if not self.ended:
            self.display.note("The server says that this request has ended before.")
        return self.status == READY

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep an error for later: no task group shall wrap it."""
        try:
            yield
        except (BinderError, OSError) as error:
            self.error = self.error or error

    async def beat(self) -> None:
        """Keep the display up to date where nothing happens."""
        while self.error is None:
            await anyio.sleep(_BEAT)
            with self.guarded():
                self.display.tick()
        # Nobody can see it any more.
        self.work.cancel()

    async def watch(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Do what signals ask for."""
        async for number in signals:
            if self.work.cancel_called:
                self.tidying.cancel()
            else:
                self.work.cancel()
                if not self.ended:
                    self.status = _SIGNALLED + number

    async def _open(self, ready: Ready) -> None:
        if not self.options.open_browser:
            return
        url = address(ready, self.path)
        if urlsplit(url).scheme not in {"http", "https"}:
            self.display.note("There is no address to open.")
            return
        page = _redirect(url)
        self.pages.append(page)
        if not await anyio.to_thread.run_sync(webbrowser.open, page.as_uri()):
            self.display.note("No browser was found: open the address above by hand.")


_Story = Callable[[_Course], Awaitable[None]]


def launch_there(text: str, options: Options, *, server: str, token: str | None) -> int:
    """Launch on a server, show how it goes and return the exit status.

    Raises:
        click.UsageError: What was typed means nothing.
        BinderError: The server is not there, or answers with something else.
    """
    from binder_http.client import Client  # noqa: PLC0415 - not where one launches here

    target = read_target(text, defaults(), ours=False)
    if target.folder is not None:
        raise click.UsageError(
            "A folder of this machine can only be launched here, without --server."
        )

    async def story(course: _Course) -> None:
        def lost(reason: str, delay: float) -> None:
            course.display.note(f"Connection lost ({reason}); next try in {delay:.0f} s.")

        async with Client(server, token=token, on_trouble=lost) as client:
            with course.work, course.guarded():
                await course.follow(client.launch(target.spec, build_only=options.build_only))

    return _run(story, options, target.path)


def launch_here(
    text: str, options: Options, *, config_file: str | None, flags: dict[str, Any]
) -> int:
    """Launch in this process, keep the notebook until a signal comes, return the exit status.

    Raises:
        click.UsageError: What was typed means nothing.
        BinderError: The configuration is wrong, or a backend is not there.
    """
    from binder_http.assembly import make_providers, open_binder  # noqa: PLC0415 - as above
    from binder_http.config import load  # noqa: PLC0415 - as above

    config = load(config_file, flags=flags)
    target = read_target(text, make_providers(config), ours=True)
    if target.folder is not None:
        allowed = "allow_directories"
        if allowed in type(config.builder.settings).__struct_fields__:
            flags = flags | {f"builder.{config.builder.kind}.{allowed}": True}
            config = load(config_file, flags=flags)
        target = Target(folder_spec(target.folder))
    if config.local:
        click.echo("The code of this repository runs as you: launch what you trust.", err=True)

    async def story(course: _Course) -> None:
        async with open_binder(config, providers={PREFIX: Directory()}) as binder:
            try:
                with course.work, course.guarded():
                    events = binder.launch(target.spec, build_only=options.build_only)
                    if await course.follow(events) and not options.build_only:
                        course.display.note("Ctrl-C ends the notebook server.")
                        await anyio.sleep_forever()
            finally:
                # Nobody is left to whom a build would be of use; usually there is none.
                with course.tidying:
                    await binder.stop_builds()
                for page in course.pages:
                    page.unlink(missing_ok=True)

    return _run(story, options, target.path)


def _run(story: _Story, options: Options, path: str) -> int:
    display = make_display(as_json=options.as_json, path=path)
    course = anyio.run(_conduct, story, display, options, path)
    if course.error is not None:
        raise course.error
    return course.status


async def _conduct(story: _Story, display: Display, options: Options, path: str) -> _Course:
    course = _Course(display, options, path)
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(course.watch, signals)
            group.start_soon(course.beat)
            with course.guarded(), display:
                await story(course)
            group.cancel_scope.cancel()
    return course


def _redirect(url: str) -> Path:
    """Return a page that leads to `url`, readable for this user alone.

    The address holds the notebook's token: as an argument of the browser everybody on this machine
    could read it.
    """
    descriptor, name = tempfile.mkstemp(prefix="binder-", suffix=".html")
    with os.fdopen(descriptor, "w", encoding="utf-8") as page:
        leads = html.escape(url)
        page.write(
            '<!doctype html><meta charset="utf-8"><title>Opening the notebook</title>'
            f'<meta http-equiv="refresh" content="0; url={leads}"><a href="{leads}">Notebook</a>\n'
        )
    return Path(name)
