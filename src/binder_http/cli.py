"""The command ``binder``.

Everything but click is imported inside the commands: ``binder --help`` has to come at once.
"""

# ruff: noqa: PLC0415 - as the docstring says
from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

try:
    import click
except ModuleNotFoundError:
    # A base install has the script, but not what it needs.
    sys.exit(
        "The command `binder` needs more libraries. Try: pip install 'binderkit[server,local]'"
    )

_F = TypeVar("_F", bound=Callable[..., Any])

_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="binderkit", prog_name="binder")
def main() -> None:
    """Turn a link to a repository into a running notebook."""


class _Declared(click.Group):
    """Commands made from a declaration, once somebody wants to know them.

    Args:
        name: The group's, in the older Binder protocol.
        told: What ``binder --help`` says.
    """

    def __init__(self, name: str, told: str, **options: Any) -> None:
        super().__init__(name, help=told, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        made = self._made(ctx)
        return made.list_commands(ctx) if made else []

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command."""
        made = self._made(ctx)
        return made.get_command(ctx, cmd_name) if made else None

    def _made(self, _: click.Context) -> click.Group | None:
        from binder_core.protocol import BINDER
        from binder_http.cli_protocol import group_of

        return group_of(BINDER, self.name or "")


class _Api(_Declared):
    """Groups of commands made from a file: its name is the first argument."""

    def _made(self, ctx: click.Context) -> click.Group | None:
        from binder_http.cli_protocol import group_of, names_of, read

        if "file" not in ctx.params:  # --help without one
            return None
        protocol = read(ctx.params["file"])
        made = click.Group()
        for name in names_of(protocol):
            made.add_command(group_of(protocol, name) or click.Group(name))
        return made


# The groups of `binder_core.protocol.BINDER`; a test compares.
for _name, _told in (
    ("build", "Builds on a server of the older protocol."),
    ("registry", "Templates on a server of the older protocol."),
    ("deploy", "Launches on a server of the older protocol."),
    ("health", "The state of a server of the older protocol."),
):
    main.add_command(_Declared(_name, _told))
main.add_command(
    _Api(
        "api",
        "Ask a server whose API a JSON file declares.\n\n"
        "FILE has the form that `binder protocol` prints.",
        params=[click.Argument(["file"], is_eager=True)],
        subcommand_metavar="GROUP COMMAND [ARGS]...",
    )
)


@main.command()
@click.argument("file", required=False)
@click.option(
    "--as",
    "form",
    type=click.Choice(["json", "openapi", "markdown"]),
    default="json",
    show_default=True,
    help="What to print it as.",
)
def protocol(*, file: str | None, form: str) -> None:
    """Print the older protocol's declaration, or that of FILE, which is checked."""
    from binder_core.protocol import BINDER
    from binder_http.cli_protocol import exported, read

    with _errors():
        click.echo(exported(read(file) if file else BINDER, form), nl=False)


def _configured(command: _F) -> _F:
    """Add the options that choose a configuration."""
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting, e.g. limits.max_builds=2. Goes before file and environment.",
        ),
        click.option(
            "--launcher", metavar="KIND", help="What starts servers; see: binder plugins."
        ),
        click.option("--builder", metavar="KIND", help="What makes images; see: binder plugins."),
        click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A TOML file with settings.  [default: that which BINDER_CONFIG names]",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one.  [default: 8585]")
@click.option("--base-url", metavar="PATH", help="The path under which everything is served.")
@click.option("--token", envvar="BINDER_TOKEN", help="What each request needs.  [default: made up]")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings only.")
@_configured
def serve(
    *,
    host: str | None,
    port: int | None,
    base_url: str | None,
    token: str | None,
    quiet: bool,
    config_file: Path | None,
    builder: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
) -> None:
    """Run a server until Ctrl-C.

    Prints the address, with the token where one is needed. The local backend runs the code of
    whatever repository is asked for as this user.
    """
    flags = _flags(
        settings,
        {
            "server.host": host,
            "server.port": port,
            "server.base_url": base_url,
            "security.token": token,
            "builder.kind": builder,
            "launcher.kind": launcher,
        },
    )
    with _errors():
        # Hardly anything that is made from here until the server answers is garbage: the collector
        # would look at all of it a dozen times. `binder_http.server.serve` enables it again.
        gc.disable()
        try:
            import asyncio
            import logging

            from binder_http.config import load
            from binder_http.server import serve as run

            config = load(config_file, flags=flags)
            level = logging.WARNING if quiet else logging.INFO
            logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
            asyncio.run(run(config))
        finally:
            gc.enable()


@main.command()
@click.argument("what")
@click.option("--server", envvar="BINDER_SERVER", metavar="URL", help="Ask this server.")
@click.option(
    "--token", envvar="BINDER_TOKEN", help="What the server wants to see; better by BINDER_TOKEN."
)
@click.option("--build-only", is_flag=True, help="Build, do not launch.")
@click.option("--open", "open_browser", is_flag=True, help="Open the notebook in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON lines.")
@_configured
def launch(
    *,
    what: str,
    server: str | None,
    token: str | None,
    build_only: bool,
    open_browser: bool,
    as_json: bool,
    config_file: Path | None,
    builder: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
) -> None:
    """Launch a repository and show how it goes.

    WHAT is <provider>/<spec> (gh/user/repo/HEAD), a URL from the address bar, or a folder of this
    machine (./notebooks), which is built as it is on the disk.

    Without --server it is built and launched here, and the notebook lives until Ctrl-C. The local
    backend runs the repository's code as you.

    Exit status: 0 ready, 1 failed, 2 wrong usage.
    """
    flags = _flags(settings, {"builder.kind": builder, "launcher.kind": launcher})
    if server and (flags or config_file):
        raise click.UsageError("--server leaves no say in the configuration: that is the server's.")
    with _errors():
        from binder_http.cli_launch import Options, launch_here, launch_there

        if hasattr(sys.stdout, "reconfigure"):
            # A log may hold what this terminal's encoding has no character for.
            sys.stdout.reconfigure(errors="replace")
        options = Options(build_only=build_only, as_json=as_json, open_browser=open_browser)
        if server:
            status = launch_there(what, options, server=server, token=token)
        else:
            path = str(config_file) if config_file else None
            status = launch_here(what, options, config_file=path, flags=flags)
    sys.exit(status)


@main.command()
def plugins() -> None:
    """List the installed plug-ins, and what they lack."""
    from binder_http.cli_plugins import table

    click.echo(table())


@main.command()
@_configured
def config(
    *,
    config_file: Path | None,
    builder: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
) -> None:
    """Print the configuration that counts, without its secrets, as TOML."""
    flags = _flags(settings, {"builder.kind": builder, "launcher.kind": launcher})
    with _errors():
        from binder_http.config import load, render

        click.echo(render(load(config_file, flags=flags)), nl=False)


def _asking(command: _F) -> _F:
    """Add the options that say which server is asked, by whom."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print what the server answers."),
        click.option(
            "--token", envvar="BINDER_TOKEN", help="The operator's token; better by BINDER_TOKEN."
        ),
        click.option(
            "--server", "--url", envvar="BINDER_SERVER", metavar="URL", help="Ask this server."
        ),
    ):
        command = option(command)
    return command


@main.group(invoke_without_command=True)
@_asking
@click.pass_context
def builds(ctx: click.Context, /, **given: Any) -> None:
    """List, read and stop the builds of a server. Without a command: list.

    They need the token that the server calls the operator's (security.operator_token), or the one
    that each request needs.

    Exit status: 0 done, 1 the server said no or is not there, 2 wrong usage.
    """
    ctx.obj = given
    if ctx.invoked_subcommand is None:
        _list_builds(given)


@builds.command("list")
@_asking
@click.pass_context
def list_builds(ctx: click.Context, /, **given: Any) -> None:
    """List builds, oldest first; ended ones for a while.

    Runs that other servers started are among them, where the builder knows. Builds that wait in
    another server's queue are known to that server only.
    """
    _list_builds(_both(ctx.obj, given))


@builds.command("log")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the build ends.")
@_asking
@click.pass_context
def log_of_build(ctx: click.Context, /, *, name: str, follow: bool, **given: Any) -> None:
    """Print the log of a build, which is under way or has ended not long ago.

    Exit status: 1 also where the build failed.
    """
    with _operating(_both(ctx.obj, given)) as (where, as_json):
        from binder_http import cli_builds

        status = cli_builds.show_log(*where, name, follow=follow, as_json=as_json)
    sys.exit(status)


@builds.command("stop")
@click.argument("name")
@click.option("--reason", default="", help="Told to all who watch.")
@_asking
@click.pass_context
def stop_build(ctx: click.Context, /, *, name: str, reason: str, **given: Any) -> None:
    """End a build, whichever server started it, and wait until it has ended."""
    with _operating(_both(ctx.obj, given)) as (where, as_json):
        from binder_http import cli_builds

        cli_builds.stop_build(*where, name, reason, as_json=as_json)


def _both(above: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return options that may stand before and behind the command's name."""
    return {name: value or above[name] for name, value in given.items()}


def _list_builds(given: dict[str, Any]) -> None:
    with _operating(given) as (where, as_json):
        from binder_http import cli_builds

        cli_builds.list_builds(*where, as_json=as_json)


@contextmanager
def _operating(given: dict[str, Any]) -> Iterator[tuple[tuple[str, str | None], bool]]:
    """Return which server is asked, with which token, and whether JSON is wanted."""
    if not given["server"]:
        raise click.UsageError("Which server? Give --server URL, or set BINDER_SERVER.")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    with _errors():
        yield (given["server"], given["token"]), given["as_json"]


@main.group()
def keys() -> None:
    """API keys of this server's older protocol."""


@keys.command("create")
@click.argument("name", default="")
@_configured
def create_key(name: str, **given: Any) -> None:
    """Make a key, and print it: it is told only this once.

    NAME is for people: whose key it is. A running server takes it at once.
    """
    from binder_http import cli_records

    _recorded(given, lambda store: cli_records.create_key(store, name))


@keys.command("list")
@_configured
def list_keys(**given: Any) -> None:
    """List all keys, without their secrets."""
    from binder_http import cli_records

    _recorded(given, cli_records.list_keys)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@_configured
def revoke_key(key_id: str, **given: Any) -> None:
    """Make a key good for nothing, from now on."""
    from binder_http import cli_records

    _recorded(given, lambda store: cli_records.revoke_key(store, key_id))


@main.group()
def db() -> None:
    """The database of records: builds, templates, deployments."""


@db.command()
@_configured
def upgrade(**given: Any) -> None:
    """Bring the tables up to date. A server does so by itself when it opens the database."""
    from binder_http import cli_records

    _recorded(given, cli_records.upgraded)


@db.command("remove-template")
@click.argument("name")
@_configured
def remove_template(name: str, **given: Any) -> None:
    """Forget a template: nothing can be launched from it any more."""
    from binder_http import cli_records

    _recorded(given, lambda store: cli_records.remove_template(store, name))


def _recorded(given: dict[str, Any], work: Callable[[Any], Any]) -> None:
    """Print what `work` says, done on the database of the configuration that was `given`."""
    named = {"builder.kind": given["builder"], "launcher.kind": given["launcher"]}
    flags = _flags(given["settings"], named)
    with _errors():
        from binder_http.cli_records import run
        from binder_http.config import load

        click.echo(run(load(given["config_file"], flags=flags), work))


def _flags(settings: tuple[str, ...], named: dict[str, Any]) -> dict[str, Any]:
    flags = {key: value for key, value in named.items() if value is not None}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"--set takes KEY=VALUE, not {setting!r}")
        flags[key.strip()] = value
    return flags


@contextmanager
def _errors() -> Iterator[None]:
    """Say our errors in words: 2 is wrong usage, configuration included, 1 everything else."""
    try:
        yield
    except ImportError as error:
        raise click.ClickException(
            f"A library is missing ({error}). Try: pip install 'binderkit[server,local]'"
        ) from error
    except Exception as error:
        from binder_core.errors import BinderError, ConfigError

        if isinstance(error, ConfigError):
            raise click.UsageError(str(error)) from error
        if isinstance(error, BinderError):
            raise click.ClickException(str(error)) from error
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise click.ClickException(str(error)) from error
        raise


if __name__ == "__main__":
    main()
