"""``python -m binder_backends.runner``: performs one build; its log goes to standard output."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec
import psutil

from binder_backends.runner.local import local
from binder_backends.runner.options import CommandRecipe, LocalRecipe, RunnerOptions
from binder_backends.runner.performing import Performer
from binder_backends.runner.pipeline import Pipeline
from binder_backends.runner.processes import become_subreaper
from binder_backends.runner.recipes import Recipe, repo2docker
from binder_backends.runner.text import Redactor


def main(arguments: list[str] | None = None) -> int:
    """Perform the build that the arguments name.

    Returns:
        The exit status: 0 if the image exists, 1 if the build failed.
    """
    options = read_options(arguments)
    # How this program was found is nothing to the programs that it runs.
    os.environ.pop("PYTHONPATH", None)
    if options.pid_file:
        write_pid_file(Path(options.pid_file))
    become_subreaper()
    redact = Redactor(
        (*options.secrets, *(os.environ.get(name, "") for name in options.secret_variables)),
        folder=options.recipe.folder if isinstance(options.recipe, LocalRecipe) else "",
    )
    performer = Performer(
        Pipeline(cap_bytes=options.log_cap_bytes),
        _write_all,
        redact,
        time_limit=options.time_limit,
        silence_limit=options.silence_limit,
        stop_file=options.stop_file,
    )
    performer.watch_signals()
    return 0 if performer.perform(_recipe(options)) else 1


def read_options(arguments: list[str] | None) -> RunnerOptions:
    """Return what the arguments say, or the JSON that they name."""
    parser = argparse.ArgumentParser(
        prog="python -m binder_backends.runner",
        description="Performs one build and writes its log, numbered JSON lines, to stdout.",
    )
    parser.add_argument("--options", metavar="FILE", help="all options as JSON; - is stdin")
    parser.add_argument("--time-limit", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--silence-limit", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--log-cap-bytes", type=int, default=8 * 2**20, metavar="BYTES")
    parser.add_argument(
        "--secret-variable",
        action="append",
        default=[],
        metavar="NAME",
        help="an environment variable whose value must not be told",
    )
    parser.add_argument("recipe", nargs="?", choices=["repo2docker"])
    parser.add_argument("argv", nargs="*", help="after --: the command of repo2docker")
    given = parser.parse_args(arguments)
    if (given.options is None) == (given.recipe is None):
        parser.error("expected either --options FILE or: repo2docker -- COMMAND …")
    if given.options is None:
        if not given.argv:
            parser.error("expected the command behind --")
        return RunnerOptions(
            CommandRecipe(tuple(given.argv)),
            time_limit=given.time_limit,
            silence_limit=given.silence_limit,
            log_cap_bytes=given.log_cap_bytes,
            secret_variables=tuple(given.secret_variable),
        )
    text = sys.stdin.buffer.read() if given.options == "-" else Path(given.options).read_bytes()
    return msgspec.json.decode(text, type=RunnerOptions)


def write_pid_file(path: Path) -> None:
    """Say which process this is: pids are used again, so with the time of its creation."""
    text = msgspec.json.encode({"pid": os.getpid(), "created": psutil.Process().create_time()})
    half = path.with_suffix(".half")
    half.write_bytes(text)
    half.replace(path)


def _recipe(options: RunnerOptions) -> Recipe:
    match options.recipe:
        case LocalRecipe() as recipe:
            return local(recipe)
        case CommandRecipe() as recipe:
            return repo2docker(recipe)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    # All is written and nobody is left: the lock shall be free at once.
    os._exit(main())
